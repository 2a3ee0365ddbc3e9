//! Services that nobody asks any more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::time::Duration;

use wasi_runtime::{Artifact, Guest, Middleware, Network, Service};

use crate::PATIENCE;
use crate::fixture::{Fixture, Running, args, start};

/// When what nobody uses is looked after.
const HOUR: Duration = Duration::from_secs(3600);

/// It passes requests on.
const MIDDLEWARE: &str = r#"(module
    (import "http_handler" "log_enabled" (func (param i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "handle_request") (result i64) (i64.const 1))
    (func (export "handle_response") (param i32 i32)))"#;

/// One of each kind, and a client that has had an answer: what waits for another request are the listener, the connection, an
/// instance of those that are asked again, and a connection to an upstream.
pub(crate) fn asked(fixture: &Fixture) -> Vec<(Running, TcpStream)> {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        head(&mut stream);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).unwrap();
        // Until the service ends.
        drop(stream.read(&mut [0]));
    });
    let middleware = Middleware {
        host: address.ip().to_string(),
        port: address.port(),
        config: Vec::new(),
        buffer_bytes: 1,
    };
    [
        (fixture.real("handler.wasm"), None),
        (fixture.asynchronous("handler_p3.wasm"), None),
        (fixture.wat(MIDDLEWARE), Some(middleware)),
    ]
    .map(|(artifact, middleware)| serve(&artifact, middleware))
    .into()
}

fn serve(artifact: &Artifact, middleware: Option<Middleware>) -> (Running, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service {
        listener,
        workers: NonZeroUsize::new(2).unwrap(),
        requests: 8,
        connections: 8,
        header_bytes: 16 << 10,
        request_timeout: Some(HOUR),
        idle_timeout: HOUR,
        access_log: true,
        metrics: Some(TcpListener::bind("127.0.0.1:0").unwrap()),
        middleware,
        telemetry: None,
    };
    let guest = Guest {
        http: Some(service),
        network: Network::All,
        ..args(["service"])
    };
    let running = start(artifact, guest);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
        .write_all(b"GET /count HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    let answer = head(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    (running, client)
}

/// What comes until an empty line.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}
