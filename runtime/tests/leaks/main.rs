//! What a guest leaves behind in the process: nothing. Alone in its process, as it counts threads
//! and descriptors.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

#[path = "../all/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fixture;
#[path = "../all/locate.rs"]
mod locate;
#[path = "../all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fixture::{Fixture, args, pipe, start};
use rustix::fs::Mode;
use wasi_runtime::{
    Artifact, Budget, CpuQuota, Engine, Guest, Input, Limits, Network, Outcome, Preopen,
};

/// How many guests are ended, in all states together.
const CYCLES: usize = 10_000;
/// How much may be had more than before, as allocators and the kernel round, in KiB and in mappings. A leak
/// of one page or mapping in each cycle is ten thousand of them.
const MORE_MEMORY: usize = 16 << 10;
const MORE_MAPPINGS: usize = 64;
/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What this process has.
#[derive(Debug, Clone, Copy)]
struct Held {
    threads: usize,
    descriptors: usize,
    mappings: usize,
    /// In KiB.
    memory: usize,
}

impl Held {
    fn now() -> Self {
        let count = |folder: &str| fs::read_dir(folder).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.trim().strip_suffix(" kB"));
        Self {
            threads: count("/proc/self/task"),
            descriptors: count("/proc/self/fd"),
            mappings: fs::read_to_string("/proc/self/maps")
                .unwrap()
                .lines()
                .count(),
            memory: memory.unwrap().parse().unwrap(),
        }
    }

    fn is_more_than(self, before: Self) -> bool {
        self.threads > before.threads
            || self.descriptors > before.descriptors
            || self.mappings > before.mappings + MORE_MAPPINGS
            || self.memory > before.memory + MORE_MEMORY
    }
}

/// How a guest is ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Kill,
    PauseAndKill,
    PauseResumeAndKill,
    /// While its processor time is used up.
    ThrottleAndKill,
    /// By its own limit of time.
    Deadline,
}

const ENDS: [End; 5] = [
    End::Kill,
    End::PauseAndKill,
    End::PauseResumeAndKill,
    End::ThrottleAndKill,
    End::Deadline,
];

/// What a guest is doing then.
struct State {
    artifact: Artifact,
    args: Vec<String>,
    said: Said,
}

/// How it is known that it is doing so.
#[derive(Debug, Clone, Copy)]
enum Said {
    /// It writes a line.
    Line,
    /// It connects to the server that never answers.
    Connection,
    /// It is not: it may be anywhere on its way there.
    Nothing,
}

/// Opens a fifo that has a writer, and reads from it; nothing is ever written.
const STALLED: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\50\00\00\00\06\00\00\00")
    (data (i32.const 64) "fifo")
    (data (i32.const 80) "ready\n")
    (func (export "_start")
        (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4)
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 128))
            (then unreachable))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $read (i32.load (i32.const 128)) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// The servers are one that accepts nobody and one that answers nobody.
fn states(fixture: &Fixture, deaf: &TcpListener, mute: &str) -> Vec<State> {
    let polling = "(i64.store (i32.const 152) (i64.const 3600000000000))
        (i32.store (i32.const 144) (i32.const 1))
        (i32.store8 (i32.const 184) (i32.const 1))
        (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 2) (i32.const 320)))";
    let modules = [
        wasm::SPIN,
        "(loop $more
            (memory.copy (i32.const 65536) (i32.const 131072) (i32.const 65536))
            (br $more))",
        "(loop $more (drop (call $fdstat (i32.const 1) (i32.const 128))) (br $more))",
        wasm::SLEEP,
        polling,
        "(drop (call $read (i32.const 64) (i32.const 1)))",
    ];
    let mut states: Vec<State> = modules
        .map(|body| State {
            artifact: fixture.wat(&wasm::ready_then(body)),
            args: vec!["guest".to_owned()],
            said: Said::Line,
        })
        .into();
    states.push(State {
        artifact: fixture.wat(STALLED),
        args: vec!["guest".to_owned()],
        said: Said::Line,
    });
    let deaf = deaf.local_addr().unwrap().to_string();
    let asynchronous = Engine::with_wasi_0_3().unwrap();
    for (name, words, said) in [
        ("spin.component.wasm", vec![], Said::Line),
        ("sleep.component.wasm", vec![], Said::Line),
        ("stdin_block.component.wasm", vec![], Said::Line),
        ("accept.wasm", vec![], Said::Line),
        ("resolve.wasm", vec!["localhost", "again"], Said::Line),
        ("fetch.wasm", vec!["http", &deaf, "/"], Said::Nothing),
        ("fetch.wasm", vec!["http", mute, "/"], Said::Connection),
        ("streams_p3.wasm", vec!["sleep"], Said::Line),
        ("streams_p3.wasm", vec!["both"], Said::Line),
        ("streams_p3.wasm", vec!["spin"], Said::Line),
        ("fetch_p3.wasm", vec!["http", mute, "/"], Said::Connection),
    ] {
        let wasm = locate::built(&format!("guests/{name}"), "make guests");
        let wasm = fs::read(wasm).unwrap();
        let engine = match name.contains("_p3") {
            true => &asynchronous,
            false => &fixture.engine,
        };
        let words = ["guest"].into_iter().chain(words).map(str::to_owned);
        states.push(State {
            artifact: fixture.load_on(engine, &wasm),
            args: words.collect(),
            said,
        });
    }
    states
}

