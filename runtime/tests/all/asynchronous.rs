//! Components of WASI 0.3: on an engine for them all else holds as for other guests, and another engine
//! refuses them.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use wasi_runtime::{
    Artifact, Budget, Engine, Error, Guest, Input, Limits, Network, Outcome, Output, Peer,
};

use crate::fixture::{Fixture, args, pipe, run, start};
use crate::locate;

const STREAMS: &str = "streams_p3.wasm";

fn streams() -> Artifact {
    Fixture::new().asynchronous(STREAMS)
}

fn wasm() -> Vec<u8> {
    std::fs::read(locate::built(&format!("guests/{STREAMS}"), "make guests")).unwrap()
}

#[test]
fn stdin_goes_through_streams_to_stdout() {
    let artifact = streams();
    let (theirs, ours) = pipe();
    let (back, stdout) = pipe();
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        stdout: Output::from_fd(stdout).unwrap(),
        ..args(["streams", "cat"])
    };
    let running = run(artifact.prepare(guest).unwrap());
    let (mut ours, mut back) = (File::from(ours), File::from(back));
    // What was written arrives while the stream stays open, and all of it, whatever the bytes.
    ours.write_all(b"a line\n").unwrap();
    let mut line = [0; 7];
    back.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"a line\n");
    let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let writing = std::thread::spawn({
        let sent = sent.clone();
        move || ours.write_all(&sent).unwrap()
    });
    let mut came = Vec::new();
    back.read_to_end(&mut came).unwrap();
    writing.join().unwrap();
    assert!(came == sent, "{} bytes of {}", came.len(), sent.len());
    assert_eq!(running.end().outcome, Outcome::Exited(0));
}

#[test]
fn a_closed_stdin_has_an_end_and_gone_readers_are_told() {
    assert_eq!(
        start(&streams(), args(["streams", "cat"])).end().success(),
        ""
    );
    let (back, stdout) = pipe();
    drop(back);
    let guest = Guest {
        stdout: Output::from_fd(stdout).unwrap(),
        ..args(["streams", "sleep"])
    };
    let ran = run(streams().prepare(guest).unwrap()).end();
    // The guest expects to be able to write.
    assert!(matches!(ran.outcome, Outcome::Trapped { .. }), "{ran:?}");
}

#[test]
fn what_it_is_given_is_what_it_sees() {
    let guest = Guest {
        env: vec![("COLOUR".to_owned(), "blue".to_owned())],
        cwd: Some("/work".to_owned()),
        ..args(["streams", "tell", "more"])
    };
    let ran = start(&streams(), guest).end();
    assert_eq!(
        ran.stderr,
        "[\"tell\", \"more\"] Some((\"COLOUR\", \"blue\")) Some(\"/work\") false false\n"
    );
}

#[test]
fn every_end_has_its_outcome() {
    let artifact = streams();
    let outcome = |words| start(&artifact, args(words)).end();
    assert_eq!(
        outcome(["streams", "exit", "0"]).outcome,
        Outcome::Exited(0)
    );
    assert_eq!(
        outcome(["streams", "exit", "77"]).outcome,
        Outcome::Exited(77)
    );
    let failed = start(&artifact, args(["streams", "fail"])).end();
    assert_eq!(failed.outcome, Outcome::Exited(1));
    let trapped = start(&artifact, args(["streams", "trap"])).end();
    assert!(trapped.trace().contains("unreachable"), "{trapped:?}");
}

#[test]
fn its_start_can_be_asked_for_by_name() {
    let export = component_exports(&wasm());
    let guest = Guest {
        export: Some(format!("{export}#run")),
        ..args(["streams", "exit", "5"])
    };
    assert_eq!(start(&streams(), guest).end().outcome, Outcome::Exited(5));
}

/// The name, with the version that the guest's library has.
fn component_exports(wasm: &[u8]) -> String {
    let text = String::from_utf8_lossy(wasm);
    let begin = text.rfind("wasi:cli/run@0.3.").unwrap();
    let end = text[begin..].find(|letter: char| letter.is_control() || letter == '#');
    text[begin..begin + end.unwrap()].to_owned()
}

#[test]
fn an_asynchronous_export_answers_with_an_exit_code() {
    let wasm = wat::parse_str(
        r#"(component
            (core module $library
                (import "" "return" (func $return (param i32)))
                (func (export "run") (result i32) (call $return (i32.const 42)) (i32.const 0))
                (func (export "next") (param i32 i32 i32) (result i32) unreachable))
            (core func $return (canon task.return (result u32)))
            (core instance $made (instantiate $library
                (with "" (instance (export "return" (func $return))))))
            (func (export "answer") async (result u32)
                (canon lift (core func $made "run") async (callback (func $made "next")))))"#,
    )
    .unwrap();
    let engine = Engine::with_wasi_0_3().unwrap();
    let artifact = Fixture::new().load_on(&engine, &wasm);
    let guest = Guest {
        export: Some("answer".to_owned()),
        ..args(["library"])
    };
    assert_eq!(start(&artifact, guest).end().outcome, Outcome::Exited(42));
    let error = artifact.prepare(Guest::default()).unwrap_err().to_string();
    assert!(error.contains("can be asked for: answer"), "{error}");
}

