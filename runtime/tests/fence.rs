//! Guests made to break the fence: code that is stopped where stopping it would be wrong, and neighbours that
//! must not notice. Alone in its process, which a mistake ends.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

#[path = "all/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fixture;
#[path = "all/locate.rs"]
mod locate;
#[path = "fence/pages.rs"]
mod pages;
#[path = "fence/requests.rs"]
mod requests;
#[path = "all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::fmt::Write as _;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::Duration;

use fixture::{Fixture, Running, args, run, runtime, start};
use wasi_runtime::{Artifact, Guest, Outcome};

/// Numbers without a pattern, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn spin(turns: u64) {
    for _ in 0..turns {
        std::hint::spin_loop();
    }
}

/// Kills that many guests of `artifact`, one after the other, where they happen to be.
fn killed(artifact: &Artifact, times: u32) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..times {
        let running = start(artifact, args(["guest"]));
        running.line();
        spin(random.next() % 20_000);
        assert_eq!(running.kill().outcome, Outcome::Killed);
    }
}

/// Raises the fence of a program all the time, for a guest of its own, as long as `meanwhile` takes.
fn in_a_storm<T>(artifact: &Artifact, meanwhile: impl FnOnce() -> T) -> T {
    let guest = start(artifact, args(["guest", "forever"]));
    guest.line();
    in_a_storm_of(guest, meanwhile)
}

/// The same, for a guest that computes.
fn in_a_storm_of<T>(guest: Running, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut random = Random(0xd1b5_4a32_d192_ed03);
            while !over.load(SeqCst) {
                guest.interrupter.pause();
                spin(random.next() % 300);
                guest.interrupter.resume();
                spin(random.next() % 1000);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        over.store(true, SeqCst);
        storm.join().unwrap();
        result
    });
    assert_eq!(guest.kill().outcome, Outcome::Killed);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Spins with more than one argument; else does `body`.
fn or_spin(functions: &str, body: &str) -> String {
    wasm::module(&format!(
        r#"(data (i32.const 64) "ready\n")
        {functions}
        (func (export "_start") (local $i i32)
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            (drop (call $args_sizes (i32.const 128) (i32.const 132)))
            (if (i32.gt_u (i32.load (i32.const 128)) (i32.const 1))
                (then (loop $forever (br $forever))))
            (loop $turn
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $turn (i32.lt_u (local.get $i) (i32.const 200000))))
            {body})"#
    ))
}

/// A guest that computes while its neighbour's fence goes up and down computes the same.
#[test]
fn who_stands_at_anothers_fence_notices_nothing() {
    let body = "(local.set $i (i32.const 1))
        (loop $turn
            (i64.store (i32.const 256) (i64.add
                (i64.mul (i64.load (i32.const 256)) (i64.const 6364136223846793005))
                (i64.const 1442695040888963407)))
            (drop (call $fdstat (i32.const 1) (i32.const 512)))
            (memory.copy (i32.const 65536) (i32.const 256) (i32.const 64))
            (i64.store (i32.const 256)
                (i64.xor (i64.load (i32.const 65536)) (i64.load8_u (i32.const 512))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $turn (i32.lt_u (local.get $i) (i32.const 100000))))
        (call $exit (i32.load8_u (i32.const 259)))";
    let artifact = Fixture::new().wat(&or_spin("", body));
    let alone = start(&artifact, args(["guest"])).end().outcome;
    assert!(matches!(alone, Outcome::Exited(_)), "{alone:?}");
    in_a_storm(&artifact, || {
        for _ in 0..20 {
            assert_eq!(start(&artifact, args(["guest"])).end().outcome, alone);
        }
    });
}

/// Faults of the guest's own, and what a stack has left to say, while the fence is up.
#[test]
fn traps_stay_traps_beside_a_fence() {
    let recursion = "(func $down (param i32) (result i32)
        (i32.add (i32.const 1) (call $down (i32.add (local.get 0) (i32.const 1)))))";
    for (functions, body, told) in [
        (
            "",
            "(drop (i32.load (i32.const 100000000)))",
            "out of bounds",
        ),
        (
            "",
            "(drop (i32.div_u (i32.const 1) (i32.load (i32.const 1024))))",
            "divide by zero",
        ),
        ("", "unreachable", "unreachable"),
        (
            "",
            "(memory.copy (i32.const 0) (i32.const 0) (i32.const 100000000))",
            "out of bounds",
        ),
        (recursion, "(drop (call $down (i32.const 0)))", "stack"),
    ] {
        let artifact = Fixture::new().wat(&or_spin(functions, body));
        in_a_storm(&artifact, || {
            for _ in 0..100 {
                let ran = start(&artifact, args(["guest"])).end();
                let trapped = matches!(
                    ran.outcome,
                    Outcome::Trapped { .. } | Outcome::StackOverflow { .. }
                );
                assert!(trapped && ran.stderr.contains(told), "{ran:?}");
            }
        });
    }
}

