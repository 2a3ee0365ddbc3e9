//! Components that serve HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use wasi_runtime::{Artifact, Budget, Error, Guest, Network, Outcome, Pool, Service};

use crate::fixture::{Fixture, Running, args, runtime, start};

/// Only a hang takes it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where, and a service there of this many threads.
pub(crate) fn service(workers: usize) -> (SocketAddr, Service) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service {
        listener,
        workers: NonZeroUsize::new(workers).unwrap(),
        requests: 64,
        connections: 64,
        header_bytes: 16 << 10,
        request_timeout: Some(PATIENCE),
        idle_timeout: PATIENCE,
        access_log: false,
        metrics: None,
        telemetry: None,
        middleware: None,
    };
    (address, service)
}

pub(crate) fn serve_with(fixture: &Fixture, service: Service, guest: Guest) -> Running {
    let handler = fixture.real("handler.wasm");
    let pool = Pool::new().unwrap();
    let pooled = fixture.open_cache().unwrap();
    let pooled = pooled.pooled(&pool, &handler, service.requests).unwrap();
    serve_this(&pooled.expect("room"), service, guest)
}

pub(crate) fn serve_this(artifact: &Artifact, service: Service, guest: Guest) -> Running {
    let guest = Guest {
        http: Some(service),
        network: Network::All,
        ..guest
    };
    start(artifact, guest)
}

pub(crate) fn serve(fixture: &Fixture, workers: usize) -> (SocketAddr, Running) {
    let (address, service) = service(workers);
    (address, serve_with(fixture, service, args(["handler"])))
}

/// A connection that speaks HTTP/1.1.
pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// The status and the body, which has a length.
    pub(crate) fn answer(&mut self) -> (u16, String) {
        let (status, length) = self.head();
        let mut body = vec![0; length.expect("a length")];
        self.0.read_exact(&mut body).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    pub(crate) fn head(&mut self) -> (u16, Option<usize>) {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).expect("a status").parse().unwrap();
        let mut length = None;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line == "\r\n" {
                return (status, length);
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = Some(value.trim().parse().unwrap());
            }
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> (u16, String) {
        self.ask(path);
        self.answer()
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    Client::new(address).get(path)
}

#[test]
fn each_request_has_an_instance_of_its_own() {
    let fixture = Fixture::new();
    let (address, running) = serve(&fixture, 1);
    let mut client = Client::new(address);
    assert_eq!(client.get("/hello"), (200, "hello\n".to_owned()));
    assert_eq!(running.line(), "asked for hello\n");
    for _ in 0..3 {
        assert_eq!(client.get("/count"), (200, "0".to_owned()));
    }
    running.interrupter.drain();
    let ran = running.end();
    assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
}

#[test]
fn a_handler_has_what_a_command_has() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "content").unwrap();
    let guest = Guest {
        env: vec![("NAME".to_owned(), "value".to_owned())],
        preopens: vec![wasi_runtime::Preopen {
            directory: std::fs::File::open(folder.path()).unwrap().into(),
            name: "/".to_owned(),
        }],
        config: vec![("key".to_owned(), "configured".to_owned())],
        ..args(["handler"])
    };
    let running = serve_with(&fixture, service, guest);
    assert_eq!(get(address, "/env?NAME").1, "value");
    assert_eq!(get(address, "/file?/file").1, "content");
    assert_eq!(get(address, "/config?key").1, "Ok(Some(\"configured\"))");
    let own = format!("/fetch?{address}");
    assert_eq!(get(address, &own).1, "Ok(200)");
    drop(running.kill());
}

