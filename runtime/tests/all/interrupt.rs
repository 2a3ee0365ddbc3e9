//! Ending a guest from outside, whatever it does; and what it knows of a pause.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use wasi_runtime::{Guest, Input, Limits, Outcome, Output};

use crate::fixture::{Fixture, args, pipe, run, runtime, start};
use crate::wasm;

#[test]
fn a_busy_loop_is_ended() {
    let running = start(
        &Fixture::new().wat(&wasm::ready_then(wasm::SPIN)),
        Guest::default(),
    );
    assert_eq!(running.line(), "ready\n");
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn a_busy_component_is_ended() {
    let running = start(&Fixture::new().real("spin.component.wasm"), args(["spin"]));
    assert_eq!(running.line(), "spinning\n");
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn a_busy_start_section_is_ended() {
    let program = wasm::module(&format!(
        r#"(func $init {})
        (start $init)
        (func (export "_start"))"#,
        wasm::SPIN
    ));
    let running = start(&Fixture::new().wat(&program), Guest::default());
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn a_sleeper_is_ended() {
    let running = start(
        &Fixture::new().wat(&wasm::ready_then(wasm::SLEEP)),
        Guest::default(),
    );
    assert_eq!(running.line(), "ready\n");
    let ran = running.kill();
    assert_eq!(ran.outcome, Outcome::Killed);
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_sleeping_component_is_ended() {
    let running = start(
        &Fixture::new().real("sleep.component.wasm"),
        args(["sleep"]),
    );
    assert_eq!(running.line(), "sleeping\n");
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn a_read_that_nobody_answers_is_ended() {
    let fixture = Fixture::new();
    for name in ["stdin_block.wasm", "stdin_block.component.wasm"] {
        let (theirs, _ours) = pipe();
        let guest = Guest {
            stdin: Input::from_fd(theirs).unwrap(),
            ..args(["stdin_block"])
        };
        let running = start(&fixture.real(name), guest);
        assert_eq!(running.line(), "reading\n");
        assert_eq!(running.kill().outcome, Outcome::Killed);
    }
}

#[test]
fn a_write_that_nobody_takes_is_ended() {
    let (back, stdout) = pipe();
    let guest = Guest {
        stdout: Output::from_fd(stdout).unwrap(),
        ..Guest::default()
    };
    let program = wasm::start(
        "(loop $more (call $say (i32.const 1) (i32.const 65536) (i32.const 65536)) (br $more))",
    );
    let running = run(Fixture::new().wat(&program).prepare(guest).unwrap());
    // A full pipe: the guest is in a write.
    let size = rustix::pipe::fcntl_getpipe_size(&back).unwrap() as u64;
    while rustix::io::ioctl_fionread(&back).unwrap() < size {
        std::thread::yield_now();
    }
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn last_words_that_nobody_takes_do_not_keep_a_killed_guest() {
    let (back, stderr) = pipe();
    rustix::pipe::fcntl_setpipe_size(&back, 4096).unwrap();
    let mut other = std::fs::File::from(stderr.try_clone().unwrap());
    other.write_all(&[0; 4096]).unwrap();
    let guest = Guest {
        stderr: Output::from_fd(stderr).unwrap(),
        ..Guest::default()
    };
    let prepared = Fixture::new()
        .wat(&wasm::start("unreachable"))
        .prepare(guest)
        .unwrap();
    let interrupter = prepared.interrupter();
    runtime().block_on(async {
        let run = prepared.run();
        tokio::pin!(run);
        // A future that is ready at once ends the race after one poll: the guest has trapped.
        tokio::select! {
            biased;
            outcome = &mut run => panic!("its last words are not out: {outcome:?}"),
            () = std::future::ready(()) => interrupter.kill(),
        }
        // How it ended was decided before the kill.
        assert!(matches!(run.await, Outcome::Trapped { .. }));
    });
}

#[test]
fn a_listener_that_nobody_calls_is_ended() {
    let guest = Guest {
        network: wasi_runtime::Network::All,
        ..args(["accept"])
    };
    let running = start(&Fixture::new().real("accept.wasm"), guest);
    let line = running.line();
    assert!(line.starts_with("listening on 127.0.0.1:"), "{line}");
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn without_network_there_is_nothing_to_listen_on() {
    let ran = start(&Fixture::new().real("accept.wasm"), args(["accept"])).end();
    assert_eq!(ran.outcome, Outcome::Exited(1), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

#[test]
fn killed_before_it_runs_a_guest_ends_without_having_run() {
    let prepared = Fixture::new()
        .wat(&wasm::start("unreachable"))
        .prepare(Guest::default())
        .unwrap();
    prepared.interrupter().kill();
    assert_eq!(run(prepared).end().outcome, Outcome::Killed);
}

#[test]
fn a_kill_after_the_end_does_nothing() {
    let fixture = Fixture::new();
    let running = start(&fixture.wat(&wasm::start("")), Guest::default());
    let interrupter = running.interrupter.clone();
    assert_eq!(running.end().outcome, Outcome::Exited(0));
    interrupter.kill();
    let again = start(&fixture.wat(&wasm::start("")), Guest::default());
    assert_eq!(again.end().outcome, Outcome::Exited(0));
}

#[test]
fn a_second_kill_does_nothing_more() {
    let running = start(
        &Fixture::new().wat(&wasm::ready_then(wasm::SPIN)),
        Guest::default(),
    );
    running.line();
    running.interrupter.kill();
    running.interrupter.kill();
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

#[test]
fn a_neighbours_kill_disturbs_nobody() {
    let fixture = Fixture::new();
    let victim = fixture.wat(&wasm::ready_then(wasm::SPIN));
    let (theirs, ours) = pipe();
    let reading = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        ..args(["cat"])
    };
    // One neighbour blocked in the host, one busy for some 10^8 turns.
    let blocked = start(&fixture.real("cat.wasm"), reading);
    let busy = start(
        &fixture.wat(&wasm::ready_then(
            "(loop $turn
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $turn (i32.lt_u (local.get $i) (i32.const 400000000))))
            (call $exit (i32.const 42))",
        )),
        Guest::default(),
    );
    busy.line();
    for _ in 0..20 {
        let running = start(&victim, Guest::default());
        running.line();
        assert_eq!(running.kill().outcome, Outcome::Killed);
    }
    std::fs::File::from(ours).write_all(b"still here").unwrap();
    assert_eq!(blocked.end().success(), "still here");
    assert_eq!(busy.end().outcome, Outcome::Exited(42));
}

#[test]
fn guests_that_are_killed_at_once_all_end() {
    // A kill makes every busy guest of the engine yield; another's kill may come just then.
    let fixture = Fixture::new();
    let artifact = fixture.wat(&wasm::ready_then(wasm::SPIN));
    for _ in 0..100 {
        let running: Vec<_> = (0..8).map(|_| start(&artifact, Guest::default())).collect();
        for guest in &running {
            guest.line();
        }
        for guest in &running {
            guest.interrupter.kill();
        }
        for guest in running {
            assert_eq!(guest.end().outcome, Outcome::Killed);
        }
    }
}

#[test]
fn a_kill_just_after_a_neighbours_is_not_lost() {
    let fixture = Fixture::new();
    let artifact = fixture.wat(&wasm::ready_then(wasm::SPIN));
    for turn in 0..1000 {
        let neighbour = start(&artifact, Guest::default());
        let guest = start(&artifact, Guest::default());
        neighbour.line();
        guest.line();
        neighbour.interrupter.kill();
        // The guest yields to that; its own kill is to meet it on its way back.
        for _ in 0..(turn % 100) * 12 {
            std::hint::spin_loop();
        }
        guest.interrupter.kill();
        assert_eq!(guest.end().outcome, Outcome::Killed, "turn {turn}");
        assert_eq!(neighbour.end().outcome, Outcome::Killed, "turn {turn}");
    }
}

/// How long a guest is paused, in ns, that asks for the time before and after.
const PAUSED: u64 = 200_000_000;

/// Tells 1 if less time than that has passed for it, until it has read a line.
fn looks_at_the_clock() -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "clock_time_get"
            (func $time (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read"
            (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "ready\n")
        (func (export "_start")
            (drop (call $time (i32.const 1) (i64.const 0) (i32.const 128)))
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (i32.const 6))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (drop (call $time (i32.const 1) (i64.const 0) (i32.const 136)))
            (call $exit (i64.lt_u
                (i64.sub (i64.load (i32.const 136)) (i64.load (i32.const 128)))
                (i64.const {PAUSED})))))"#
    )
}

/// Whoever lets a guest go starts its time, and so does its thread when it has its turn.
#[test]
fn time_starts_once_and_before_the_guest_has_its_turn() {
    let artifact = Fixture::new().wat(&wasm::start(wasm::SPIN));
    let prepared = artifact.prepare(limited(Duration::from_secs(1))).unwrap();
    let begun = Instant::now();
    prepared.clock().unwrap().start();
    prepared.clock().unwrap().start();
    // Its thread has its turn when its time is over.
    while begun.elapsed() < Duration::from_secs(1) {
        std::thread::yield_now();
    }
    let late = Instant::now();
    let outcome = runtime().block_on(prepared.run());
    assert!(matches!(outcome, Outcome::DeadlineExceeded { .. }));
    assert!(
        late.elapsed() < Duration::from_secs(1),
        "it had its time again"
    );
    assert!(
        artifact
            .prepare(Guest::default())
            .unwrap()
            .clock()
            .is_none()
    );
}

fn limited(deadline: Duration) -> Guest {
    Guest {
        limits: Limits {
            deadline: Some(deadline),
            ..Limits::default()
        },
        ..Guest::default()
    }
}

#[test]
fn time_goes_on_for_a_guest_that_is_paused() {
    let fixture = Fixture::new();
    let (theirs, ours) = pipe();
    let guest = Guest {
        stdin: Input::from_fd(theirs).unwrap(),
        ..Guest::default()
    };
    let running = start(&fixture.wat(&looks_at_the_clock()), guest);
    running.line();
    running.interrupter.pause();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_nanos(PAUSED) {
        std::thread::yield_now();
    }
    running.interrupter.resume();
    File::from(ours).write_all(b"now\n").unwrap();
    assert_eq!(running.end().outcome, Outcome::Exited(0));
}
