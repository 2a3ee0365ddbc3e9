//! What ends a guest that wants too much.

use std::time::Duration;

use wasi_runtime::{Budget, Countable, Guest, Input, Limits, Outcome};

use crate::fixture::{self, Fixture, Ran, pipe, start};
use crate::wasm;

const PAGE: u64 = 64 << 10;
const DEADLINE: Duration = Duration::from_millis(50);

fn limited(program: &str, memory: u64) -> Ran {
    Fixture::new().run(program, of(&budget(memory)))
}

fn budget(memory: u64) -> Budget {
    let budget = Budget::default();
    budget.set_memory(Some(memory));
    budget
}

/// A guest of a budget.
fn of(budget: &Budget) -> Guest {
    Guest {
        budget: budget.clone(),
        ..Guest::default()
    }
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

#[test]
fn guests_of_a_budget_share_its_memory() {
    let fixture = Fixture::new();
    let shared = budget(10 * PAGE);
    // Four pages, kept until it is killed.
    let holder = start(&fixture.wat(&wasm::ready_then(wasm::SLEEP)), of(&shared));
    holder.line();
    assert_eq!(fixture.run(&grow(5), of(&shared)).success(), "");
    out_of_memory(&fixture.run(&grow(6), of(&shared)), 10 * PAGE);
    assert_eq!(shared.usage().memory(), 4 * PAGE);
    assert_eq!(shared.usage().peak(), 10 * PAGE);
    assert_eq!(holder.kill().outcome, Outcome::Killed);
    assert_eq!(shared.usage().memory(), 0);
    assert_eq!(fixture.run(&grow(9), of(&shared)).success(), "");
    assert_eq!(shared.usage().memory_refusals(), 1);
}

/// Grows by a page for each byte that it reads, and says a byte for it.
const GROWING: &str = "(i32.store8 (i32.const 64) (i32.const 10))
    (loop $more
        (if (call $read (i32.const 128) (i32.const 1)) (then
            (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (call $exit (i32.const 7))))
            (call $say (i32.const 1) (i32.const 64) (i32.const 1))
            (br $more))))";

#[test]
fn a_limit_changes_while_the_guest_runs() {
    let (theirs, ours) = pipe();
    let shared = budget(6 * PAGE);
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        ..of(&shared)
    };
    let running = start(&Fixture::new().wat(&wasm::start(GROWING)), guest);
    let grow = || assert_eq!(rustix::io::write(&ours, b"x").unwrap(), 1);
    for _ in 0..2 {
        grow();
        running.line();
    }
    assert_eq!(shared.usage().memory(), 6 * PAGE);
    shared.set_memory(Some(7 * PAGE));
    grow();
    running.line();
    // Below what it has: it keeps that, and gets no more.
    shared.set_memory(Some(PAGE));
    assert_eq!(shared.usage().memory(), 7 * PAGE);
    grow();
    out_of_memory(&running.end(), PAGE);
}

#[test]
fn a_stack_that_overflows_is_told_from_other_traps() {
    let program = r#"(module (memory (export "memory") 1)
        (func $deep (call $deep) (call $deep))
        (func (export "_start") (call $deep)))"#;
    let ran = Fixture::new().run(program, Guest::default());
    let Outcome::StackOverflow { trace } = &ran.outcome else {
        panic!("{ran:?}");
    };
    assert!(trace.contains("call stack exhausted"), "{trace}");
    assert_eq!(&ran.stderr, trace);
}

#[test]
fn the_stack_is_deep_enough_for_an_interpreter() {
    let program = r#"(module (memory (export "memory") 1)
        (func $deep (param $n i32) (param i64 i64 i64 i64) (result i64)
            (if (result i64) (local.get $n)
                (then (i64.add (call $deep (i32.sub (local.get $n) (i32.const 1))
                    (local.get 1) (local.get 2) (local.get 3) (local.get 4)) (local.get 1)))
                (else (i64.const 0))))
        (func (export "_start")
            (drop (call $deep (i32.const 10000) (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))))"#;
    assert_eq!(Fixture::new().run(program, Guest::default()).success(), "");
}

fn with_limits(limits: Limits) -> Guest {
    Guest {
        limits,
        ..Guest::default()
    }
}

#[track_caller]
fn too_many(ran: &Ran, what: Countable, limit: usize) {
    assert_eq!(ran.outcome, Outcome::TooMany { what, limit }, "{ran:?}");
    let words = format!("the guest reached its limit of {limit} {what}\n");
    assert_eq!(ran.stderr, words);
}

#[test]
fn instances_memories_and_tables_are_counted() {
    let limits = |instances| {
        with_limits(Limits {
            instances,
            ..Limits::default()
        })
    };
    let component = wasm::command(
        r#"(core module $other)
        (core module $m (func (export "run") (result i32) (i32.const 0)))
        (core instance (instantiate $other))
        (core instance $main (instantiate $m))"#,
    );
    let fixture = Fixture::new();
    assert_eq!(fixture.run(&component, limits(2)).success(), "");
    let ran = fixture.run(&component, limits(1));
    too_many(&ran, Countable::Instances, 1);
    let module = |two: &str| {
        format!(r#"(module (memory (export "memory") 1) {two} {two} (func (export "_start")))"#)
    };
    let memories = fixture.run(&module("(memory 1)"), limits(2));
    too_many(&memories, Countable::Memories, 2);
    let tables = fixture.run(&module("(table 1 funcref)"), limits(1));
    too_many(&tables, Countable::Tables, 1);
}

/// Opens `/` until that fails, and exits with the error.
fn opener() -> String {
    r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) ".")
        (func (export "_start") (local $error i32)
            (loop $more
                (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 64)
                    (i32.const 1) (i32.const 2) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0)))
                (br_if $more (i32.eqz (local.get $error))))
            (call $exit (local.get $error))))"#
        .to_owned()
}

