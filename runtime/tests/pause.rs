//! Pause and resume. Alone in its process, as it looks at the processor time of a thread.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

#[path = "all/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fixture;
#[path = "all/locate.rs"]
mod locate;
#[path = "all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::fs;
use std::time::{Duration, Instant};

use fixture::{Fixture, Running, start};
use wasi_runtime::{Artifact, Guest, Outcome};

/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds of processor time of the threads that poll guests.
fn used() -> u64 {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    // The first field of schedstat (proc(5)).
    let time = |stat: String| stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    let times = threads.filter_map(|thread| {
        let folder = thread.unwrap().path();
        let name = fs::read_to_string(folder.join("comm")).ok()?;
        let stat = fs::read_to_string(folder.join("schedstat")).ok()?;
        name.starts_with("guest").then(|| time(stat))
    });
    times.sum()
}

/// How many threads of this process have that name.
fn threads(name: &str) -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| {
        let comm = thread.unwrap().path().join("comm");
        fs::read_to_string(comm).ok()
    });
    names.filter(|comm| comm.trim_end() == name).count()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// The guest's thread uses no processor any more, however long one looks.
fn is_stopped() -> bool {
    let before = used();
    for _ in 0..200 {
        std::thread::yield_now();
    }
    used() == before
}

fn pauses_and_resumes(running: &Running) {
    for _ in 0..100 {
        running.interrupter.pause();
        until("it stops", is_stopped);
        let stopped_at = used();
        running.interrupter.resume();
        until("it goes on", || used() > stopped_at);
    }
    // Faster than the guest can follow: what counts is the last word.
    for _ in 0..10_000 {
        running.interrupter.pause();
        running.interrupter.resume();
    }
    let resumed_at = used();
    until("it goes on", || used() > resumed_at);
}

fn ready(artifact: &Artifact) -> Running {
    let running = start(artifact, Guest::default());
    running.line();
    running
}

#[test]
fn a_busy_guest_pauses_resumes_and_is_killed_in_either() {
    stops_and_goes(&Fixture::new());
    stops_and_goes(&Fixture::with_epochs());
}

fn stops_and_goes(fixture: &Fixture) {
    let artifact = fixture.wat(&wasm::ready_then(wasm::SPIN));
    let running = ready(&artifact);
    pauses_and_resumes(&running);
    assert_eq!(running.kill().outcome, Outcome::Killed);

    let paused = ready(&artifact);
    paused.interrupter.pause();
    until("it stops", is_stopped);
    assert_eq!(paused.kill().outcome, Outcome::Killed);

    // In the host at most instructions.
    let calling = "(loop $more (drop (call $fdstat (i32.const 1) (i32.const 128))) (br $more))";
    let running = ready(&fixture.wat(&wasm::ready_then(calling)));
    pauses_and_resumes(&running);
    assert_eq!(running.kill().outcome, Outcome::Killed);

    // In a copy that takes milliseconds, and takes no orders meanwhile: one thread insists on all of them. A few more may be
    // seen on their way out.
    let copying = "(drop (memory.grow (i32.const 2000)))
        (loop $more
            (memory.copy (i32.const 0) (i32.const 65000000) (i32.const 65000000))
            (br $more))";
    let running = ready(&fixture.wat(&wasm::ready_then(copying)));
    for _ in 0..200 {
        running.interrupter.pause();
        let insisting = threads("wasi-interrupt");
        assert!(insisting <= 8, "{insisting} threads insist");
        running.interrupter.resume();
    }
    assert_eq!(running.kill().outcome, Outcome::Killed);

    // Blocked: what it waits for comes, and it goes on only when it may.
    let sleeping = "(i64.store (i32.const 152) (i64.const 1))
        (i32.store (i32.const 144) (i32.const 1))
        (loop $more
            (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)))
            (br $more))";
    let running = ready(&fixture.wat(&wasm::ready_then(sleeping)));
    pauses_and_resumes(&running);
    assert_eq!(running.kill().outcome, Outcome::Killed);
}
