//! The memory limit.

use wasi_runtime::{Guest, Limits, Outcome};

use crate::fixture::{Fixture, Ran};
use crate::wasm;

const PAGE: u64 = 64 << 10;

fn limited(program: &str, memory: u64) -> Ran {
    let guest = Guest {
        limits: Limits {
            memory: Some(memory),
        },
        ..Guest::default()
    };
    Fixture::new().run(program, guest)
}

/// Grows its memory of one page by `pages`; exits with 7 when that is refused.
fn grow(pages: u64) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1))
                    (then (call $exit (i32.const 7))))))"#
    )
}

#[track_caller]
fn out_of_memory(ran: &Ran, limit: u64) {
    assert_eq!(ran.outcome, Outcome::OutOfMemory { limit }, "{ran:?}");
    assert_eq!(
        ran.stderr,
        format!("the guest reached its memory limit of {limit} bytes\n")
    );
}

#[test]
fn growth_up_to_the_limit_is_fine_and_beyond_it_ends_the_guest() {
    let limit = 10 * PAGE;
    assert_eq!(limited(&grow(9), limit).success(), "");
    out_of_memory(&limited(&grow(10), limit), limit);
}

#[test]
fn an_initial_memory_over_the_limit_ends_the_guest() {
    let program = r#"(module (memory (export "memory") 11) (func (export "_start")))"#;
    assert_eq!(limited(program, 11 * PAGE).success(), "");
    out_of_memory(&limited(program, 11 * PAGE - 1), 11 * PAGE - 1);
}

#[test]
fn what_was_written_comes_before_the_word_of_the_limit() {
    let program = wasm::module(
        r#"(data (i32.const 64) "growing\n")
        (func (export "_start")
            (call $say (i32.const 2) (i32.const 64) (i32.const 8))
            (drop (memory.grow (i32.const 100))))"#,
    );
    let ran = limited(&program, 10 * PAGE);
    assert_eq!(
        ran.stderr,
        format!(
            "growing\nthe guest reached its memory limit of {} bytes\n",
            10 * PAGE
        )
    );
}

#[test]
fn tables_count() {
    let program = |elements: u64| {
        format!(
            r#"(module (memory (export "memory") 1) (table 0 funcref)
                (func (export "_start")
                    (drop (table.grow (ref.null func) (i32.const {elements})))))"#
        )
    };
    let limit = PAGE + 8000;
    assert_eq!(limited(&program(1000), limit).success(), "");
    out_of_memory(&limited(&program(1001), limit), limit);
}

#[test]
fn the_memories_of_a_component_share_one_limit() {
    let component = wasm::command(
        r#"(core module $other (memory 6))
        (core module $m (memory 6) (func (export "run") (result i32) (i32.const 0)))
        (core instance (instantiate $other))
        (core instance $main (instantiate $m))"#,
    );
    assert_eq!(limited(&component, 12 * PAGE).success(), "");
    out_of_memory(&limited(&component, 12 * PAGE - 1), 12 * PAGE - 1);
}

#[test]
fn growth_in_a_component_is_limited() {
    let component = wasm::command(
        r#"(core module $m (memory 1)
            (func (export "run") (result i32) (drop (memory.grow (i32.const 10))) (i32.const 0)))
        (core instance $main (instantiate $m))"#,
    );
    out_of_memory(&limited(&component, 10 * PAGE), 10 * PAGE);
}

#[test]
fn beyond_its_own_maximum_growth_fails_as_ever() {
    let program = grow(10).replace("\"memory\") 1)", "\"memory\") 1 5)");
    assert_eq!(limited(&program, 10 * PAGE).outcome, Outcome::Exited(7));
}

#[test]
fn without_a_limit_there_is_none() {
    let ran = Fixture::new().run(&grow(4000), Guest::default());
    assert_eq!(ran.success(), "");
}