#[test]
fn a_request_that_fails_costs_that_request() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let budget = Budget::default();
    budget.set_memory(Some(32 << 20));
    let guest = Guest {
        budget: budget.clone(),
        ..args(["handler"])
    };
    let running = serve_with(&fixture, service, guest);
    let mut client = Client::new(address);
    for path in ["/trap", "/exit", "/silent", "/grow"] {
        let (status, body) = client.get(path);
        assert_eq!(
            (status, body.as_str()),
            (500, "500 Internal Server Error\n")
        );
    }
    assert_eq!(client.get("/hello").0, 200);
    assert_eq!(budget.usage().memory_refusals(), 1);
    let ran = running.kill();
    let said = |text: &str| assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
    said("GET /trap: wasm trap: wasm `unreachable` instruction executed\n");
    said("GET /exit: the handler exited, with code 1, and did not return\n");
    said("GET /silent: the handler returned without an answer\n");
    said("GET /grow: the guest reached its memory limit of 33554432 bytes\n");
}

#[test]
fn requests_are_logged_and_counted_if_that_is_asked_for() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = metrics.local_addr().unwrap();
    service.access_log = true;
    service.metrics = Some(metrics);
    let running = serve_with(&fixture, service, args(["handler"]));
    assert_eq!(get(address, "/env?secret").0, 200);
    assert_eq!(get(address, "/trap").0, 500);
    // Counted when it is sent to its end, which may be after it has come.
    let begun = std::time::Instant::now();
    let text = loop {
        let (status, text) = get(admin, "/metrics");
        assert_eq!(status, 200);
        if text.contains("in_flight 0\n") || begun.elapsed() > PATIENCE {
            break text;
        }
    };
    for line in [
        "wasi_http_requests_total{code=\"200\"} 1",
        "wasi_http_requests_total{code=\"500\"} 1",
        "wasi_http_request_duration_seconds_count 2",
        "wasi_http_requests_in_flight 0",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    assert_eq!(get(admin, "/").0, 404);
    let ran = running.kill();
    assert!(
        ran.stdout
            .contains("127.0.0.1 \"GET /env HTTP/1.1\" 200 0 0."),
        "{ran:?}"
    );
    assert!(
        ran.stdout
            .contains("127.0.0.1 \"GET /trap HTTP/1.1\" 500 26 0."),
        "{ran:?}"
    );
    assert!(TcpStream::connect(admin).is_err());
}

#[test]
fn a_body_breaks_off_with_its_guest() {
    let fixture = Fixture::new();
    let (address, running) = serve(&fixture, 1);
    let mut client = Client::new(address);
    client.ask("/half");
    assert_eq!(client.head(), (200, None));
    let mut rest = String::new();
    client.0.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "5\r\nhalf\n\r\n", "there is no last chunk");
    assert_eq!(get(address, "/hello").0, 200);
    drop(running.kill());
}

#[test]
fn a_request_that_takes_too_long_is_ended_alone() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.request_timeout = Some(Duration::from_millis(300));
    let running = serve_with(&fixture, service, args(["handler"]));
    for path in ["/spin", "/sleep?3600000"] {
        let (status, body) = get(address, path);
        assert_eq!((status, body.as_str()), (504, "504 Gateway Timeout\n"));
    }
    assert_eq!(get(address, "/count").0, 200);
    let ran = running.kill();
    let expected = "GET /spin: the handler took longer than 300ms\n\
                    GET /sleep: the handler took longer than 300ms\n";
    assert!(ran.stderr.ends_with(expected), "{}", ran.stderr);
}

#[test]
fn no_more_requests_than_allowed_are_answered_at_once() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.requests = 1;
    let running = serve_with(&fixture, service, args(["handler"]));
    let (sender, order) = channel();
    std::thread::scope(|scope| {
        let first = sender.clone();
        scope.spawn(move || {
            assert_eq!(get(address, "/sleep?1000").0, 200);
            first.send("first").unwrap();
        });
        assert_eq!(running.line(), "sleeping\n");
        // Answered at once, it would be done long before the first.
        scope.spawn(move || {
            assert_eq!(get(address, "/sleep?300").0, 200);
            sender.send("second").unwrap();
        });
    });
    assert_eq!(order.iter().collect::<Vec<_>>(), ["first", "second"]);
    drop(running.kill());
}

