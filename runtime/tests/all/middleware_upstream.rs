//! Middleware and its upstream: connections that are used again and closed by the other side, bodies that are streamed,
//! clients that do not wait, and a service that is stopped while the upstream is asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use wasi_runtime::{Guest, Limits, Outcome};

use crate::fixture::{Fixture, Running, args};
use crate::http::{Client, PATIENCE};
use crate::middleware::{NEXT, module, post, run, run_as};

/// An upstream that the test itself plays.
pub(crate) struct Upstream(TcpListener);

/// One that was asked.
pub(crate) struct Asked(pub(crate) BufReader<TcpStream>);

impl Upstream {
    pub(crate) fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next who connects.
    pub(crate) fn accept(&self) -> Asked {
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let mut poll = [PollFd::new(&self.0, PollFlags::IN)];
        let ready = rustix::event::poll(&mut poll, Some(&patience)).unwrap();
        assert_eq!(ready, 1, "nobody asks");
        let (stream, _) = self.0.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Asked(BufReader::new(stream))
    }
}

impl Asked {
    /// A head, to its empty line; nothing when there is none any more.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && self.0.read_line(&mut head).unwrap() > 0 {}
        head
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn hears(&mut self, text: &str) {
        hears(&mut self.0, text);
    }

    /// Who asked it has gone.
    fn ends(mut self) {
        let left = self.0.read(&mut [0]);
        // What it was not told is lost.
        let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(
            matches!(&left, Ok(0)) || left.as_ref().is_err_and(reset),
            "{left:?}"
        );
    }
}

/// What comes next is `text`.
pub(crate) fn hears(stream: &mut impl Read, text: &str) {
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), text);
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What an upstream has been through.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Requests, to the end of their bodies.
    requests: AtomicUsize,
    /// Connections that it closed in place of an answer.
    closed: AtomicUsize,
}

/// Answers the first request of each connection with its body, and reads the second, and closes the connection: if it is
/// `fickle`. Else it answers all.
fn upstream(fickle: bool) -> (SocketAddr, Arc<Seen>) {
    let (upstream, seen) = (Upstream::new(), Arc::<Seen>::default());
    let (address, shared) = (upstream.address(), Arc::clone(&seen));
    std::thread::spawn(move || {
        for stream in upstream.0.incoming() {
            shared.connections.fetch_add(1, SeqCst);
            let (mut asked, shared) = (Asked(BufReader::new(stream.unwrap())), Arc::clone(&shared));
            std::thread::spawn(move || {
                for number in 0.. {
                    let head = asked.head();
                    if head.is_empty() {
                        return;
                    }
                    let length = head.split("content-length: ").nth(1);
                    let length = length.and_then(|text| text.lines().next());
                    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                    asked.0.read_exact(&mut body).unwrap();
                    shared.requests.fetch_add(1, SeqCst);
                    if fickle && number == 1 {
                        shared.closed.fetch_add(1, SeqCst);
                        return;
                    }
                    let body = String::from_utf8(body).unwrap();
                    let length = body.len();
                    asked.say(&format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
                    ));
                }
            });
        }
    });
    (address, seen)
}

#[test]
fn a_connection_to_the_upstream_is_used_again() {
    let fixture = Fixture::new();
    let (upstream, seen) = upstream(false);
    let (address, running) = run(&fixture, &module("", NEXT, ""), upstream);
    for _ in 0..20 {
        assert_eq!(
            post(&mut Client::new(address), "body"),
            (200, "body".to_owned())
        );
    }
    assert_eq!(seen.requests.load(SeqCst), 20);
    let connections = seen.connections.load(SeqCst);
    assert!(connections < 10, "{connections} connections");
    drop(running.kill());
}

/// A request by a connection that the upstream closes in place of an answer.
fn fickle(features: &str, ask: impl Fn(&mut Client) -> u16) -> (Vec<u16>, [usize; 2], String) {
    let fixture = Fixture::new();
    let (upstream, seen) = upstream(true);
    let enable = format!("(drop (call $enable (i32.const {features})))");
    let (address, running) = run(&fixture, &module(&enable, NEXT, ""), upstream);
    let mut client = Client::new(address);
    let statuses = (0..10).map(|_| ask(&mut client)).collect();
    let stderr = running.kill().stderr;
    let counts = [&seen.requests, &seen.closed].map(|count| count.load(SeqCst));
    assert!(counts[1] > 0, "no connection was used again");
    (statuses, counts, stderr)
}

fn put(client: &mut Client) -> u16 {
    let request = "PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\na body";
    client.0.get_mut().write_all(request.as_bytes()).unwrap();
    let (status, body) = client.answer();
    assert!(status != 200 || body == "a body", "{body}");
    status
}

#[test]
fn what_may_be_asked_twice_is_asked_once_more() {
    let get = |client: &mut Client| client.get("/").0;
    for (features, ask) in [("0", &get as &dyn Fn(&mut Client) -> u16), ("1", &put)] {
        let (statuses, [requests, closed], stderr) = fickle(features, ask);
        assert_eq!(statuses, [200; 10], "{stderr}");
        assert_eq!(requests, 10 + closed);
        assert_eq!(stderr, "");
    }
}

/// A request that is not to be repeated, and one whose body has gone to the upstream that closed.
#[test]
fn what_may_not_be_asked_twice_gets_an_error() {
    let post = |client: &mut Client| post(client, "a body").0;
    for (features, ask) in [("1", &post as &dyn Fn(&mut Client) -> u16), ("0", &put)] {
        let (statuses, [requests, closed], stderr) = fickle(features, ask);
        let failed = statuses.iter().filter(|status| **status == 502).count();
        assert_eq!(failed, closed, "{statuses:?} {stderr}");
        assert!(statuses.iter().all(|status| [200, 502].contains(status)));
        assert_eq!(requests, 10, "one was sent twice");
        assert!(
            stderr.contains("cannot ask the upstream 127.0.0.1:"),
            "{stderr}"
        );
    }
}