/// The host calls the guest that called it, which is stopped in the second of its two activations, on its
/// way into either, or out.
#[test]
fn a_guest_that_the_host_calls_back_is_stopped_anywhere() {
    let fixture = Fixture::new();
    for turns in [1, 100, u32::MAX] {
        let program = wasm::command(&format!(
            r#"(import "wasi:cli/environment@0.2.0" (instance $host
                (export "get-environment" (func (result (list (tuple string string)))))))
            (core module $Memory
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $i i32)
                    (loop $turn
                        (local.set $i (i32.add (local.get $i) (i32.const 1)))
                        (br_if $turn (i32.lt_u (local.get $i) (i32.const {turns}))))
                    (i32.const 1024)))
            (core instance $memory (instantiate $Memory))
            (core func $get (canon lower (func $host "get-environment")
                (memory $memory "memory") (realloc (func $memory "realloc"))))
            (core module $Main
                (import "host" "get" (func $get (param i32)))
                (func (export "run") (result i32)
                    (loop $more (call $get (i32.const 0)) (br $more))
                    unreachable))
            (core instance $main (instantiate $Main
                (with "host" (instance (export "get" (func $get))))))"#,
            turns = turns.cast_signed(),
        ));
        let artifact = fixture.wat(&program);
        let mut random = Random(0x1234_5678_9abc_def1);
        for _ in 0..300 {
            let guest = Guest {
                env: vec![("NAME".to_owned(), "value".to_owned()); 3],
                ..args(["guest"])
            };
            let running = start(&artifact, guest);
            spin(random.next() % 10_000);
            for _ in 0..random.next() % 4 {
                running.interrupter.pause();
                spin(random.next() % 1000);
                running.interrupter.resume();
            }
            if random.next().is_multiple_of(2) {
                running.interrupter.pause();
            }
            let ran = running.kill();
            assert_eq!((ran.outcome, ran.stderr.as_str()), (Outcome::Killed, ""));
        }
    }
}

/// Orders faster than a guest follows them, in any sequence; the last one is a kill.
#[test]
fn no_order_is_lost_among_others() {
    let artifact = Fixture::new().wat(&wasm::ready_then(wasm::SPIN));
    let mut random = Random(0xfeed_5eed_cafe_f00d);
    for _ in 0..300 {
        let running = start(&artifact, args(["guest"]));
        running.line();
        let other = running.interrupter.clone();
        let orders = random.next();
        let second = std::thread::spawn(move || {
            for bit in 0..32 {
                match orders >> bit & 1 {
                    0 => other.pause(),
                    _ => other.resume(),
                }
            }
        });
        for _ in 0..16 {
            running.interrupter.pause();
            spin(random.next() % 500);
            running.interrupter.resume();
        }
        assert_eq!(running.kill().outcome, Outcome::Killed);
        second.join().unwrap();
    }
}

