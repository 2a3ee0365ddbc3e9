//! Serves HTTP by WASI 0.3; the path says what it does:
//!
//! | path | |
//! |---|---|
//! | `/hello` | answers `hello`, and prints a line |
//! | `/echo` | answers with the body, piece by piece, and the trailer `x-pieces` |
//! | `/count` | how often this instance was asked before |
//! | `/about` | the scheme and the authority of the request |
//! | `/sleep?MS` | answers after that time |
//! | `/after` | answers, and prints a line 100 ms later |
//! | `/trap`, `/spin`, `/error` | gets no answer |
//! | `/half` | half an answer, and a trap |

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests_p3::say;
use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Trailers};
use wasip3::wit_bindgen::{StreamReader, StreamResult, spawn_local};
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Handler);

struct Handler;

const MILLISECOND: u64 = 1_000_000;

static ASKED: AtomicU32 = AtomicU32::new(0);

impl wasip3::exports::http::handler::Guest for Handler {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let asked = ASKED.fetch_add(1, Relaxed);
        let path = request.get_path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/hello" => {
                say("asked for hello").await;
                Ok(text("hello\n"))
            }
            "/echo" => Ok(echo(request)),
            "/count" => Ok(text(&asked.to_string())),
            "/about" => Ok(text(&format!(
                "{:?} {:?}",
                request.get_scheme(),
                request.get_authority()
            ))),
            "/sleep" => {
                say("sleeping").await;
                wait_for(query.parse::<u64>().expect("milliseconds") * MILLISECOND).await;
                Ok(text("slept\n"))
            }
            "/after" => {
                spawn_local(async {
                    wait_for(100 * MILLISECOND).await;
                    say("after").await;
                });
                Ok(text("before\n"))
            }
            "/trap" => panic!("as it was asked to"),
            "/spin" => {
                say("spinning").await;
                loop {
                    black_box(());
                }
            }
            "/error" => Err(ErrorCode::ConfigurationError),
            "/half" => Ok(half()),
            _ => Err(ErrorCode::HttpProtocolError),
        }
    }
}

type End = Result<Option<Trailers>, ErrorCode>;

/// A response with that body, which ends with what `end` comes to.
fn response(
    fields: &[(&str, &str)],
    body: StreamReader<u8>,
    end: impl Future<Output = End> + 'static,
) -> Response {
    let headers = Fields::new();
    for (name, value) in fields {
        headers.append(name, value.as_bytes()).expect("a header");
    }
    let (trailers, receiver) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(body), receiver);
    spawn_local(async move {
        let end = end.await;
        drop(trailers.write(end).await);
    });
    response
}

fn text(text: &str) -> Response {
    let (mut writer, body) = wit_stream::new();
    let text = text.as_bytes().to_vec();
    let length = text.len().to_string();
    response(&[("content-length", &length)], body, async move {
        writer.write_all(text).await;
        Ok(None)
    })
}

fn echo(request: Request) -> Response {
    let (fine, received) = wit_future::new(|| Ok(()));
    drop(fine);
    let (mut from, _trailers) = Request::consume_body(request, received);
    let (mut writer, body) = wit_stream::new();
    response(&[("trailer", "x-pieces")], body, async move {
        let mut pieces = 0_u32;
        loop {
            let (result, piece) = from.read(Vec::with_capacity(4096)).await;
            if !piece.is_empty() {
                pieces += 1;
                writer.write_all(piece).await;
            }
            if result == StreamResult::Dropped {
                break;
            }
        }
        let trailers = Fields::new();
        let pieces = pieces.to_string();
        trailers.append("x-pieces", pieces.as_bytes()).expect("a trailer");
        Ok(Some(trailers))
    })
}

fn half() -> Response {
    let (mut writer, body) = wit_stream::new();
    response(&[], body, async move {
        writer.write_all(b"half\n".to_vec()).await;
        panic!("as it was asked to")
    })
}
