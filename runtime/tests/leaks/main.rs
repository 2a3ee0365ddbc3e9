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

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use fixture::{Fixture, args, pipe, start};
use wasi_runtime::{Artifact, Budget, CpuQuota, Guest, Input, Limits, Network, Outcome, Preopen};

/// How many guests are ended, in all states together.
const CYCLES: usize = 10_000;
/// How much may be had more than before, as allocators and the kernel round, in KiB and in mappings. A leak
/// of one page or mapping in each cycle is ten thousand of them.
const MORE_MEMORY: usize = 16 << 10;
const MORE_MAPPINGS: usize = 64;

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
    /// Whether it says so.
    says: bool,
}

fn states(fixture: &Fixture, server: &TcpListener) -> Vec<State> {
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
            says: true,
        })
        .into();
    let address = server.local_addr().unwrap().to_string();
    for (name, words, says) in [
        ("spin.component.wasm", vec![], true),
        ("sleep.component.wasm", vec![], true),
        ("stdin_block.component.wasm", vec![], true),
        ("accept.wasm", vec![], true),
        // Nobody accepts, nobody answers.
        ("fetch.wasm", vec!["http", &address, "/"], false),
    ] {
        let words = ["guest"].into_iter().chain(words).map(str::to_owned);
        states.push(State {
            artifact: fixture.real(name),
            args: words.collect(),
            says,
        });
    }
    states
}

/// Runs a guest until it does what it is to do, and ends it.
fn cycle(fixture: &Fixture, state: &State, end: End) {
    let (theirs, _ours) = pipe();
    let budget = Budget::default();
    let deadline = matches!(end, End::Deadline).then_some(Duration::from_millis(2));
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        preopens: vec![Preopen {
            directory: fixture::open_folder(&fixture.path("cache")),
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
    if state.says && deadline.is_none() {
        running.line();
    }
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
    let states = states(&fixture, &server);
    let all = |cycles: usize| {
        for index in 0..cycles {
            let state = &states[index % states.len()];
            cycle(&fixture, state, ENDS[index / states.len() % ENDS.len()]);
        }
    };
    // The first ones may make what the process keeps.
    all(states.len() * ENDS.len() * 2);
    let before = Held::now();
    all(CYCLES);
    // A thread may take a moment more to find out that it is over.
    let begun = Instant::now();
    while Held::now().is_more_than(before) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::yield_now();
    }
    let after = Held::now();
    assert!(!after.is_more_than(before), "{before:?}, then {after:?}");
}
