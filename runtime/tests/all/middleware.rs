//! Modules of the ABI `http_handler`, before an upstream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use wasi_runtime::{Artifact, Error, Guest, Middleware, Network, Outcome, Preopen};

use crate::fixture::{Fixture, Running, args, start};
use crate::http::{Client, PATIENCE, service};

/// Answers each request with its head and body, as it came, on a thread that ends with the test's process.
pub(crate) fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || mirror(stream.unwrap()));
        }
    });
    address
}

fn mirror(mut stream: TcpStream) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let end = seen.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(seen[..end + 4].to_vec()).unwrap();
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1);
            let length = length.map_or(0, |text| text.lines().next().unwrap().parse().unwrap());
            if seen.len() >= end + 4 + length {
                let body: Vec<u8> = seen.drain(..end + 4 + length).collect();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nx-from: upstream\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(&body).unwrap();
                continue;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => seen.extend_from_slice(&buffer[..count]),
            Ok(0) | Err(_) => return,
        }
    }
}

/// A module whose handlers are these; 1,024 is where it has room.
pub(crate) fn module(before: &str, request: &str, response: &str) -> String {
    format!(
        r#"(module
        (import "http_handler" "enable_features" (func $enable (param i32) (result i32)))
        (import "http_handler" "get_config" (func $config (param i32 i32) (result i32)))
        (import "http_handler" "log" (func $log (param i32 i32 i32)))
        (import "http_handler" "get_uri" (func $uri (param i32 i32) (result i32)))
        (import "http_handler" "set_uri" (func $set_uri (param i32 i32)))
        (import "http_handler" "set_header_value" (func $set_header (param i32 i32 i32 i32 i32)))
        (import "http_handler" "get_header_names" (func $names (param i32 i32 i32) (result i64)))
        (import "http_handler" "read_body" (func $read (param i32 i32 i32) (result i64)))
        (import "http_handler" "write_body" (func $write (param i32 i32 i32)))
        (import "http_handler" "get_status_code" (func $status (result i32)))
        (import "http_handler" "set_status_code" (func $set_status (param i32)))
        (memory (export "memory") 1)
        (global $count (mut i32) (i32.const 0))
        (data (i32.const 0) "x-name") (data (i32.const 16) "value") (data (i32.const 32) "/other?way")
        (func $start {before}) (start $start)
        (func (export "handle_request") (result i64) {request})
        (func (export "handle_response") (param $ctx i32) (param $failed i32) {response}))"#
    )
}

/// Passes on, with 7 as its context.
pub(crate) const NEXT: &str = "(i64.const 0x700000001)";

pub(crate) fn run(fixture: &Fixture, text: &str, upstream: SocketAddr) -> (SocketAddr, Running) {
    run_as(&fixture.wat(text), upstream, args(["middleware"]))
}

/// The same, of a guest that is given more.
pub(crate) fn run_as(
    artifact: &Artifact,
    upstream: SocketAddr,
    guest: Guest,
) -> (SocketAddr, Running) {
    let (address, mut service) = service(1);
    service.middleware = Some(Middleware {
        host: upstream.ip().to_string(),
        port: upstream.port(),
        config: b"configured".to_vec(),
        buffer_bytes: 4096,
    });
    let guest = Guest {
        http: Some(service),
        network: Network::All,
        ..guest
    };
    (address, start(artifact, guest))
}

pub(crate) fn post(client: &mut Client, body: &str) -> (u16, String) {
    let length = body.len();
    let request =
        format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}");
    client.0.get_mut().write_all(request.as_bytes()).unwrap();
    client.answer()
}