/// To drop a guest that waits in the host runs some of its code.
#[test]
fn a_paused_guest_can_be_dropped_beside_a_fence() {
    let artifact = Fixture::new().wat(&or_spin("", wasm::SLEEP));
    let (sender, dropped) = channel();
    in_a_storm(&artifact, || {
        let artifact = artifact.clone();
        let thread = std::thread::spawn(move || {
            let runtime = runtime();
            for _ in 0..1000 {
                let prepared = artifact.prepare(args(["guest"])).unwrap();
                let interrupter = prepared.interrupter();
                runtime.block_on(async {
                    let run = prepared.run();
                    tokio::pin!(run);
                    tokio::select! {
                        biased;
                        outcome = &mut run => panic!("it sleeps: {outcome:?}"),
                        () = std::future::ready(()) => interrupter.pause(),
                    }
                });
            }
            sender.send(()).unwrap();
        });
        let dropped = dropped.recv_timeout(Duration::from_secs(60));
        dropped.expect("it is not held on its way out");
        thread.join().unwrap();
    });
    // The program's fence still works.
    let running = run(artifact.prepare(args(["guest", "forever"])).unwrap());
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

/// While a fence goes up or down, one page of the code can be executed and the next one cannot; the fault
/// of an instruction that is on both names the second one's address.
#[test]
fn an_instruction_on_two_pages_is_stopped() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut functions = String::new();
    let mut calls = String::new();
    for function in 0..200 {
        let mut body = String::new();
        for _ in 0..500 {
            write!(
                body,
                "(local.set 0 (i64.add (i64.xor (local.get 0) (i64.const {})) (i64.const {})))",
                random.next().cast_signed(),
                random.next().cast_signed(),
            )
            .unwrap();
        }
        write!(
            functions,
            "(func $f{function} (param i64) (result i64) {body} (local.get 0))"
        )
        .unwrap();
        write!(calls, "(local.set $x (call $f{function} (local.get $x)))").unwrap();
    }
    let program = wasm::module(&format!(
        r#"(data (i32.const 64) "ready\n")
        {functions}
        (func (export "_start") (local $x i64)
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            (loop $more {calls} (br $more)))"#
    ));
    let artifact = Fixture::new().wat(&program);
    let guests = [(); 3].map(|()| start(&artifact, args(["guest"])));
    for guest in &guests {
        guest.line();
    }
    for _ in 0..3_000 {
        guests[0].interrupter.pause();
        guests[0].interrupter.resume();
        spin(random.next() % 2_000);
    }
    for guest in guests {
        assert_eq!(guest.kill().outcome, Outcome::Killed);
    }
}

/// A function that calls on with more arguments than it has moves its frame down as it begins. For some
/// instructions its frame pointer is that of a frame which has yet to be written: what is there are the
/// remains of an earlier call, here numbers.
#[test]
fn a_guest_is_killed_as_it_moves_a_frame() {
    // Six callee-saved registers and more, so that there is a number in each of them.
    let numbers = |of: &dyn Fn(u32) -> String| (0..8).map(of).collect::<String>();
    let program = wasm::module(&format!(
        r#"(data (i32.const 64) "ready\n")
        (data (i32.const 1024) "{odd}")
        (func $leaf (param i64))
        (func $remains (param i64) (result i64)
            (call $leaf (local.get 0))
            (local.get 0))
        (func $few (param i64)
            (return_call $many (local.get 0) (local.get 0) (local.get 0) (local.get 0)
                (local.get 0) (local.get 0)))
        (func $many (param i64 i64 i64 i64 i64 i64))
        (func (export "_start") (local $x i64) {locals}
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            {load}
            (loop $more
                (local.set $x (call $remains (local.get $x)))
                (call $few (local.get $x))
                (br_if $more (i64.ne (i64.const 0) (i64.and (local.get $l0) (i64.const 7)))))
            {store})"#,
        odd = "odd bits".repeat(8),
        locals = numbers(&|n| format!("(local $l{n} i64)")),
        load = numbers(&|n| format!(
            "(local.set $l{n} (i64.load offset={} (i32.const 1024)))",
            n * 8
        )),
        store = numbers(&|n| format!(
            "(i64.store offset={} (i32.const 1024) (local.get $l{n}))",
            n * 8
        )),
    ));
    let fixture = Fixture::new();
    let artifact = fixture.wat(&program);
    // What the runtime knows those instructions by; 16 bytes more of arguments here.
    let moving =
        b"\x48\x89\xe5\x4c\x8b\x5c\x24\x10\x4c\x89\x1c\x24\x4c\x8b\x5c\x24\x18\x4c\x89\x5c\x24\x08";
    let code = std::fs::read(fixture.entry()).unwrap();
    let found = code.windows(moving.len()).any(|window| window == moving);
    assert!(
        found || cfg!(not(target_arch = "x86_64")),
        "the compiler moves frames otherwise"
    );
    killed(&artifact, 1000);
}
