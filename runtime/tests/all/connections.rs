//! Sockets of components, up to the limit of what may be open.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;

use wasi_runtime::{Guest, Input, Limits, Network, Outcome};

use crate::fixture::{Fixture, pipe, start};
use crate::wasm;

/// A component that makes sockets of `kind`, `tcp` or `udp`, until that fails with `new-socket-limit`, and
/// then makes some twenty things to wait for, as who waits for a connection of its to end.
fn sockets(kind: &str) -> String {
    wasm::command(&format!(
        r#"(import "wasi:sockets/network@0.2.0" (instance $network
            (type $errors (enum "unknown" "access-denied" "not-supported" "invalid-argument"
                "out-of-memory" "timeout" "concurrency-conflict" "not-in-progress" "would-block"
                "invalid-state" "new-socket-limit" "address-not-bindable" "address-in-use"
                "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
                "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
                "permanent-resolver-failure"))
            (type $families (enum "ipv4" "ipv6"))
            (export "error-code" (type (eq $errors)))
            (export "ip-address-family" (type (eq $families)))))
        (alias export $network "error-code" (type $error))
        (alias export $network "ip-address-family" (type $family))
        (import "wasi:sockets/{kind}@0.2.0" (instance $of
            (export "{kind}-socket" (type (sub resource)))))
        (alias export $of "{kind}-socket" (type $socket))
        (import "wasi:sockets/{kind}-create-socket@0.2.0" (instance $create
            (export "create-{kind}-socket" (func (param "address-family" $family)
                (result (result (own $socket) (error $error)))))))
        (import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (export "subscribe-duration"
                (func (param "when" u64) (result (own $pollable))))))
        (core module $libc (memory (export "memory") 1))
        (core instance $libc (instantiate $libc))
        (core func $create (canon lower (func $create "create-{kind}-socket")
            (memory $libc "memory")))
        (core func $wait (canon lower (func $clock "subscribe-duration")))
        (core module $m
            (import "" "memory" (memory 1))
            (import "" "create" (func $create (param i32 i32)))
            (import "" "wait" (func $wait (param i64) (result i32)))
            (func (export "run") (result i32) (local $i i32)
                (loop $more
                    (call $create (i32.const 0) (i32.const 0))
                    (br_if $more (i32.eqz (i32.load8_u (i32.const 0)))))
                (loop $wait
                    (drop (call $wait (i64.const 1)))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $wait (i32.lt_u (local.get $i) (i32.const 20))))
                (i32.ne (i32.load8_u (i32.const 4)) (i32.const 10))))
        (core instance $main (instantiate $m (with "" (instance
            (export "memory" (memory $libc "memory"))
            (export "create" (func $create))
            (export "wait" (func $wait))))))"#
    ))
}

#[test]
fn one_socket_too_many_is_an_error() {
    let fixture = Fixture::new();
    for kind in ["tcp", "udp"] {
        let guest = Guest {
            network: Network::All,
            limits: Limits {
                handles: 100,
                ..Limits::default()
            },
            ..Guest::default()
        };
        assert_eq!(fixture.run(&sockets(kind), guest).success(), "", "{kind}");
    }
}

#[test]
fn a_listener_of_wasi_0_3_waits_until_there_is_room() {
    let (theirs, ours) = pipe();
    let ours = File::from(ours);
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        network: Network::All,
        limits: Limits {
            handles: 80,
            ..Limits::default()
        },
        ..Guest::default()
    };
    let running = start(&Fixture::new().asynchronous("listener_p3.wasm"), guest);
    let port = running.line();
    let port = port.trim().strip_prefix("listening ").unwrap();
    let port: u16 = port.parse().unwrap();
    // More than it has entries for: the kernel takes the connections that it does not.
    let clients: Vec<_> = (0..120)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let mut told = String::new();
    let mut expect = |text: &str| {
        while told.len() < text.len() {
            told += &running.line();
        }
        let rest = told.split_off(text.len());
        assert_eq!(told, text);
        told = rest;
    };
    for has in 1..=9 {
        expect(&format!("has {has}\n"));
    }
    for _ in &clients[9..] {
        (&ours).write_all(b".").unwrap();
        // The oldest is closed, and so there is room for one more.
        expect("has 8\nhas 9\n");
    }
    assert_eq!(running.kill().outcome, Outcome::Killed);
}
