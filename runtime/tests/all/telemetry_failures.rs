//! Collectors that do not take what they are told, that may not be told, and that want it encrypted.

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use wasi_runtime::{Authorities, Guest, Network, Outcome, Peer};

use crate::fixture::{Fixture, args, runtime, start};
use crate::http::{Client, get, serve_with, service};
use crate::telemetry::{collector, next, serve, traces};

#[test]
fn a_delivery_that_fails_for_now_is_tried_again() {
    let fixture = Fixture::new();
    let (collector, got) = collector(&[503]);
    let (address, running) = serve(&fixture, traces(collector));
    assert_eq!(get(address, "/count").0, 200);
    let first = next(&got);
    assert_eq!(first.2, next(&got).2);
    running.interrupter.drain();
    let ran = running.end();
    let refused = "spans to http://";
    assert!(ran.stderr.contains(refused), "{ran:?}");
    assert!(ran.stderr.contains("it answers 503"), "{ran:?}");
    assert!(!ran.stderr.contains("lost"), "{ran:?}");
}

/// One that nobody can connect to, one that says no, and one that says nothing: answers do not wait for it, and the end
/// is as it is without.
#[test]
fn nobody_waits_for_a_collector() {
    let fixture = Fixture::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let (deaf, gone) = (silent.local_addr().unwrap(), nobody.local_addr().unwrap());
    drop(nobody);
    let (refusing, _got) = collector(&[400, 400, 400, 400, 400, 400, 400, 400]);
    for (address, reason) in [
        (deaf, None),
        (gone, Some("cannot send spans to http://")),
        (refusing, Some("it answers 400")),
    ] {
        let mut telemetry = traces(address);
        let traces = telemetry.traces.as_mut().unwrap();
        traces.queue = 2;
        traces.flush = Duration::from_millis(100);
        let (address, running) = serve(&fixture, telemetry);
        let mut client = Client::new(address);
        for _ in 0..8 {
            assert_eq!(client.get("/count"), (200, "0".to_owned()));
        }
        drop(client);
        running.interrupter.drain();
        let ran = running.end();
        assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
        let lost = ran.stderr.lines().last();
        assert_eq!(lost, Some("OpenTelemetry: 8 spans were lost"), "{ran:?}");
        if let Some(reason) = reason {
            let told = ran.stderr.lines().filter(|line| line.contains(reason));
            assert_eq!(told.count(), 1, "once is enough: {ran:?}");
        }
    }
}

#[test]
fn a_collector_that_the_guest_may_not_talk_to_is_not_told() {
    let fixture = Fixture::new();
    let (collector, got) = collector(&[]);
    let (address, mut service) = service(1);
    service.telemetry = Some(traces(collector));
    let guest = Guest {
        http: Some(service),
        // The client, not the collector.
        network: Network::Only(vec![Peer {
            addresses: "127.0.0.2/32".parse().unwrap(),
            port: None,
        }]),
        ..args(["handler"])
    };
    let running = start(&fixture.real("handler.wasm"), guest);
    let status = runtime().block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.unwrap();
        drop(tokio::spawn(connection));
        let request = Request::get("/count").header("host", "test");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        sender.send_request(request).await.unwrap().status()
    });
    assert_eq!(status, 200);
    running.interrupter.drain();
    let ran = running.end();
    assert!(ran.stderr.contains("cannot send spans to"), "{ran:?}");
    assert!(got.try_recv().is_err());
}

/// What a span's delivery ends with.
const END: &str = "/schemas/1.29.0";

#[test]
fn https_trusts_whom_the_guest_trusts() {
    let fixture = Fixture::new();
    for (authorities, trusts) in [(crate::tls::ours(), true), (Authorities::Nobody, false)] {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let (collector, asked) = crate::tls::server(END, answer);
        let mut telemetry = traces(collector);
        let endpoint = &mut telemetry.traces.as_mut().unwrap().collector.endpoint;
        *endpoint = format!("https://{collector}/v1/traces").parse().unwrap();
        let (address, mut service) = service(1);
        service.telemetry = Some(telemetry);
        let guest = Guest {
            authorities,
            ..args(["handler"])
        };
        let running = serve_with(&fixture, service, guest);
        assert_eq!(get(address, "/count").0, 200);
        let asked = asked.join().unwrap();
        running.interrupter.drain();
        let ran = running.end();
        if trusts {
            let asked = asked.unwrap();
            assert!(asked.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{asked}");
        } else {
            assert!(asked.is_err(), "it asked a stranger");
            assert!(
                ran.stderr.contains("cannot send spans to https://"),
                "{ran:?}"
            );
        }
    }
}