#[test]
fn an_engine_without_it_refuses_it_and_says_what_turns_it_on() {
    let error = Fixture::new().load(&wasm()).unwrap_err();
    assert!(matches!(error, Error::Off { .. }), "{error:?}");
    assert!(error.is_guest_fault());
    assert_eq!(
        error.to_string(),
        "it is a component of WASI 0.3, which is off; the option wasi-0.3 turns it on"
    );
    // One that has nothing asynchronous in it compiles.
    let synchronous = r#"(component (import "wasi:random/insecure-seed@0.3.0" (instance
        (export "get-insecure-seed" (func (result (tuple u64 u64)))))))"#;
    let artifact = Fixture::new().wat(synchronous);
    let error = artifact.prepare(Guest::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it imports wasi:random/insecure-seed@0.3.0, which is off; the option wasi-0.3 turns it on"
    );
}

/// The code differs, and an entry of one kind is none of the other.
#[test]
fn both_kinds_of_code_have_entries_of_their_own() {
    let fixture = Fixture::new();
    let hello = std::fs::read(locate::built("guests/hello.component.wasm", "make guests"));
    let hello = hello.unwrap();
    let old = fixture.artifact(&hello);
    let new = fixture.load_on(&Engine::with_wasi_0_3().unwrap(), &hello);
    let names = fixture.entries();
    let names: Vec<_> = names
        .iter()
        .filter(|name| name.ends_with(".cwasm"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for artifact in [old, new] {
        let said = start(&artifact, args(["hello"])).end().success();
        assert_eq!(said, "hello from wasi\n");
    }
}

#[test]
fn whatever_it_waits_for_it_is_killed() {
    let artifact = streams();
    let sleeping = start(&artifact, args(["streams", "sleep"]));
    assert_eq!(sleeping.line(), "sleeping\n");
    assert_eq!(sleeping.kill().outcome, Outcome::Killed);
    let spinning = start(&artifact, args(["streams", "spin"]));
    assert_eq!(spinning.line(), "spinning\n");
    assert_eq!(spinning.kill().outcome, Outcome::Killed);
    let (theirs, _ours) = pipe();
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        ..args(["streams", "both"])
    };
    let waiting = start(&artifact, guest);
    assert_eq!(waiting.line(), "waiting\n");
    assert_eq!(waiting.kill().outcome, Outcome::Killed);
}

#[test]
fn while_it_is_paused_nothing_comes_and_then_all_does() {
    let (theirs, ours) = pipe();
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        ..args(["streams", "both"])
    };
    let running = start(&streams(), guest);
    assert_eq!(running.line(), "waiting\n");
    running.interrupter.pause();
    let mut ours = File::from(ours);
    ours.write_all(b"words").unwrap();
    // A guest that went on against its pause would read them some time.
    for _ in 0..10_000 {
        assert_eq!(rustix::io::ioctl_fionread(&ours).unwrap_or(5), 5);
        std::thread::yield_now();
    }
    running.interrupter.resume();
    assert_eq!(running.end().success(), "read words\n");
}

#[test]
fn its_limits_are_kept() {
    const LIMIT: u64 = 32 << 20;
    let artifact = streams();
    let budget = Budget::default();
    budget.set_memory(Some(LIMIT));
    let guest = Guest {
        budget: budget.clone(),
        ..args(["streams", "grow"])
    };
    let ran = start(&artifact, guest).end();
    assert_eq!(
        ran.outcome,
        Outcome::OutOfMemory { limit: LIMIT },
        "{ran:?}"
    );
    assert_eq!(budget.usage().memory(), 0);
    let after = Duration::from_millis(50);
    let guest = Guest {
        limits: Limits {
            deadline: Some(after),
            ..Limits::default()
        },
        ..args(["streams", "sleep"])
    };
    let ran = start(&artifact, guest).end();
    assert_eq!(ran.outcome, Outcome::DeadlineExceeded { after });
}

#[test]
fn its_sockets_and_names_are_what_the_network_allows() {
    let artifact = streams();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let connect = |network| {
        let guest = Guest {
            network,
            ..args(["streams", "connect", "127.0.0.1", &port, "hello"])
        };
        start(&artifact, guest)
    };
    let only = |addresses: &str, port| {
        let addresses = addresses.parse().unwrap();
        Network::Only(vec![Peer { addresses, port }])
    };
    let allowed = only("127.0.0.0/8", None);
    for (network, told) in [
        (only("10.0.0.0/8", None), "error: ErrorCode::AccessDenied\n"),
        (
            only("127.0.0.1/32", Some(1)),
            "error: ErrorCode::AccessDenied\n",
        ),
    ] {
        assert_eq!(connect(network).end().success(), told);
    }
    let off = connect(Network::Off).end();
    assert!(
        matches!(off.outcome, Outcome::Trapped { .. }),
        "no socket: {off:?}"
    );
    for network in [Network::All, allowed] {
        let running = connect(network);
        let (mut connection, _) = listener.accept().unwrap();
        let mut asked = String::new();
        connection.read_to_string(&mut asked).unwrap();
        connection
            .write_all(asked.to_uppercase().as_bytes())
            .unwrap();
        drop(connection);
        assert_eq!(running.end().success(), "answer HELLO\n");
    }
    let resolve = |network| {
        let guest = Guest {
            network,
            ..args(["streams", "resolve", "localhost"])
        };
        start(&artifact, guest).end().success()
    };
    assert!(resolve(Network::All).contains("127.0.0.1"));
    assert_eq!(
        resolve(Network::Off),
        "error: ErrorCode::PermanentResolverFailure\n"
    );
}
