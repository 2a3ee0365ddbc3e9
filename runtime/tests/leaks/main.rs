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

use std::time::{Duration, Instant};

use fixture::{Fixture, pipe, start};
use wasi_runtime::{Guest, Input, Outcome};

/// Threads and descriptors of this process.
fn held() -> (usize, usize) {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn two_hundred_killed_guests_leave_no_thread_and_no_descriptor() {
    let fixture = Fixture::new();
    let artifacts = [
        wasm::SPIN,
        wasm::SLEEP,
        "(drop (call $read (i32.const 64) (i32.const 1)))",
    ]
    .map(|body| fixture.wat(&wasm::ready_then(body)));
    let cycle = |index: usize| {
        let (theirs, _ours) = pipe();
        let guest = Guest {
            stdin: Input::from_fd(theirs).unwrap(),
            preopens: vec![wasi_runtime::Preopen {
                directory: fixture::open_folder(&fixture.path("cache")),
                name: "/".to_owned(),
            }],
            ..Guest::default()
        };
        let running = start(&artifacts[index % artifacts.len()], guest);
        running.line();
        assert_eq!(running.kill().outcome, Outcome::Killed);
    };
    // The first ones may make what the process keeps.
    (0..artifacts.len()).for_each(cycle);
    let before = held();
    (0..200).for_each(cycle);
    // A thread may take a moment more to find out that it is over, those of the first ones, too.
    let more = |now: (usize, usize)| now.0 > before.0 || now.1 > before.1;
    let begun = Instant::now();
    while more(held()) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::yield_now();
    }
    let after = held();
    assert!(!more(after), "{before:?}, then {after:?}");
}
