//! WASI 0.1 programs that serve: sockets that listen, which they were given.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tempfile::TempDir;
use wasi_runtime::{Error, Guest, Network, Outcome, Peer, Preopen};

use crate::fixture::{Fixture, args, start};
use crate::wasm;

/// `guest` with a directory as its descriptor 3 and a listening socket as 4.
fn serving(guest: Guest) -> (Guest, SocketAddr, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let guest = Guest {
        preopens: vec![Preopen {
            directory: File::open(folder.path()).unwrap().into(),
            name: "/".to_owned(),
        }],
        listeners: vec![listener],
        network: Network::All,
        ..guest
    };
    (guest, address, folder)
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer
    }
}

#[test]
fn a_rust_server_answers_one_after_another() {
    let fixture = Fixture::new();
    let serve = fixture.real("serve.wasm");
    for how in [&["serve", "4", "3"][..], &["serve", "4", "3", "poll"]] {
        let how = how.iter().map(|&arg| arg.to_owned()).collect();
        let (guest, address, _folder) = serving(Guest {
            args: how,
            ..Guest::default()
        });
        let running = start(&serve, guest);
        assert_eq!(running.line(), "serving 1\n");
        for word in ["one", "two", "three"] {
            let mut client = Client::connect(address);
            for _ in 0..3 {
                let answer = client.ask(&format!("{word}\n"));
                assert_eq!(answer, format!("{}\n", word.to_uppercase()));
            }
            client.0.get_mut().shutdown(Shutdown::Write).unwrap();
            let mut rest = String::new();
            client.0.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "");
        }
        running.end().success();
    }
}

#[test]
fn a_go_server_answers_all_at_once() {
    let fixture = Fixture::new();
    let (guest, address, _folder) = serving(args(["serve", "4", "20"]));
    let running = start(&fixture.real("serve-go.wasm"), guest);
    assert_eq!(running.line(), "serving 1\n");
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate().rev() {
            let answer = client.ask(&format!("{round} {number}\n"));
            assert_eq!(answer, format!("go: {round} {number}\n"));
        }
    }
    drop(clients);
    running.end().success();
}