#[test]
fn requests_are_changed_on_their_way() {
    let fixture = Fixture::new();
    let request = format!(
        "(call $set_uri (i32.const 32) (i32.const 10))
        (call $set_header (i32.const 0) (i32.const 0) (i32.const 6) (i32.const 16) (i32.const 5)) {NEXT}"
    );
    let (address, running) = run(&fixture, &module("", &request, ""), upstream());
    let mut client = Client::new(address);
    for _ in 0..3 {
        let (status, seen) = post(&mut client, "a body");
        assert_eq!(status, 200);
        assert!(seen.starts_with("POST /other?way HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("x-name: value\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\na body"), "{seen}");
    }
    running.interrupter.drain();
    let ran = running.end();
    assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
}

/// It answers with its configuration, and with how many it has had.
#[test]
fn a_guest_answers_itself_and_is_asked_again() {
    let fixture = Fixture::new();
    let request = "(global.set $count (i32.add (global.get $count) (i32.const 1)))
        (call $set_status (i32.add (i32.const 400) (global.get $count)))
        (call $write (i32.const 1) (i32.const 1024) (call $config (i32.const 1024) (i32.const 100)))
        (call $log (i32.const 0) (i32.const 16) (i32.const 5))
        (i64.const 0)";
    let (address, running) = run(&fixture, &module("", request, ""), upstream());
    let mut client = Client::new(address);
    for status in 401..404 {
        assert_eq!(client.get("/"), (status, "configured".to_owned()));
    }
    let ran = running.kill();
    assert_eq!(ran.stderr, "value\nvalue\nvalue\n");
}

#[test]
fn an_answer_that_is_held_can_be_changed() {
    let fixture = Fixture::new();
    let response = "(if (i32.or (i32.ne (local.get $ctx) (i32.const 7)) (local.get $failed)) (then (unreachable)))
        (if (i32.ne (call $status) (i32.const 200)) (then (unreachable)))
        (drop (call $read (i32.const 1) (i32.const 1024) (i32.const 4)))
        (call $set_status (i32.const 418))
        (call $write (i32.const 1) (i32.const 1024) (i32.const 4))";
    let text = module("(drop (call $enable (i32.const 2)))", NEXT, response);
    let (address, running) = run(&fixture, &text, upstream());
    assert_eq!(Client::new(address).get("/"), (418, "GET ".to_owned()));
    drop(running.kill());
}

#[test]
fn a_request_that_is_read_goes_on_whole_if_it_is_held() {
    let fixture = Fixture::new();
    let request =
        format!("(drop (call $read (i32.const 0) (i32.const 1024) (i32.const 3))) {NEXT}");
    for (features, arrives) in [("1", "a body"), ("0", "ody")] {
        let enable = format!("(drop (call $enable (i32.const {features})))");
        let (address, running) = run(&fixture, &module(&enable, &request, ""), upstream());
        let (status, seen) = post(&mut Client::new(address), "a body");
        assert_eq!(status, 200);
        assert!(seen.ends_with(&format!("\r\n\r\n{arrives}")), "{seen}");
        drop(running.kill());
    }
}

#[test]
fn no_more_is_held_than_allowed() {
    let fixture = Fixture::new();
    let text = module("(drop (call $enable (i32.const 1)))", NEXT, "");
    let (address, running) = run(&fixture, &text, upstream());
    let (status, _) = post(&mut Client::new(address), &"x".repeat(5000));
    assert_eq!(status, 413);
    assert_eq!(post(&mut Client::new(address), &"x".repeat(4000)).0, 200);
    drop(running.kill());
}

#[test]
fn a_trap_costs_its_request_and_its_instance() {
    let fixture = Fixture::new();
    let request = "(global.set $count (i32.add (global.get $count) (i32.const 1)))
        (if (i32.eq (global.get $count) (i32.const 2)) (then (unreachable)))
        (i64.const 0)";
    let (address, running) = run(&fixture, &module("", request, ""), upstream());
    let mut client = Client::new(address);
    for status in [200, 500, 200, 500] {
        assert_eq!(client.get("/").0, status);
    }
    let ran = running.kill();
    let said = "GET /: wasm trap: wasm `unreachable` instruction executed\n";
    assert!(ran.stderr.contains(said), "{ran:?}");
}

#[test]
fn what_comes_too_late_ends_the_guest() {
    let fixture = Fixture::new();
    let response = "(call $set_status (i32.const 404))";
    let text = module("(drop (call $enable (i32.const 0)))", NEXT, response);
    let (address, running) = run(&fixture, &text, upstream());
    assert_eq!(Client::new(address).get("/").0, 200);
    running.interrupter.drain();
    let ran = running.end();
    let said =
        "cannot set the status code after the next handler without the feature buffer_response";
    assert!(ran.stderr.contains(said), "{ran:?}");
}

#[test]
fn an_upstream_that_is_not_there_is_told() {
    let fixture = Fixture::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let response = "(if (i32.eqz (local.get $failed)) (then (unreachable)))";
    let text = module("(drop (call $enable (i32.const 2)))", NEXT, response);
    let (at, running) = run(&fixture, &text, address);
    assert_eq!(Client::new(at).get("/").0, 502);
    let ran = running.kill();
    let said = format!("GET /: cannot ask the upstream {address}: ");
    assert!(ran.stderr.starts_with(&said), "{ran:?}");
}

#[test]
fn a_request_of_middleware_takes_no_longer_than_allowed() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.request_timeout = Some(std::time::Duration::from_millis(300));
    service.middleware = Some(Middleware {
        host: "127.0.0.1".to_owned(),
        port: 1,
        config: Vec::new(),
        buffer_bytes: 1,
    });
    let guest = Guest {
        http: Some(service),
        network: Network::All,
        ..args(["middleware"])
    };
    let text = module("", "(loop $forever (br $forever)) (i64.const 0)", "");
    let running = start(&fixture.wat(&text), guest);
    assert_eq!(Client::new(address).get("/").0, 504);
    drop(running.kill());
}

#[test]
fn middleware_needs_an_upstream_and_its_exports() {
    let fixture = Fixture::new();
    let artifact = fixture.wat(&module("", NEXT, ""));
    assert!(artifact.is_middleware(None));
    let given = |middleware| Guest {
        http: Some(wasi_runtime::Service {
            middleware,
            request_timeout: Some(PATIENCE),
            ..service(1).1
        }),
        ..args(["middleware"])
    };
    let error = artifact.prepare(given(None)).unwrap_err();
    assert!(matches!(error, Error::NoUpstream), "{error:?}");
    let text = r#"(module (import "http_handler" "get_status_code" (func (result i32))) (memory (export "memory") 1))"#;
    let middleware = Middleware {
        host: "127.0.0.1".to_owned(),
        port: 1,
        config: Vec::new(),
        buffer_bytes: 1,
    };
    let artifact = fixture.wat(text);
    let error = artifact.prepare(given(Some(middleware))).unwrap_err();
    assert!(matches!(error, Error::NoExport { .. }), "{error:?}");
}

/// One instance has what a command has, for each of its requests.
#[test]
fn a_guest_has_the_standard_streams_and_the_environment() {
    let fixture = Fixture::new();
    let guest = Guest {
        env: vec![("GREETING".to_owned(), "of a variable".to_owned())],
        ..args(["middleware"])
    };
    let (address, running) = run_as(&fixture.real("middleware.wasm"), upstream(), guest);
    let mut client = Client::new(address);
    for _ in 0..3 {
        let answer = (200, "configured of a variable\n".to_owned());
        assert_eq!(client.get("/own"), answer);
        assert_eq!(running.line(), "asked for /own\n");
    }
    assert_eq!(client.get("/trap").0, 500);
    assert_eq!(client.get("/own").0, 200);
    assert!(running.kill().stderr.contains("as it was asked to"));
}

#[test]
fn a_guest_has_the_directories() {
    let fixture = Fixture::new();
    // It opens the file `value`, answers with it, and closes it: the descriptor is the same each time.
    let request = "(if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 0) (i64.const 2)
            (i64.const 0) (i32.const 0) (i32.const 400)) (then (unreachable)))
        (if (i32.ne (i32.load (i32.const 400)) (i32.const 4)) (then (unreachable)))
        (i32.store (i32.const 408) (i32.const 1024))
        (i32.store (i32.const 412) (i32.const 100))
        (if (call $fd_read (i32.const 4) (i32.const 408) (i32.const 1) (i32.const 404)) (then (unreachable)))
        (if (call $close (i32.const 4)) (then (unreachable)))
        (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 404)))
        (i64.const 0)";
    let text = module("", request, "").replacen(
        "(module",
        r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))"#,
        1,
    );
    let folder = tempfile::tempdir().unwrap();
    let guest = Guest {
        preopens: vec![Preopen {
            directory: std::fs::File::open(folder.path()).unwrap().into(),
            name: "/".to_owned(),
        }],
        ..args(["middleware"])
    };
    let (address, running) = run_as(&fixture.wat(&text), upstream(), guest);
    let mut client = Client::new(address);
    for content in ["one", "another"] {
        std::fs::write(folder.path().join("value"), content).unwrap();
        assert_eq!(client.get("/"), (200, content.to_owned()));
    }
    drop(running.kill());
}
