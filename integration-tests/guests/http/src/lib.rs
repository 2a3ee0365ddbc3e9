//! Serves HTTP; the path says what it does:
//!
//! | path | |
//! |---|---|
//! | `/hello` | answers `hello`, and prints a line |
//! | `/echo` | answers with the body, piece by piece, and the trailer `x-pieces` |
//! | `/env?NAME`, `/file?PATH`, `/config?NAME` | the variable, the file, what `wasi:config/store` has |
//! | `/fetch?AUTHORITY` | the status that a GET there has |
//! | `/sleep?MS` | answers after that time |
//! | `/count` | how often this instance was asked before |
//! | `/trap`, `/exit`, `/silent`, `/spin`, `/grow` | gets no answer |
//! | `/half` | half an answer, and a trap |
//! | `/compute?N` | computes N million steps |

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:config;
            world config { import wasi:config/store@0.2.0-rc.1; }
            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                }
            }
        ",
        generate_all,
    });
}

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse,
    ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

use bindings::wasi::config::store;

struct Handler;

wasip2::http::proxy::export!(Handler);

thread_local! {
    static ASKED: Cell<u32> = const { Cell::new(0) };
}

impl Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let asked = ASKED.replace(ASKED.get() + 1);
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/hello" => {
                println!("asked for hello");
                answer(out, 200, "hello\n");
            }
            "/echo" => echo(request, out),
            "/count" => answer(out, 200, &asked.to_string()),
            "/env" => answer(out, 200, &std::env::var(query).unwrap_or_default()),
            "/file" => match std::fs::read_to_string(query) {
                Ok(text) => answer(out, 200, &text),
                Err(error) => answer(out, 404, &error.to_string()),
            },
            "/config" => answer(out, 200, &format!("{:?}", store::get(query))),
            "/fetch" => answer(out, 200, &format!("{:?}", fetch(query))),
            "/sleep" => {
                println!("sleeping");
                std::thread::sleep(Duration::from_millis(query.parse().expect("milliseconds")));
                answer(out, 200, "slept\n");
            }
            "/compute" => {
                let steps: u64 = query.parse().expect("a number");
                let sum = (0..steps * 1_000_000).fold(1_u64, |sum, step| {
                    black_box(sum.rotate_left(5) ^ step.wrapping_mul(sum))
                });
                answer(out, 200, &sum.to_string());
            }
            "/trap" => panic!("as it was asked to"),
            "/exit" => std::process::exit(3),
            "/silent" => drop(out),
            "/spin" => {
                println!("spinning");
                loop {
                    black_box(());
                }
            }
            "/grow" => {
                let mut all = Vec::new();
                loop {
                    all.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            "/half" => half(out),
            _ => answer(out, 404, "no such path\n"),
        }
    }
}

fn response(status: u16, headers: &[(&str, &str)]) -> OutgoingResponse {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).expect("a header");
    }
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("a status");
    response
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let response = response(status, &[("content-length", &text.len().to_string())]);
    let body = response.body().expect("its first body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("its first stream");
    for piece in text.as_bytes().chunks(4096) {
        if stream.blocking_write_and_flush(piece).is_err() {
            return;
        }
    }
    drop(stream);
    drop(OutgoingBody::finish(body, None));
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let response = response(200, &[("trailer", "x-pieces")]);
    let body = response.body().expect("its first body");
    ResponseOutparam::set(out, Ok(response));
    let incoming = request.consume().expect("its first body");
    let from = incoming.stream().expect("its first stream");
    let to = body.write().expect("its first stream");
    let mut pieces = 0_u32;
    loop {
        match from.blocking_read(4096) {
            Ok(piece) => to.blocking_write_and_flush(&piece).expect("a client that reads"),
            Err(StreamError::Closed) => break,
            Err(error) => panic!("the body breaks off: {error:?}"),
        }
        pieces += 1;
    }
    drop(to);
    let trailers = Fields::new();
    let pieces = pieces.to_string();
    trailers.append("x-pieces", pieces.as_bytes()).expect("a trailer");
    OutgoingBody::finish(body, Some(trailers)).expect("an end");
}

fn fetch(authority: &str) -> Result<u16, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some("/hello")).expect("a path");
    let sent = handle(request, None)?;
    sent.subscribe().block();
    let response = sent.get().expect("it is ready").expect("asked once")?;
    Ok(response.status())
}

fn half(out: ResponseOutparam) {
    let response = response(200, &[]);
    let body = response.body().expect("its first body");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("its first stream");
    stream.blocking_write_and_flush(b"half\n").expect("a client that reads");
    panic!("as it was asked to");
}
