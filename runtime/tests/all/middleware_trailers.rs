//! Trailers: those of a request and of an answer, as middleware sees and changes them and as they pass it by, and clients
//! that speak HTTP/2.

use std::convert::Infallible;
use std::sync::mpsc::channel;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::fixture::{Fixture, runtime};
use crate::http::{Client, PATIENCE};
use crate::middleware::{NEXT, module, run};
use crate::middleware_upstream::{Asked, Upstream};

/// The features `trailers` and `buffer_response`.
const ENABLE: &str = "(drop (call $enable (i32.const 6)))";

/// Ends the guest unless message part `kind` has `count` trailers, whose names are `length` bytes with their NULs, and
/// adds `x-name: value`.
fn change(kind: u32, count: u64, length: u64) -> String {
    let want = count << 32 | length;
    format!(
        "(if (i64.ne (call $names (i32.const {kind}) (i32.const 1024) (i32.const 100)) (i64.const {want}))
            (then (unreachable)))
        (call $set_header (i32.const {kind}) (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 5))"
    )
}

#[test]
fn trailers_of_a_request_are_changed_on_their_way() {
    let fixture = Fixture::new();
    let upstream = Upstream::new();
    // One, "x-sum".
    let request = format!("{} {NEXT}", change(2, 1, 6));
    let (address, running) = run(&fixture, &module(ENABLE, &request, ""), upstream.address());
    let mut client = Client::new(address);
    let mut writer = Asked(std::io::BufReader::new(
        client.0.get_ref().try_clone().unwrap(),
    ));
    writer.say(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n",
    );
    let mut asked = upstream.accept();
    let head = asked.head();
    assert!(head.contains("trailer: x-sum\r\n"), "{head}");
    // Who looks at trailers wants those of the answer.
    assert!(head.contains("te: trailers\r\n"), "{head}");
    asked.hears("4\r\nbody\r\n0\r\n");
    let trailers = asked.head();
    for trailer in ["x-sum: 1\r\n", "x-name: value\r\n"] {
        assert!(trailers.contains(trailer), "{trailers}");
    }
    asked.say("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(client.head(), (204, None));
    drop(running.kill());
}

#[test]
fn trailers_of_an_answer_are_changed_on_their_way() {
    let fixture = Fixture::new();
    let upstream = Upstream::new();
    let response = change(3, 1, 6);
    let (address, running) = run(
        &fixture,
        &module(ENABLE, NEXT, &response),
        upstream.address(),
    );
    let mut client = Asked(Client::new(address).0);
    client.say("GET / HTTP/1.1\r\nHost: test\r\nTE: trailers\r\n\r\n");
    let mut asked = upstream.accept();
    asked.head();
    asked.say(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
         4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n",
    );
    let head = client.head();
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    client.hears("4\r\nbody\r\n0\r\n");
    let trailers = client.head();
    for trailer in ["x-sum: 1\r\n", "x-name: value\r\n"] {
        assert!(trailers.contains(trailer), "{head}{trailers}");
    }
    drop(running.kill());
}

/// Without the feature there are none to look at, and to change them is a trap.
#[test]
fn trailers_are_a_feature() {
    let fixture = Fixture::new();
    let names =
        "(if (i64.ne (call $names (i32.const 2) (i32.const 1024) (i32.const 100)) (i64.const 0))
        (then (unreachable)))";
    let change =
        "(call $set_header (i32.const 2) (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 5))";
    let nobody = Upstream::new();
    for (request, status) in [(names.to_owned(), 200), (format!("{names} {change}"), 500)] {
        let request = format!("{request} (i64.const 0)");
        let (address, running) = run(&fixture, &module("", &request, ""), nobody.address());
        let mut client = Client::new(address);
        let mut writer = Asked(std::io::BufReader::new(
            client.0.get_ref().try_clone().unwrap(),
        ));
        writer.say(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
             4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n",
        );
        assert_eq!(client.head().0, status);
        let stderr = running.kill().stderr;
        let told = stderr.contains("cannot change trailers without the feature trailers");
        assert_eq!(told, status == 500, "{stderr}");
    }
}

/// The upstream speaks HTTP/1.1, and each piece comes when it is sent.
#[test]
fn a_client_of_http_2_streams_both_ways_with_trailers() {
    let fixture = Fixture::new();
    let upstream = Upstream::new();
    let (address, running) = run(&fixture, &module("", NEXT, ""), upstream.address());
    let (pieces, receiver) = tokio::sync::mpsc::unbounded_channel::<Frame<Bytes>>();
    let (sender, came) = channel();
    let client = std::thread::spawn(move || {
        runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let executor = TokioExecutor::new();
            let shaken =
                hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await;
            let (mut asking, connection) = shaken.unwrap();
            drop(tokio::spawn(connection));
            let body = futures_util::stream::unfold(receiver, |mut receiver| async {
                let piece = receiver.recv().await?;
                Some((Ok::<_, Infallible>(piece), receiver))
            });
            let request = Request::post(format!("http://{address}/path?query"));
            let request = request.header("trailer", "x-sum");
            let request = request.body(StreamBody::new(body.boxed())).unwrap();
            let response = asking.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["x-from"], "upstream");
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                sender.send(frame.unwrap()).unwrap();
            }
        });
    });
    let mut asked = upstream.accept();
    let head = asked.head();
    assert!(head.starts_with("POST /path?query HTTP/1.1\r\n"), "{head}");
    for header in [&format!("host: {address}\r\n"), "te: trailers\r\n"] {
        assert!(head.contains(header), "{head}");
    }
    pieces.send(Frame::data(Bytes::from("one"))).unwrap();
    asked.hears("3\r\none\r\n");
    asked.say(
        "HTTP/1.1 200 OK\r\nx-from: upstream\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n",
    );
    let frame = || came.recv_timeout(PATIENCE).unwrap();
    assert_eq!(frame().into_data().unwrap(), "two");
    let sum = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        http::HeaderValue::from_static("1"),
    )]);
    pieces.send(Frame::trailers(sum)).unwrap();
    drop(pieces);
    asked.hears("0\r\nx-sum: 1\r\n\r\n");
    asked.say("0\r\nx-sum: 2\r\n\r\n");
    assert_eq!(frame().into_trailers().unwrap()["x-sum"], "2");
    client.join().unwrap();
    drop(running.kill());
}
