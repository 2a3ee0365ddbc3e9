//! Services that are told to finish, killed, paused and limited.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;
use wasi_runtime::{Budget, CpuQuota, Guest, Network, Outcome};

use crate::fixture::{Fixture, args, runtime, start};
use crate::http::{Client, PATIENCE, get, serve, serve_with, service};

#[test]
fn a_service_that_is_told_to_finishes_what_it_was_asked() {
    let fixture = Fixture::new();
    let (address, service) = service(2);
    let guest = Guest {
        http: Some(service),
        network: Network::All,
        ..args(["handler"])
    };
    let running = start(&fixture.real("handler.wasm"), guest);
    let mut idle = Client::new(address);
    assert_eq!(idle.get("/count").0, 200);
    let mut slow = Client::new(address);
    slow.ask("/sleep?500");
    assert_eq!(running.line(), "sleeping\n");
    running.interrupter.drain();
    // A connection that nobody needs is closed, then nobody listens.
    assert_eq!(idle.0.read(&mut [0]).unwrap(), 0);
    assert_eq!(slow.answer(), (200, "slept\n".to_owned()));
    assert_eq!(running.end().outcome, Outcome::Exited(0));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_service_is_killed_whatever_its_threads_do() {
    let fixture = Fixture::new();
    for workers in [1, 2] {
        let (address, running) = serve(&fixture, workers);
        let mut clients = Vec::new();
        for _ in 0..workers {
            let mut client = Client::new(address);
            client.ask("/spin");
            clients.push(client);
            assert_eq!(running.line(), "spinning\n");
        }
        assert_eq!(running.kill().outcome, Outcome::Killed);
    }
}

/// Whichever of the threads it is that does not finish.
#[test]
fn a_service_that_has_to_be_killed_has_not_finished() {
    let fixture = Fixture::new();
    for _ in 0..4 {
        let (address, running) = serve(&fixture, 2);
        let mut client = Client::new(address);
        client.ask("/spin");
        assert_eq!(running.line(), "spinning\n");
        running.interrupter.drain();
        let begun = std::time::Instant::now();
        while TcpStream::connect(address).is_ok() {
            assert!(begun.elapsed() < PATIENCE, "it still accepts");
            std::thread::yield_now();
        }
        assert_eq!(running.kill().outcome, Outcome::Killed);
    }
}

#[test]
fn a_paused_service_does_nothing_and_goes_on() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let budget = Budget::default();
    let usage = budget.usage();
    let guest = Guest {
        budget,
        ..args(["handler"])
    };
    let running = serve_with(&fixture, service, guest);
    let mut client = Client::new(address);
    assert_eq!(client.get("/count").0, 200);
    running.interrupter.pause();
    client.ask("/compute?1");
    let before = usage.cpu();
    let stream = client.0.get_mut();
    stream
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(stream.read(&mut [0]).is_err(), "nobody answers");
    assert!(usage.cpu() - before < Duration::from_millis(50));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    running.interrupter.resume();
    assert_eq!(client.answer().0, 200);
    // One that computes.
    client.ask("/spin");
    assert_eq!(running.line(), "spinning\n");
    running.interrupter.pause();
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn a_quota_holds_for_all_threads_together() {
    let fixture = Fixture::new();
    let (address, service) = service(2);
    let budget = Budget::default();
    let quota = CpuQuota::new(Duration::from_millis(20), Duration::from_millis(100));
    budget.set_cpu(quota).unwrap();
    let guest = Guest {
        budget: budget.clone(),
        ..args(["handler"])
    };
    let running = serve_with(&fixture, service, guest);
    let mut clients = [Client::new(address), Client::new(address)];
    for client in &mut clients {
        client.ask("/compute?100");
    }
    for client in &mut clients {
        assert_eq!(client.answer().0, 200);
    }
    assert!(budget.usage().throttling().throttled > 0);
    drop(running.kill());
}

/// What it does not read holds up the answer, and the connection is one of those that there may be.
#[test]
fn a_client_that_never_reads_is_hung_up_on() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.connections = 1;
    service.request_timeout = None;
    service.idle_timeout = Duration::from_millis(500);
    let running = serve_with(&fixture, service, args(["handler"]));
    let mut deaf = TcpStream::connect(address).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let head = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n";
    deaf.write_all(head).unwrap();
    // Until there is no room left in either direction.
    while deaf.write(&[b'x'; 64 << 10]).is_ok() {}
    assert_eq!(get(address, "/count").0, 200);
    drop(running.kill());
}

/// The headers of an answer need no window, its body does.
#[test]
fn a_client_of_http_2_that_gives_no_window_is_hung_up_on() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.connections = 1;
    service.request_timeout = None;
    service.idle_timeout = Duration::from_secs(2);
    let running = serve_with(&fixture, service, args(["handler"]));
    runtime().block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let shaken = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
        let (mut sender, connection) = shaken.await.unwrap();
        drop(tokio::spawn(connection));
        let request = Request::get(format!("http://{address}/count")).body(Empty::new());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let end = timeout(PATIENCE, response.into_body().frame()).await;
        assert!(matches!(end.unwrap(), Some(Err(_))));
    });
    assert_eq!(get(address, "/count").0, 200);
    drop(running.kill());
}
