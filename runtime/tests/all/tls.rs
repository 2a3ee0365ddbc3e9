//! `https` and `wasi:tls`, with a server of ours: whom guests trust.
//!
//! The certificates in `runtime/tests/tls` were made by `openssl ca`: an authority whose key nobody has any
//! more, and a server's for `localhost` and `127.0.0.1`, both from 2020 to 2120.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wasi_runtime::{Artifact, Authorities, Guest, Network, Outcome};

use crate::fixture::{Fixture, Ran, args, start, wasm_file};

const AUTHORITY: &[u8] = include_bytes!("../tls/authority.pem");
const SERVER: &[u8] = include_bytes!("../tls/server.pem");
const KEY: &[u8] = include_bytes!("../tls/server.key");

/// What one connection came to: what was asked, if there was a handshake.
type Asked = JoinHandle<std::io::Result<String>>;

/// Serves one connection: reads until there is `end`, and answers.
pub(crate) fn server(end: &'static str, answer: &'static str) -> (SocketAddr, Asked) {
    let certificate = CertificateDer::from_pem_slice(SERVER).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (tcp, _) = listener.accept()?;
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream: StreamOwned<ServerConnection, TcpStream> =
            StreamOwned::new(connection, tcp);
        let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
        while !asked.ends_with(end.as_bytes()) {
            match stream.read(&mut buffer)? {
                0 => break,
                count => asked.extend_from_slice(&buffer[..count]),
            }
        }
        stream.write_all(answer.as_bytes())?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(String::from_utf8_lossy(&asked).into_owned())
    });
    (address, asked)
}

fn web_server() -> (SocketAddr, Asked) {
    server(
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    )
}

/// A file of authorities, and text between them as distributions have it.
pub(crate) fn ours() -> Authorities {
    let text = [b"# ours\n".as_slice(), AUTHORITY].concat();
    Authorities::File(rewound(&text))
}

fn rewound(bytes: &[u8]) -> File {
    use std::io::Seek as _;
    let mut file = wasm_file(bytes);
    file.rewind().unwrap();
    file
}

fn fetch(artifact: &Artifact, host: &str, port: u16, authorities: Authorities) -> Ran {
    let guest = Guest {
        network: Network::All,
        authorities,
        ..args(["fetch", "https", &format!("{host}:{port}"), "/"])
    };
    start(artifact, guest).end()
}

fn fetches() -> [(&'static str, Artifact); 2] {
    let fixture = Fixture::new();
    [
        ("0.2", fixture.real("fetch.wasm")),
        ("0.3", fixture.asynchronous("fetch_p3.wasm")),
    ]
}

#[test]
fn https_trusts_the_authorities_that_it_was_given() {
    for (world, artifact) in fetches() {
        for host in ["localhost", "127.0.0.1"] {
            let (address, asked) = web_server();
            let said = fetch(&artifact, host, address.port(), ours()).success();
            assert!(said.contains("status 200\nhello"), "{world}: {said}");
            let asked = asked.join().unwrap().unwrap();
            assert!(asked.starts_with("GET / HTTP/1.1\r\n"), "{world}: {asked}");
        }
    }
}

#[test]
fn https_trusts_no_stranger() {
    for (world, artifact) in fetches() {
        for authorities in [
            Authorities::BuiltIn,
            Authorities::Nobody,
            Authorities::File(rewound(b"no certificate")),
            Authorities::File(rewound(b"")),
        ] {
            let (address, asked) = web_server();
            let ran = fetch(&artifact, "localhost", address.port(), authorities);
            assert_eq!(ran.outcome, Outcome::Exited(1), "{world}: {ran:?}");
            let told = format!("{}{}", ran.stdout, ran.stderr);
            assert!(told.contains("TlsProtocolError"), "{world}: {told}");
            assert!(asked.join().unwrap().is_err(), "{world}: it asked");
        }
    }
}

#[test]
fn a_request_of_wasi_0_3_goes_only_where_the_network_does() {
    let artifact = Fixture::new().asynchronous("fetch_p3.wasm");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fetch = |network| {
        let guest = Guest {
            network,
            ..args(["fetch", "http", &address, "/"])
        };
        start(&artifact, guest)
    };
    let ran = fetch(Network::Off).end();
    assert_eq!(ran.outcome, Outcome::Exited(1));
    assert!(ran.stdout.contains("HttpRequestDenied"), "{ran:?}");
    // One that nobody answers ends with its guest.
    let running = fetch(Network::All);
    let (mut connection, _) = listener.accept().unwrap();
    assert!(connection.read(&mut [0; 16]).unwrap() > 0);
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

fn handshake(name: &str, authorities: Authorities) -> (Ran, Asked) {
    let (address, asked) = server("?", "an answer");
    let guest = Guest {
        network: Network::All,
        tls: true,
        authorities,
        ..args(["handshake", &address.to_string(), name, "a question?"])
    };
    let artifact = Fixture::new().real("handshake.wasm");
    (start(&artifact, guest).end(), asked)
}

#[test]
fn a_guest_speaks_tls_over_its_own_connection() {
    let (ran, asked) = handshake("localhost", ours());
    assert_eq!(ran.success(), "an answer");
    assert_eq!(asked.join().unwrap().unwrap(), "a question?");
}

#[test]
fn a_handshake_with_a_stranger_or_under_another_name_fails() {
    for (name, authorities, told) in [
        ("localhost", Authorities::BuiltIn, "UnknownIssuer"),
        (
            "localhost",
            Authorities::Nobody,
            "no certificate authorities",
        ),
        ("example.com", ours(), "not valid for name"),
        ("no name", ours(), "no server's name"),
    ] {
        let (ran, asked) = handshake(name, authorities);
        assert_eq!(ran.outcome, Outcome::Exited(1), "{ran:?}");
        assert!(ran.stderr.contains(told), "{told}: {ran:?}");
        assert!(asked.join().unwrap().is_err(), "{name}: it asked");
    }
}
