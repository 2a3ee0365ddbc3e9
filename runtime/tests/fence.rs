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
#[path = "all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::fmt::Write as _;

use fixture::{Fixture, args, start};
use wasi_runtime::{Artifact, Outcome};

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
    killed(&Fixture::new().wat(&program), 1500);
}
