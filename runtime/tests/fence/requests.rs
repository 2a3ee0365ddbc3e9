//! Requests of a service: what is ordered to the service holds for them, too, and not for what is dropped of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use wasi_runtime::{Guest, Middleware, Network, Output, Service};

use crate::fixture::{Fixture, args, pipe, run, runtime};
use crate::in_a_storm_of;

/// Says so, and waits for a body: one that is there makes it compute.
const WAITS: &str = r#"(module
    (import "http_handler" "log" (func $log (param i32 i32 i32)))
    (import "http_handler" "read_body" (func $read (param i32 i32 i32) (result i64)))
    (memory (export "memory") 1)
    (data (i32.const 0) "waits")
    (func (export "handle_request") (result i64)
        (call $log (i32.const 0) (i32.const 0) (i32.const 5))
        (drop (call $read (i32.const 0) (i32.const 64) (i32.const 1)))
        (call $log (i32.const 0) (i32.const 0) (i32.const 5))
        (loop $forever (br $forever))
        unreachable)
    (func (export "handle_response") (param i32 i32)))"#;

fn service() -> (SocketAddr, Guest) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service {
        listener,
        workers: NonZeroUsize::MIN,
        requests: 1,
        connections: 1,
        header_bytes: 16 << 10,
        request_timeout: None,
        idle_timeout: Duration::from_secs(3600),
        access_log: false,
        metrics: None,
        middleware: Some(Middleware {
            host: "127.0.0.1".to_owned(),
            port: 1,
            config: Vec::new(),
            buffer_bytes: 1,
        }),
        telemetry: None,
    };
    let guest = Guest {
        http: Some(service),
        network: Network::All,
        ..args(["service"])
    };
    (address, guest)
}

/// A request with as much of its body.
fn ask(address: SocketAddr, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    let request = format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n{body}");
    client.write_all(request.as_bytes()).unwrap();
    client
}

/// The request waits in the host, its service is paused, and both are dropped: the request's code runs once more, to where it was
/// entered, and is not held on its way.
#[test]
fn a_request_of_a_paused_service_can_be_dropped_beside_a_fence() {
    let artifact = Fixture::new().wat(WAITS);
    let (theirs, ours) = pipe();
    let (address, guest) = service();
    let computing = Guest {
        stderr: Output::from_fd(ours).unwrap(),
        ..guest
    };
    let computing = run(artifact.prepare(computing).unwrap());
    let _client = ask(address, "x");
    let mut lines = [0; 12];
    std::fs::File::from(theirs).read_exact(&mut lines).unwrap();
    assert_eq!(&lines, b"waits\nwaits\n");
    let (sender, dropped) = channel();
    in_a_storm_of(computing, || {
        let artifact = artifact.clone();
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            for _ in 0..1000 {
                let (theirs, ours) = pipe();
                let (address, guest) = service();
                let _client = ask(address, "");
                runtime.block_on(async {
                    let guest = Guest {
                        stderr: Output::from_fd(ours).unwrap(),
                        ..guest
                    };
                    let prepared = artifact.prepare(guest).unwrap();
                    let interrupter = prepared.interrupter();
                    let mut lines =
                        tokio::net::unix::pipe::Receiver::from_owned_fd(theirs).unwrap();
                    let mut line = [0; 6];
                    let serving = prepared.run();
                    tokio::pin!(serving);
                    tokio::select! {
                        biased;
                        outcome = &mut serving => panic!("it waits: {outcome:?}"),
                        read = lines.read_exact(&mut line) => {
                            read.unwrap();
                            interrupter.pause();
                        }
                    }
                });
            }
            sender.send(()).unwrap();
        });
        // Only a hang takes it: on one busy processor it is 20 seconds.
        let dropped = dropped.recv_timeout(Duration::from_secs(180));
        dropped.expect("it is not held on its way out");
        thread.join().unwrap();
    });
}
