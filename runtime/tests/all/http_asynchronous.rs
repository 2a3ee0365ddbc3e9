//! Components that serve HTTP by WASI 0.3.

use std::io::Read;
use std::time::Duration;

use wasi_runtime::{Budget, Error, Guest, Outcome, Service};

use crate::fixture::{Fixture, Running, args};
use crate::http::{Client, PATIENCE, echoes, get, serve_this, service};

fn serve_with(fixture: &Fixture, service: Service, guest: Guest) -> Running {
    serve_this(&fixture.asynchronous("handler_p3.wasm"), service, guest)
}

#[test]
fn an_instance_is_asked_again() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let running = serve_with(&fixture, service, args(["handler"]));
    let mut client = Client::new(address);
    assert_eq!(client.get("/hello"), (200, "hello\n".to_owned()));
    assert_eq!(running.line(), "asked for hello\n");
    for before in 1..128 {
        assert_eq!(client.get("/count"), (200, before.to_string()));
    }
    assert_eq!(
        client.get("/count").1,
        "0",
        "after 128 requests it is let go"
    );
    let about = client.get("/about").1;
    assert_eq!(about, "Some(Scheme::Http) Some(\"test\")");
    running.interrupter.drain();
    let ran = running.end();
    assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
}

#[test]
fn two_requests_at_once_are_asked_of_two() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let running = serve_with(&fixture, service, args(["handler"]));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(get(address, "/sleep?300").0, 200));
        assert_eq!(running.line(), "sleeping\n");
        assert_eq!(get(address, "/count").1, "0");
    });
    drop(running.kill());
}

#[test]
fn an_idle_instance_is_let_go() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.idle_timeout = Duration::from_millis(200);
    let budget = Budget::default();
    let guest = Guest {
        budget: budget.clone(),
        ..args(["handler"])
    };
    let running = serve_with(&fixture, service, guest);
    assert_eq!(get(address, "/count").1, "0");
    let begun = std::time::Instant::now();
    while budget.usage().memory() > 0 {
        assert!(begun.elapsed() < PATIENCE, "it is still there");
        std::thread::yield_now();
    }
    assert_eq!(get(address, "/count").1, "0");
    drop(running.kill());
}

#[test]
fn what_is_begun_after_an_answer_is_done() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let running = serve_with(&fixture, service, args(["handler"]));
    assert_eq!(get(address, "/after"), (200, "before\n".to_owned()));
    running.interrupter.drain();
    let ran = running.end();
    assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
    assert_eq!(ran.stdout, "after\n");
}

#[test]
fn a_request_that_fails_costs_that_instance() {
    let fixture = Fixture::new();
    let (address, mut service) = service(1);
    service.request_timeout = Some(Duration::from_millis(300));
    let running = serve_with(&fixture, service, args(["handler"]));
    let mut client = Client::new(address);
    for (path, status) in [("/trap", 500), ("/spin", 504), ("/sleep?3600000", 504)] {
        assert_eq!(client.get("/count").0, 200);
        assert_eq!(client.get(path).0, status, "{path}");
        assert_eq!(client.get("/count").1, "0", "{path}");
    }
    // This one is its answer, and it lives.
    assert_eq!(client.get("/error").0, 500);
    assert_eq!(client.get("/count").1, "2");
    let ran = running.kill();
    let said = |text: &str| assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
    said("GET /trap: wasm trap: wasm `unreachable` instruction executed\n");
    said("GET /spin: the handler took longer than 300ms\n");
    said("GET /error: the handler answered with the error ErrorCode::ConfigurationError\n");
}

#[test]
fn a_body_breaks_off_with_its_guest() {
    let fixture = Fixture::new();
    let (address, service) = service(1);
    let running = serve_with(&fixture, service, args(["handler"]));
    let mut client = Client::new(address);
    client.ask("/half");
    assert_eq!(client.head(), (200, None));
    let mut rest = String::new();
    client.0.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "5\r\nhalf\n\r\n", "there is no last chunk");
    assert_eq!(get(address, "/count").1, "0");
    drop(running.kill());
}

#[test]
fn bodies_stream_both_ways_with_trailers() {
    let fixture = Fixture::new();
    let (address, service) = service(2);
    let running = serve_with(&fixture, service, args(["handler"]));
    echoes(address);
    drop(running.kill());
}

#[test]
fn it_is_asked_for_by_name_too_and_is_off_by_default() {
    let fixture = Fixture::new();
    let handler = fixture.asynchronous("handler_p3.wasm");
    assert!(handler.serves_http(None));
    for export in ["wasi:http/handler", "wasi:http/handler#handle"] {
        assert!(handler.serves_http(Some(export)), "{export}");
    }
    for export in ["wasi:http/incoming-handler", "wasi:http/handler@0.2.0"] {
        assert!(!handler.serves_http(Some(export)), "{export}");
    }
    let path = crate::locate::built("guests/handler_p3.wasm", "make guests");
    let error = fixture.load(&std::fs::read(path).unwrap()).unwrap_err();
    let Error::Off { option, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(option, "wasi-0.3");
}