/// A server that accepts and never answers, and whom it has accepted.
fn mute() -> (String, Receiver<TcpStream>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let (accepted, connections) = channel();
    drop(std::thread::spawn(move || {
        for connection in server.incoming() {
            if accepted.send(connection.unwrap()).is_err() {
                return;
            }
        }
    }));
    (address, connections)
}

/// Runs a guest until it does what it is to do, and ends it.
fn cycle(fixture: &Fixture, connections: &Receiver<TcpStream>, state: &State, end: End) {
    let (theirs, _ours) = pipe();
    // Those of guests before it.
    connections.try_iter().for_each(drop);
    let budget = Budget::default();
    let deadline = matches!(end, End::Deadline).then_some(Duration::from_millis(2));
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        preopens: vec![Preopen {
            directory: fixture::open_folder(&fixture.path("files")),
            name: "/".to_owned(),
        }],
        network: Network::All,
        budget: budget.clone(),
        limits: Limits {
            deadline,
            ..Limits::default()
        },
        args: state.args.clone(),
        ..args(["guest"])
    };
    let running = start(&state.artifact, guest);
    // One that has little time may have none left to say anything.
    let _connection = match (state.said, deadline) {
        (Said::Line, None) => {
            running.line();
            None
        }
        (Said::Connection, None) => Some(connections.recv_timeout(PATIENCE).unwrap()),
        (_, _) => None,
    };
    match end {
        End::Kill | End::Deadline => {}
        End::PauseAndKill => running.interrupter.pause(),
        End::PauseResumeAndKill => {
            running.interrupter.pause();
            running.interrupter.resume();
        }
        End::ThrottleAndKill => {
            let little = CpuQuota::new(Duration::from_micros(1), Duration::from_secs(10));
            budget.set_cpu(little).unwrap();
        }
    }
    let ran = match deadline {
        Some(_) => running.end(),
        None => running.kill(),
    };
    let expected = deadline.map_or(Outcome::Killed, |after| Outcome::DeadlineExceeded { after });
    assert_eq!(ran.outcome, expected, "{ran:?}");
}

#[test]
fn ten_thousand_ended_guests_leave_nothing() {
    let fixture = Fixture::new();
    // Its backlog is full soon: then a guest waits for its connection.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = mute();
    let states = states(&fixture, &server, &address);
    let files = fixture.path("files");
    fs::create_dir(&files).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, files.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    // With a writer its guests get past opening it.
    let _writer = File::options()
        .read(true)
        .write(true)
        .open(files.join("fifo"))
        .unwrap();
    let all = |cycles: usize| {
        for index in 0..cycles {
            let state = &states[index % states.len()];
            let end = ENDS[index / states.len() % ENDS.len()];
            cycle(&fixture, &connections, state, end);
        }
    };
    // The first ones may make what the process keeps.
    all(states.len() * ENDS.len() * 2);
    let held = || {
        connections.try_iter().for_each(drop);
        Held::now()
    };
    let before = held();
    all(CYCLES);
    // A thread may take a moment more to find out that it is over.
    let begun = Instant::now();
    while held().is_more_than(before) && begun.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    let after = held();
    assert!(!after.is_more_than(before), "{before:?}, then {after:?}");
}