#[test]
fn open_files_are_counted() {
    let fixture = Fixture::new();
    let guest = Guest {
        preopens: vec![wasi_runtime::Preopen {
            directory: fixture::open_folder(&fixture.path("cache")),
            name: "/".to_owned(),
        }],
        ..with_limits(Limits {
            handles: 100,
            ..Limits::default()
        })
    };
    // As in any process: EMFILE, and the program goes on.
    let ran = fixture.run(&opener(), guest);
    assert_eq!(ran.outcome, Outcome::Exited(33), "{ran:?}");
}

/// What is no file has no such error.
#[test]
fn other_resources_are_counted() {
    let component = wasm::command(
        r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (export "subscribe-duration"
                (func (param "when" u64) (result (own $pollable))))))
        (core func $wait (canon lower (func $clock "subscribe-duration")))
        (core module $m (import "" "wait" (func $wait (param i64) (result i32)))
            (func (export "run") (result i32)
                (loop $more (drop (call $wait (i64.const 1))) (br $more)) (i32.const 0)))
        (core instance $main (instantiate $m
            (with "" (instance (export "wait" (func $wait))))))"#,
    );
    let limits = with_limits(Limits {
        handles: 100,
        ..Limits::default()
    });
    let ran = Fixture::new().run(&component, limits);
    too_many(&ran, Countable::Handles, 100);
}

/// What a component makes itself, the host only keeping account of it.
#[test]
fn handles_of_a_components_own_are_counted() {
    let component = |turns: u32| {
        wasm::command(&format!(
            r#"(type $thing (resource (rep i32)))
            (core func $new (canon resource.new $thing))
            (core module $m
                (import "" "new" (func $new (param i32) (result i32)))
                (func (export "run") (result i32) (local $i i32)
                    (loop $more
                        (drop (call $new (i32.const 0)))
                        (local.set $i (i32.add (local.get $i) (i32.const 1)))
                        (br_if $more (i32.lt_u (local.get $i) (i32.const {turns}))))
                    (i32.const 0)))
            (core instance $main (instantiate $m
                (with "" (instance (export "new" (func $new))))))"#
        ))
    };
    let limits = Limits {
        handles: 200,
        ..Limits::default()
    };
    let fixture = Fixture::new();
    // What has no error to be refused with has some room beyond the limit.
    let few = fixture.run(&component(328), with_limits(limits));
    assert_eq!(few.success(), "");
    let many = fixture.run(&component(329), with_limits(limits));
    too_many(&many, Countable::Handles, 200);
}

#[test]
fn a_call_cannot_move_more_than_the_memory_limit() {
    // 2 MiB of random bytes for a guest that may have 1 MiB: the host would have to have them first.
    let program = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (drop (call $random (i32.const 0) (i32.const 2097152)))))"#;
    let ran = limited(program, 1 << 20);
    assert!(matches!(ran.outcome, Outcome::Trapped { .. }), "{ran:?}");
    let component = wasm::command(
        r#"(import "wasi:random/random@0.2.0" (instance $random
            (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
        (core module $libc (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0)))
        (core instance $libc (instantiate $libc))
        (core func $get (canon lower (func $random "get-random-bytes")
            (memory $libc "memory") (realloc (func $libc "realloc"))))
        (core module $m (import "" "get" (func $get (param i64 i32)))
            (func (export "run") (result i32)
                (call $get (i64.const 2097152) (i32.const 0)) (i32.const 0)))
        (core instance $main (instantiate $m
            (with "" (instance (export "get" (func $get))))))"#,
    );
    let ran = limited(&component, 1 << 20);
    let words = "requested len 2097152 exceeds limit 1048576";
    assert!(ran.trace().contains(words), "{ran:?}");
}

#[test]
fn a_deadline_ends_who_computes_who_sleeps_and_who_is_paused() {
    let guest = || {
        with_limits(Limits {
            deadline: Some(DEADLINE),
            ..Limits::default()
        })
    };
    let late = |ran: &Ran| {
        let after = DEADLINE;
        assert_eq!(ran.outcome, Outcome::DeadlineExceeded { after }, "{ran:?}");
        assert_eq!(ran.stderr, "the guest reached its deadline of 50ms\n");
    };
    let fixture = Fixture::new();
    for body in [wasm::SPIN, wasm::SLEEP] {
        late(&fixture.run(&wasm::ready_then(body), guest()));
    }
    let paused = fixture.wat(&wasm::start(wasm::SPIN));
    let paused = start(&paused, guest());
    paused.interrupter.pause();
    late(&paused.end());
    // In time, and with the deadline of a year: nobody waits for it.
    let year = with_limits(Limits {
        deadline: Some(Duration::from_secs(365 * 86_400)),
        ..Limits::default()
    });
    assert_eq!(fixture.run(&grow(1), year).success(), "");
    let unused = guest();
    drop(fixture.wat(&grow(1)).prepare(unused).unwrap());
}
