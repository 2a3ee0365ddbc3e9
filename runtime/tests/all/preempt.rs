//! Guests that compute, killed at whatever instruction they are at, many times.

use wasi_runtime::{Artifact, Outcome};

use crate::fixture::{Fixture, args, start};
use crate::wasm;

/// Kills of each program. All together they take seconds.
const KILLS: u32 = 100;

/// Kills guests of `artifact` after delays of no pattern.
fn killed_anywhere(artifact: &Artifact) {
    let mut random = 0x2545_f491_u32;
    for _ in 0..KILLS {
        let running = start(artifact, args(["guest"]));
        running.line();
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        for _ in 0..random >> 15 {
            std::hint::spin_loop();
        }
        let ran = running.kill();
        assert_eq!(ran.outcome, Outcome::Killed, "{ran:?}");
        assert_eq!(ran.stderr, "", "a kill is no trap that anybody is told of");
    }
}

fn program(functions: &str, body: &str) -> String {
    wasm::module(&format!(
        r#"(data (i32.const 64) "ready\n")
        {functions}
        (func (export "_start") (local $i i32)
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            (loop $forever {body} (br $forever)))"#
    ))
}

#[test]
fn a_loop_of_one_instruction_is_killed_anywhere() {
    killed_anywhere(&Fixture::new().wat(&program("", "")));
}

#[test]
fn guests_that_look_for_interruptions_themselves_are_killed_anywhere() {
    let fixture = Fixture::with_epochs();
    killed_anywhere(&fixture.wat(&program("", "")));
    killed_anywhere(&fixture.real("spin.component.wasm"));
}

#[test]
fn a_loop_over_memory_is_killed_anywhere() {
    let body = "(i32.store8 offset=1024 (local.get $i) (local.get $i))
        (local.set $i (i32.and (i32.add (local.get $i) (i32.const 7)) (i32.const 65535)))";
    killed_anywhere(&Fixture::new().wat(&program("", body)));
}

#[test]
fn a_recursion_is_killed_anywhere() {
    let fib = "(func $fib (param $n i32) (result i32)
        (if (result i32) (i32.lt_u (local.get $n) (i32.const 2))
            (then (local.get $n))
            (else (i32.add
                (call $fib (i32.sub (local.get $n) (i32.const 1)))
                (call $fib (i32.sub (local.get $n) (i32.const 2)))))))";
    killed_anywhere(&Fixture::new().wat(&program(fib, "(drop (call $fib (i32.const 20)))")));
}

#[test]
fn tiny_calls_through_a_table_are_killed_anywhere() {
    let functions = "(type $unary (func (param i32) (result i32)))
        (table funcref (elem $a $b))
        (func $a (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func $b (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))";
    let body = "(local.set $i (call_indirect (type $unary) (local.get $i)
        (i32.and (local.get $i) (i32.const 1))))";
    killed_anywhere(&Fixture::new().wat(&program(functions, body)));
}

#[test]
fn tail_calls_with_more_and_fewer_arguments_are_killed_anywhere() {
    let many: String = (0..20).map(|n| format!("(i64.const {n})")).collect();
    let functions = format!(
        "(func $few (param i32)
            (return_call $many (local.get 0) {many}))
        (func $many (param i32) (param {})
            (if (i32.eqz (local.get 0)) (then (return)))
            (return_call $few (i32.sub (local.get 0) (i32.const 1))))",
        "i64 ".repeat(20)
    );
    let body = "(call $few (i32.const 1000000))";
    killed_anywhere(&Fixture::new().wat(&program(&functions, body)));
}

#[test]
fn a_guest_that_keeps_calling_the_host_is_killed_anywhere() {
    let body = "(drop (call $fdstat (i32.const 1) (i32.const 128)))";
    killed_anywhere(&Fixture::new().wat(&program("", body)));
}

#[test]
fn a_guest_that_keeps_copying_memory_is_killed_anywhere() {
    let body = "(memory.copy (i32.const 65536) (i32.const 131072) (i32.const 65536))";
    killed_anywhere(&Fixture::new().wat(&program("", body)));
}

#[test]
fn a_busy_component_is_killed_anywhere() {
    killed_anywhere(&Fixture::new().real("spin.component.wasm"));
}
