//! Components on the network: sockets, names, HTTP, and how they are narrowed. And `wasi:config`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use wasi_runtime::{Error, Guest, Network, Outcome, Peer};

use crate::fixture::{Fixture, args, start};

/// Somebody who listens at a port of this machine.
fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers one request with `answer`, and returns what was asked.
fn answers(listener: TcpListener, answer: &'static str) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let asked = request(&mut connection);
        connection.write_all(answer.as_bytes()).unwrap();
        asked
    })
}

/// Reads until the request is whole: it has no body, or its last chunk.
fn request(connection: &mut TcpStream) -> String {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = connection.read(&mut buffer).unwrap();
        asked.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&asked);
        let whole = if text.starts_with("POST") {
            text.ends_with("\r\n0\r\n\r\n")
        } else {
            text.ends_with("\r\n\r\n")
        };
        if whole || count == 0 {
            return text.into_owned();
        }
    }
}

fn on(network: Network, guest: Guest) -> Guest {
    Guest { network, ..guest }
}

fn only(addresses: &str, port: Option<u16>) -> Network {
    let addresses = addresses.parse().unwrap();
    Network::Only(vec![Peer { addresses, port }])
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_request_is_sent_and_its_answer_arrives() {
    let fixture = Fixture::new();
    let (listener, address) = server();
    let asked = answers(listener, HELLO);
    let guest = args(["fetch", "http", &address.to_string(), "/where?q=1"]);
    let ran = start(&fixture.real("fetch.wasm"), on(Network::All, guest)).end();
    assert_eq!(ran.success(), "sent\nstatus 200\nhello");
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("GET /where?q=1 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: {address}\r\n")), "{asked}");
}

#[test]
fn a_body_is_sent_and_a_name_is_looked_up() {
    let fixture = Fixture::new();
    let (listener, address) = server();
    let chunked =
        "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let asked = answers(listener, chunked);
    let authority = format!("localhost:{}", address.port());
    let guest = args(["fetch", "http", &authority, "/", "some words"]);
    let ran = start(&fixture.real("fetch.wasm"), on(Network::All, guest)).end();
    assert_eq!(ran.success(), "sent\nstatus 404\nabc");
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST / HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("some words"), "{asked}");
}

#[test]
fn a_request_that_gets_no_answer_ends_with_its_guest() {
    let fixture = Fixture::new();
    let (listener, address) = server();
    let guest = args(["fetch", "http", &address.to_string(), "/"]);
    let running = start(&fixture.real("fetch.wasm"), on(Network::All, guest));
    let (mut connection, _) = listener.accept().unwrap();
    request(&mut connection);
    assert_eq!(running.line(), "sent\n");
    assert_eq!(running.kill().outcome, Outcome::Killed);
    connection
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    assert_eq!(connection.read(&mut [0; 1]).unwrap(), 0, "it is still open");
}

#[test]
fn http_goes_only_where_the_network_does() {
    let fixture = Fixture::new();
    let fetch = fixture.real("fetch.wasm");
    let (listener, address) = server();
    let (near, port) = ("127.0.0.0/8", Some(address.port()));
    for (network, error) in [
        (Network::Off, "HttpRequestDenied"),
        (only("10.0.0.0/8", None), "DestinationIpProhibited"),
        (only(near, Some(1)), "DestinationIpProhibited"),
    ] {
        for scheme in ["http", "https"] {
            let guest = args(["fetch", scheme, &address.to_string(), "/"]);
            let ran = start(&fetch, on(network.clone(), guest)).end();
            assert_eq!(ran.outcome, Outcome::Exited(1));
            assert!(ran.stderr.contains(error), "{network:?}: {ran:?}");
        }
    }
    let asked = answers(listener, HELLO);
    let guest = args(["fetch", "http", &address.to_string(), "/"]);
    let ran = start(&fetch, on(only(near, port), guest)).end();
    assert!(ran.success().ends_with("hello"));
    asked.join().unwrap();
}

#[test]
fn sockets_go_only_where_the_network_does() {
    let fixture = Fixture::new();
    let connect = fixture.real("connect.wasm");
    let (listener, address) = server();
    for network in [
        Network::Off,
        only("10.0.0.0/8", None),
        only("127.0.0.1/32", Some(1)),
    ] {
        let guest = args(["connect", &address.to_string()]);
        let ran = start(&connect, on(network.clone(), guest)).end();
        assert_eq!(ran.outcome, Outcome::Exited(1), "{network:?}: {ran:?}");
        assert!(
            ran.stderr.contains("PermissionDenied"),
            "{network:?}: {ran:?}"
        );
    }
    let greeter = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection.write_all(b"welcome").unwrap();
    });
    let guest = args(["connect", &address.to_string()]);
    let network = only("127.0.0.1/32", Some(address.port()));
    let ran = start(&connect, on(network, guest)).end();
    assert_eq!(ran.success(), "welcome");
    greeter.join().unwrap();
}

#[test]
fn datagrams_go_only_where_the_network_does() {
    let fixture = Fixture::new();
    let connect = fixture.real("connect.wasm");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let guest = || args(["connect", "udp", &address.to_string()]);
    let ran = start(&connect, on(only("10.0.0.0/8", None), guest())).end();
    assert!(ran.stderr.contains("PermissionDenied"), "{ran:?}");
    let ran = start(&connect, on(only("127.0.0.1/32", None), guest())).end();
    ran.success();
    let mut datagram = [0; 16];
    let count = socket.recv(&mut datagram).unwrap();
    assert_eq!(&datagram[..count], b"hello");
}

#[test]
fn a_store_has_what_it_was_given() {
    let fixture = Fixture::new();
    let guest = Guest {
        config: vec![
            ("colour".to_owned(), "blue".to_owned()),
            ("db.host".to_owned(), String::new()),
        ],
        ..args(["config", "colour", "size"])
    };
    let config = fixture.real("config.wasm");
    assert_eq!(
        start(&config, guest).end().success(),
        "colour: Some(\"blue\")\nsize: None\nall: colour=blue\nall: db.host=\n"
    );
    assert_eq!(
        start(&config, args(["config"])).end().success(),
        "",
        "it has something that nobody gave it"
    );
}

#[test]
fn a_draft_has_to_be_asked_for() {
    let artifact =
        Fixture::new().wat(r#"(component (import "wasi:tls/types@0.2.0-draft" (instance)))"#);
    let error = artifact.prepare(Guest::default()).unwrap_err();
    assert!(error.is_guest_fault());
    assert_eq!(
        error.to_string(),
        "it imports wasi:tls/types@0.2.0-draft, which is off; the option wasi-tls turns it on"
    );
    let asked = Guest {
        tls: true,
        ..Guest::default()
    };
    let error = artifact.prepare(asked).unwrap_err();
    assert!(matches!(error, Error::NoEntrypoint { .. }), "{error:?}");
}