#[test]
fn more_than_a_pipe_holds_goes_through() {
    let fixture = Fixture::new();
    let (guest, address, _folder) = serving(args(["serve", "4", "1"]));
    let running = start(&fixture.real("serve-go.wasm"), guest);
    let client = TcpStream::connect(address).unwrap();
    let line = "x".repeat(1000);
    let mut writer = client.try_clone().unwrap();
    let sent = format!("{line}\n");
    let sender = std::thread::spawn(move || {
        for _ in 0..4000 {
            writer.write_all(sent.as_bytes()).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let received = BufReader::new(client).lines();
    let whole = received
        .map_while(Result::ok)
        .filter(|received| *received == format!("go: {line}"))
        .count();
    assert_eq!(whole, 4000);
    sender.join().unwrap();
    running.end().success();
}

#[test]
fn a_server_that_waits_can_be_killed() {
    let fixture = Fixture::new();
    for program in ["serve.wasm", "serve-go.wasm"] {
        let artifact = fixture.real(program);
        let (guest, address, _folder) = serving(args(["serve", "4", "2"]));
        let running = start(&artifact, guest);
        running.line();
        // Once while it reads, and it has accepted.
        let mut client = Client::connect(address);
        client.ask("hello\n");
        assert_eq!(running.kill().outcome, Outcome::Killed);
        let closed = client.0.read(&mut [0; 1]);
        assert!(!matches!(closed, Ok(1..)), "{closed:?}");
        let refused = TcpStream::connect(address);
        assert!(refused.is_err(), "it is still listening");
        // Once while it accepts.
        let (guest, _address, _folder) = serving(args(["serve", "4", "1"]));
        let running = start(&artifact, guest);
        running.line();
        assert_eq!(running.kill().outcome, Outcome::Killed);
    }
}

#[test]
fn who_may_not_come_is_hung_up_on() {
    let fixture = Fixture::new();
    let (mut guest, address, _folder) = serving(args(["serve", "4", "1"]));
    guest.network = Network::Only(vec![Peer {
        addresses: "127.0.0.2/32".parse().unwrap(),
        port: None,
    }]);
    let running = start(&fixture.real("serve.wasm"), guest);
    running.line();
    let mut stranger = Client::connect(address);
    let closed = stranger.0.read(&mut [0; 1]);
    assert!(!matches!(closed, Ok(1..)), "{closed:?}");
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

/// A program with every call on sockets. `$want WHAT GOT` exits with 1 unless both are the same.
fn program(body: &str) -> String {
    wasm::module(&format!(
        r#"(func $want (param i32 i32)
            (if (i32.ne (local.get 0) (local.get 1))
                (then (call $exit (i32.add (i32.const 1000) (local.get 1))))))
        (data (i32.const 64) "ready\n") (data (i32.const 80) "file")
        (func (export "_start") {body})"#
    ))
    .replacen(
        "(module",
        r#"(module
        (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_recv"
            (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $flags (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))"#,
        1,
    )
}

/// Creates a file in directory 3 and puts its number at 400.
const OPEN: &str =
    "(call $want (i32.const 0) (call $open (i32.const 3) (i32.const 0) (i32.const 80)
    (i32.const 4) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 400)))";

#[test]
fn no_number_means_two_things() {
    let fixture = Fixture::new();
    let artifact = fixture.wat(&program(&format!(
        "(call $want (i32.const 0) (call $prestat (i32.const 3) (i32.const 400)))
        (call $want (i32.const 8) (call $prestat (i32.const 4) (i32.const 400)))
        ;; A stream socket that does not block.
        (call $want (i32.const 0) (call $fdstat (i32.const 4) (i32.const 400)))
        (call $want (i32.const 6) (i32.load8_u (i32.const 400)))
        (call $want (i32.const 4) (i32.load16_u (i32.const 402)))
        (call $want (i32.const 6) (call $accept (i32.const 4) (i32.const 0) (i32.const 400)))
        ;; What is no socket does not accept, and a listener is not read, and no directory.
        (call $want (i32.const 57) (call $accept (i32.const 3) (i32.const 0) (i32.const 400)))
        (call $want (i32.const 8) (call $accept (i32.const 77) (i32.const 0) (i32.const 400)))
        (call $want (i32.const 53) (call $fd_read (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 400)))
        (call $want (i32.const 54) (call $open (i32.const 4) (i32.const 0) (i32.const 80)
            (i32.const 4) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 400)))
        ;; Files come after it.
        {OPEN}
        (call $want (i32.const 5) (i32.load (i32.const 400)))
        ;; A file that takes its number closes it.
        (call $want (i32.const 0) (call $renumber (i32.const 5) (i32.const 4)))
        (call $want (i32.const 57) (call $accept (i32.const 4) (i32.const 0) (i32.const 400)))
        (call $want (i32.const 0) (call $close (i32.const 4)))
        (call $want (i32.const 8) (call $close (i32.const 4)))
        ;; Both numbers are free for files now.
        {OPEN}
        (call $want (i32.const 5) (i32.load (i32.const 400)))
        {OPEN}
        (call $want (i32.const 4) (i32.load (i32.const 400)))"
    )));
    let (guest, address, _folder) = serving(Guest::default());
    let ran = start(&artifact, guest).end();
    ran.success();
    assert!(
        TcpStream::connect(address).is_err(),
        "it is still listening"
    );
}

#[test]
fn an_accepted_socket_can_take_the_number_of_a_file() {
    let fixture = Fixture::new();
    let artifact = fixture.wat(&program(
        &"(call $say (i32.const 1) (i32.const 64) (i32.const 6))
        (call $want (i32.const 0) (call $flags (i32.const 4) (i32.const 0)))
        (call $want (i32.const 0) (call $accept (i32.const 4) (i32.const 4) (i32.const 400)))
        {OPEN}
        (call $want (i32.const 5) (i32.load (i32.const 400)))
        (call $want (i32.const 0) (call $renumber (i32.const 1073741824) (i32.const 5)))
        (call $want (i32.const 8) (call $close (i32.const 1073741824)))
        (call $say (i32.const 5) (i32.const 64) (i32.const 6))
        (call $want (i32.const 28) (call $shutdown (i32.const 5) (i32.const 0)))
        (call $want (i32.const 0) (call $shutdown (i32.const 5) (i32.const 2)))
        (call $want (i32.const 0) (call $close (i32.const 5)))
        (call $want (i32.const 8) (call $close (i32.const 5)))
        {OPEN}
        (call $want (i32.const 5) (i32.load (i32.const 400)))"
            .replace("{OPEN}", OPEN),
    ));
    let (guest, address, folder) = serving(Guest::default());
    let running = start(&artifact, guest);
    running.line();
    let mut client = Client::connect(address);
    let mut said = String::new();
    client.0.read_to_string(&mut said).unwrap();
    running.end().success();
    assert_eq!(said, "ready\n");
    let written = std::fs::read(folder.path().join("file")).unwrap();
    assert_eq!(written, b"", "it went to the file");
}

