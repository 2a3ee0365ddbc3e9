//! `fetch SCHEME AUTHORITY PATH`: sends an HTTP request, and prints the status and the response's body; or the
//! error code.

use guests_p3::say;
use wasip3::cli::environment::get_arguments;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};

wasip3::cli::command::export!(Fetch);

struct Fetch;

impl wasip3::exports::cli::run::Guest for Fetch {
    async fn run() -> Result<(), ()> {
        match fetch().await {
            Ok(answer) => say(&answer).await,
            Err(error) => {
                say(&format!("error: {error:?}")).await;
                return Err(());
            }
        }
        Ok(())
    }
}

async fn fetch() -> Result<String, ErrorCode> {
    let args = get_arguments();
    let scheme = match args[1].as_str() {
        "http" => Scheme::Http,
        _ => Scheme::Https,
    };
    let (trailers, no_trailers) = wasip3::wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers, None);
    request.set_scheme(Some(&scheme)).expect("a scheme");
    request.set_authority(Some(&args[2])).expect("an authority");
    request.set_path_with_query(Some(&args[3])).expect("a path");
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (fine, received) = wasip3::wit_future::new(|| Ok(()));
    drop(fine);
    let (body, trailers) = Response::consume_body(response, received);
    let body = body.collect().await;
    trailers.await?;
    Ok(format!("status {status}\n{}", String::from_utf8_lossy(&body)))
}
