//! Guests that are blocked cost nothing: no thread of the process is woken. Alone in its process, as it
//! counts the context switches of all threads.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

#[path = "all/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fixture;
#[path = "all/locate.rs"]
mod locate;
#[path = "idle/services.rs"]
mod services;
#[path = "all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use fixture::{Fixture, Running, pipe, start};
use wasi_runtime::{Artifact, Budget, CpuQuota, Guest, Input, Limits, Network, Outcome};

/// How long nothing may happen.
const IDLE: Duration = Duration::from_secs(10);
/// How long the guests may take to get where they block. Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Voluntary context switches of each thread but this one, by name and id.
fn switches() -> BTreeMap<String, u64> {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut switches = BTreeMap::new();
    for thread in fs::read_dir("/proc/self/task").unwrap() {
        let thread = thread.unwrap();
        let id = thread.file_name().into_string().unwrap();
        // One that ends meanwhile has been woken, and is missed.
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        if id != own {
            let count = field("voluntary_ctxt_switches:")
                .parse()
                .unwrap_or_default();
            switches.insert(format!("{} {id}", field("Name:")), count);
        }
    }
    switches
}

/// Lets time pass.
#[allow(
    clippy::disallowed_methods,
    reason = "that nothing happens in it is what is tested"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until all guests have got where they block.
fn settle() {
    let begun = Instant::now();
    loop {
        let before = switches();
        rest(Duration::from_millis(200));
        if switches() == before {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "they do not block");
    }
}

/// A guest with a quota and a deadline, and a stdin that nobody writes to.
fn blocked(
    (artifact, words): (&Artifact, &[&str]),
    budget: &Budget,
    stdin: &impl Fn() -> Input,
) -> Running {
    let guest = Guest {
        stdin: stdin(),
        budget: budget.clone(),
        limits: Limits {
            deadline: Some(Duration::from_secs(3600)),
            ..Limits::default()
        },
        network: Network::All,
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        ..Guest::default()
    };
    let running = start(artifact, guest);
    running.line();
    running
}

#[test]
fn blocked_guests_wake_nobody_in_ten_seconds() {
    let fixture = Fixture::new();
    let (theirs, _ours) = pipe();
    let stdin = || Input::from_fd(theirs.try_clone().unwrap()).unwrap();
    let reading = "(drop (call $read (i32.const 64) (i32.const 1)))";
    // poll_oneoff: a clock in an hour, and stdin (event 1, descriptor 0).
    let polling = "(i64.store (i32.const 152) (i64.const 3600000000000))
        (i32.store (i32.const 144) (i32.const 1))
        (i32.store8 (i32.const 184) (i32.const 1))
        (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 2) (i32.const 320)))";
    let mut artifacts: Vec<_> = [reading, polling, wasm::SLEEP]
        .map(|body| fixture.wat(&wasm::ready_then(body)))
        .into();
    for name in ["stdin_block", "sleep"] {
        artifacts.push(fixture.real(&format!("{name}.component.wasm")));
    }
    artifacts.push(fixture.real("accept.wasm"));
    let mut programs: Vec<(_, &[&str])> = artifacts
        .iter()
        .map(|artifact| (artifact, &["guest"][..]))
        .collect();
    let asynchronous = fixture.asynchronous("streams_p3.wasm");
    programs.push((&asynchronous, &["guest", "sleep"]));
    programs.push((&asynchronous, &["guest", "both"]));
    let quota = CpuQuota::new(Duration::from_millis(5), Duration::from_millis(10));
    let guests: Vec<_> = programs
        .iter()
        .flat_map(|artifact| {
            let budget = Budget::default();
            budget.set_cpu(quota).unwrap();
            [(); 3].map(|()| blocked(*artifact, &budget, &stdin))
        })
        .collect();
    // One that computes, and is paused, inside of its code.
    let budget = Budget::default();
    budget.set_cpu(quota).unwrap();
    let computing = fixture.wat(&wasm::ready_then(wasm::SPIN));
    let paused = blocked((&computing, &["guest"]), &budget, &stdin);
    paused.interrupter.pause();
    // Services that have answered, and whose clients are still connected.
    let services = services::asked(&fixture);
    settle();
    let before = switches();
    rest(IDLE);
    let after = switches();
    let woken: Vec<_> = after
        .iter()
        .filter(|(thread, count)| before.get(*thread) != Some(count))
        .collect();
    assert!(woken.is_empty(), "{woken:?}");
    assert_eq!(before.len(), after.len());
    // It is bound again when it goes on.
    let throttled = budget.usage().throttling().throttled;
    paused.interrupter.resume();
    let begun = Instant::now();
    while budget.usage().throttling().throttled < throttled + 10 {
        assert!(begun.elapsed() < PATIENCE, "nobody watches its quota");
        rest(Duration::from_millis(1));
    }
    assert_eq!(paused.kill().outcome, Outcome::Killed);
    let services = services.into_iter().map(|(service, _client)| service);
    for guest in guests.into_iter().chain(services) {
        assert_eq!(guest.kill().outcome, Outcome::Killed);
    }
}
