//! `fetch SCHEME AUTHORITY PATH [BODY]`: sends an HTTP request, a POST if there is a body, and prints the status
//! and the response's body; or, on stderr, the error code.

use std::env::args;
use std::io::{Write, stdout};
use std::process::ExitCode;

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use wasip2::io::streams::StreamError;

fn main() -> ExitCode {
    match fetch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn fetch() -> Result<(), ErrorCode> {
    let args: Vec<String> = args().skip(1).collect();
    let scheme = match args[0].as_str() {
        "http" => Scheme::Http,
        _ => Scheme::Https,
    };
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).expect("a scheme");
    request.set_authority(Some(&args[1])).expect("an authority");
    request.set_path_with_query(Some(&args[2])).expect("a path");
    if args.len() > 3 {
        request.set_method(&Method::Post).expect("a method");
    }
    let body = request.body().expect("its first body");
    let sent = handle(request, None)?;
    if let Some(text) = args.get(3) {
        let stream = body.write().expect("its first stream");
        stream
            .blocking_write_and_flush(text.as_bytes())
            .expect("a short body");
    }
    OutgoingBody::finish(body, None)?;
    println!("sent");
    stdout().flush().expect("stdout");
    sent.subscribe().block();
    let response = sent.get().expect("it is ready").expect("asked once")?;
    println!("status {}", response.status());
    print(response)
}

fn print(response: IncomingResponse) -> Result<(), ErrorCode> {
    let body: IncomingBody = response.consume().expect("its first body");
    let stream = body.stream().expect("its first stream");
    loop {
        match stream.blocking_read(4096) {
            Ok(piece) => stdout().write_all(&piece).expect("stdout"),
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => {
                eprintln!("body: {}", error.to_debug_string());
                return Err(ErrorCode::HttpResponseIncomplete);
            }
        }
    }
}