/// Subscriptions are at 128: a clock, then one to read a descriptor. Events go to 512.
#[test]
fn sockets_and_clocks_are_waited_for_together() {
    let fixture = Fixture::new();
    let wait = "(call $want (i32.const 0) (call $poll (i32.const 128) (i32.const 512) (i32.const 2)
            (i32.const 320)))
        (call $want (i32.const 1) (i32.load (i32.const 320)))";
    let artifact = fixture.wat(&program(&format!(
        "(i64.store (i32.const 128) (i64.const 11))
        (i32.store (i32.const 144) (i32.const 1))
        (i64.store (i32.const 176) (i64.const 22))
        (i32.store8 (i32.const 184) (i32.const 1))
        (i32.store (i32.const 192) (i32.const 4))
        ;; Nobody comes at once: the clock, which runs for nothing, is first.
        {wait}
        (call $want (i32.const 11) (i32.load (i32.const 512)))
        (call $want (i32.const 0) (i32.load8_u (i32.const 522)))
        ;; Somebody comes before an hour is over.
        (i64.store (i32.const 152) (i64.const 3600000000000))
        (call $say (i32.const 1) (i32.const 64) (i32.const 6))
        {wait}
        (call $want (i32.const 22) (i32.load (i32.const 512)))
        (call $want (i32.const 0) (i32.load16_u (i32.const 520)))
        (call $want (i32.const 1) (i32.load8_u (i32.const 522)))
        (call $want (i32.const 0) (call $accept (i32.const 4) (i32.const 4) (i32.const 400)))
        (call $want (i32.const 1073741824) (i32.load (i32.const 400)))
        ;; And then nobody: what was ready is so no more.
        (i64.store (i32.const 152) (i64.const 0))
        {wait}
        (call $want (i32.const 11) (i32.load (i32.const 512)))
        ;; The connection has six bytes to read.
        (i32.store (i32.const 192) (i32.const 1073741824))
        (i64.store (i32.const 152) (i64.const 3600000000000))
        {wait}
        (call $want (i32.const 22) (i32.load (i32.const 512)))
        (call $want (i32.const 6) (i32.load (i32.const 528)))
        ;; Which stay there for one that peeks.
        (i32.store (i32.const 0) (i32.const 600))
        (i32.store (i32.const 4) (i32.const 100))
        (call $want (i32.const 0) (call $recv (i32.const 1073741824) (i32.const 0) (i32.const 1) (i32.const 1)
            (i32.const 400) (i32.const 404)))
        (call $want (i32.const 0) (call $recv (i32.const 1073741824) (i32.const 0) (i32.const 1) (i32.const 0)
            (i32.const 400) (i32.const 404)))
        (call $want (i32.const 6) (i32.load (i32.const 400)))
        (i32.store (i32.const 4) (i32.const 6))
        (call $want (i32.const 0) (call $send (i32.const 1073741824) (i32.const 0) (i32.const 1) (i32.const 0)
            (i32.const 400)))
        ;; And no more.
        (call $want (i32.const 6) (call $fd_read (i32.const 1073741824) (i32.const 0) (i32.const 1) (i32.const 400)))"
    )));
    let (guest, address, _folder) = serving(Guest::default());
    let running = start(&artifact, guest);
    running.line();
    let mut client = Client::connect(address);
    assert_eq!(client.ask("hello\n"), "hello\n");
    let ran = running.end();
    assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
}

#[test]
fn a_component_opens_its_own() {
    let fixture = Fixture::new();
    let (guest, _address, _folder) = serving(Guest::default());
    let error = fixture
        .real("hello.component.wasm")
        .prepare(guest)
        .unwrap_err();
    assert!(matches!(error, Error::Listeners), "{error:?}");
    assert!(error.is_guest_fault());
}