#[test]
fn an_upstream_that_closes_what_nobody_uses_costs_nothing() {
    let fixture = Fixture::new();
    let upstream = Upstream::new();
    let (address, running) = run(&fixture, &module("", NEXT, ""), upstream.address());
    let mut client = Client::new(address);
    for _ in 0..3 {
        client.ask("/");
        let mut asked = upstream.accept();
        asked.head();
        asked.say(OK);
        assert_eq!(client.answer(), (200, "ok".to_owned()));
    }
    drop(running.kill());
}

#[test]
fn bodies_are_streamed_both_ways() {
    let fixture = Fixture::new();
    let upstream = Upstream::new();
    let (address, running) = run(&fixture, &module("", NEXT, ""), upstream.address());
    let mut client = Asked(Client::new(address).0);
    client.say("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nOne\r\n");
    let mut asked = upstream.accept();
    assert!(asked.head().contains("transfer-encoding: chunked\r\n"));
    asked.hears("3\r\nOne\r\n");
    asked.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200 OK\r\n"));
    client.hears("3\r\none\r\n");
    // The answer is under way, and the request is, too.
    client.say("3\r\nTwo\r\n");
    asked.hears("3\r\nTwo\r\n");
    asked.say("3\r\ntwo\r\n");
    client.hears("3\r\ntwo\r\n");
    client.say("0\r\n\r\n");
    asked.hears("0\r\n\r\n");
    asked.say("0\r\n\r\n");
    client.hears("0\r\n\r\n");
    drop(running.kill());
}

/// Prints whether it failed, when it is told of the answer.
const TELLS: &str = "(if (local.get $failed)
    (then (call $log (i32.const 0) (i32.const 16) (i32.const 5))))";

#[test]
fn a_client_that_does_not_wait_ends_the_call() {
    let fixture = Fixture::new();
    let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    for answer in ["", begun] {
        let upstream = Upstream::new();
        let (address, running) = run(&fixture, &module("", NEXT, TELLS), upstream.address());
        let mut client = Asked(Client::new(address).0);
        client.say("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        let mut asked = upstream.accept();
        asked.head();
        asked.say(answer);
        if !answer.is_empty() {
            client.head();
            client.hears("3\r\none\r\n");
        }
        drop(client);
        asked.ends();
        running.interrupter.drain();
        let ran = running.end();
        // The guest has heard of it, and nobody else: it is no failure of the upstream.
        assert_eq!(
            (&ran.outcome, ran.stderr.as_str()),
            (&Outcome::Exited(0), "value\n")
        );
    }
}

/// A service, a client that has asked it, and what it asked of its upstream.
fn asking(fixture: &Fixture, guest: Guest) -> (Running, Client, Asked) {
    let upstream = Upstream::new();
    let artifact = fixture.wat(&module("", NEXT, ""));
    let (address, running) = run_as(&artifact, upstream.address(), guest);
    let mut client = Client::new(address);
    client.ask("/");
    let mut asked = upstream.accept();
    asked.head();
    (running, client, asked)
}

#[test]
fn a_service_that_finishes_waits_for_the_upstream() {
    let fixture = Fixture::new();
    let (running, mut client, mut asked) = asking(&fixture, args(["middleware"]));
    running.interrupter.drain();
    asked.say(OK);
    assert_eq!(client.answer(), (200, "ok".to_owned()));
    assert_eq!(running.end().outcome, Outcome::Exited(0));
    // What was kept is gone with it.
    asked.ends();
}

#[test]
fn a_service_that_is_paused_passes_nothing_on() {
    let fixture = Fixture::new();
    let upstream = Upstream::new();
    let (address, running) = run(&fixture, &module("", NEXT, ""), upstream.address());
    let mut clients = [Client::new(address), Client::new(address)];
    let [mut first, mut second] = clients.each_mut().map(|client| {
        client.ask("/");
        let mut asked = upstream.accept();
        asked.head();
        asked
    });
    // When the second has been answered, the service has come back from asking for the first.
    second.say(OK);
    let [waiting, other] = &mut clients;
    assert_eq!(other.answer(), (200, "ok".to_owned()));
    running.interrupter.pause();
    first.say(OK);
    let stream = waiting.0.get_mut();
    let soon = Some(Duration::from_millis(200));
    stream.set_read_timeout(soon).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "it answers");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    running.interrupter.resume();
    assert_eq!(waiting.answer(), (200, "ok".to_owned()));
    drop(running.kill());
}

#[test]
fn the_end_of_a_service_ends_what_it_asked() {
    let fixture = Fixture::new();
    let (running, mut client, asked) = asking(&fixture, args(["middleware"]));
    assert_eq!(running.kill().outcome, Outcome::Killed);
    asked.ends();
    let answer = client.0.read(&mut [0]);
    assert!(!matches!(answer, Ok(1..)), "{answer:?}");
    let after = Duration::from_secs(5);
    let guest = Guest {
        limits: Limits {
            deadline: Some(after),
            ..Limits::default()
        },
        ..args(["middleware"])
    };
    let (running, _client, asked) = asking(&fixture, guest);
    assert_eq!(running.end().outcome, Outcome::DeadlineExceeded { after });
    asked.ends();
}
