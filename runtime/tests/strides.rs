//! Guests that are killed in the middle of a long copy of memory. Alone in its process, of whose memory it tells how far
//! they came.

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

use fixture::{Fixture, start};
use wasi_runtime::{Guest, Outcome};

/// What is copied at once, in pages of wasm and in kibibytes: 1.5 GiB.
const PAGES: u64 = 24 << 10;
const ALL: u64 = PAGES << 6;

/// The most memory that this process has had since [`forget`], in kibibytes (proc(5)).
fn most() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn forget() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
fn a_long_copy_is_killed_in_the_middle() {
    let grown = format!("(drop (memory.grow (i32.const {})))", 2 * PAGES);
    let length = PAGES << 16;
    for fixture in [Fixture::new(), Fixture::with_epochs()] {
        for copy in [
            format!("(memory.fill (i32.const 65536) (i32.const 1) (i32.const {length}))"),
            format!("(memory.copy (i32.const 65536) (i32.const {length}) (i32.const {length}))"),
        ] {
            let artifact =
                fixture.wat(&wasm::ready_then(&format!("{grown} {copy} {}", wasm::SPIN)));
            forget();
            let before = most();
            let running = start(&artifact, Guest::default());
            running.line();
            assert_eq!(running.kill().outcome, Outcome::Killed);
            let taken = most() - before;
            assert!(taken < ALL / 2, "{copy}: it came to {} MiB", taken >> 10);
        }
    }
}