#[test]
fn clients_beyond_the_limit_wait_to_be_accepted() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.connections = 1;
    let running = serve_with(&fixture, service, args(["handler"]));
    let mut first = Client::new(address);
    assert_eq!(first.get("/count").0, 200);
    let mut second = Client::new(address);
    second.ask("/count");
    let stream = second.0.get_mut();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(stream.read(&mut [0]).is_err(), "nobody answers");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(first);
    assert_eq!(second.answer().0, 200);
    drop(running.kill());
}

#[test]
fn a_connection_without_requests_is_closed() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.idle_timeout = Duration::from_millis(200);
    let running = serve_with(&fixture, service, args(["handler"]));
    let mut client = Client::new(address);
    // A request may take longer than that.
    assert_eq!(client.get("/sleep?600").0, 200);
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
    // One that never says anything, and one that never says all.
    for text in ["", "GET / HTTP/1.1\r\n"] {
        let mut silent = TcpStream::connect(address).unwrap();
        silent.write_all(text.as_bytes()).unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).unwrap();
    }
    drop(running.kill());
}

#[test]
fn a_head_has_its_limit() {
    let fixture = Fixture::new();
    let (address, running) = serve(&fixture, 1);
    let mut client = Client::new(address);
    client.ask(&format!("/{}", "x".repeat(20 << 10)));
    assert!(matches!(client.head().0, 414 | 431));
    assert_eq!(get(address, "/hello").0, 200);
    drop(running.kill());
}

#[test]
fn http_2_streams_both_ways_with_trailers() {
    let fixture = Fixture::new();
    let (address, running) = serve(&fixture, 2);
    echoes(address);
    drop(running.kill());
}

/// A piece is sent when the one before has come back, so nobody can have held the body as a whole.
pub(crate) fn echoes(address: SocketAddr) {
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let io = TokioIo::new(stream);
        let executor = TokioExecutor::new();
        let shaken = hyper::client::conn::http2::handshake(executor, io).await;
        let (mut sender, connection) = shaken.unwrap();
        drop(tokio::spawn(connection));
        let (pieces, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let body = futures_util::stream::unfold(receiver, |mut receiver| async {
            let piece = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(Frame::data(piece)), receiver))
        });
        let uri = format!("http://{address}/echo");
        let request = Request::post(uri).body(StreamBody::new(Box::pin(body)));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut back = response.into_body();
        for number in 0..3 {
            let piece = Bytes::from(format!("piece {number}"));
            pieces.send(piece.clone()).unwrap();
            let frame = back.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        drop(pieces);
        let trailers = back.frame().await.unwrap().unwrap().into_trailers();
        assert_eq!(trailers.unwrap()["x-pieces"], "3");
    });
}

#[test]
fn a_service_needs_a_socket_and_no_one_else_takes_it() {
    let fixture = Fixture::new();
    let handler = fixture.real("handler.wasm");
    let error = handler.prepare(args(["handler"])).unwrap_err();
    assert!(matches!(error, Error::NoSocket), "{error:?}");
    assert!(handler.serves_http(None));
    for export in [
        "wasi:http/incoming-handler",
        "wasi:http/incoming-handler@0.2.0#handle",
    ] {
        assert!(handler.serves_http(Some(export)), "{export}");
    }
    for export in [
        "wasi:http/incoming-handler@0.3.0",
        "wasi:cli/run@0.2.0#run",
        "run",
    ] {
        assert!(!handler.serves_http(Some(export)), "{export}");
    }
    for other in ["hello.wasm", "fetch.wasm"] {
        let guest = Guest {
            http: Some(service(1).1),
            ..args(["other"])
        };
        let error = fixture.real(other).prepare(guest).unwrap_err();
        assert!(matches!(error, Error::NoHandler), "{error:?}");
    }
}
