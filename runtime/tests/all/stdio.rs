//! Standard streams, as a guest sees them.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use wasi_runtime::{Guest, Input, Outcome, Output};

use crate::fixture::{Fixture, args, pipe, run, start};
use crate::wasm;

/// The guests that copy stdin to stdout.
const CATS: [&str; 2] = ["cat.wasm", "cat.component.wasm"];

fn input(fd: impl Into<OwnedFd>) -> Input {
    Input::from_fd(fd.into()).unwrap()
}

fn output(fd: impl Into<OwnedFd>) -> Output {
    Output::from_fd(fd.into()).unwrap()
}

/// Fills 64 KiB at 65536 with a counter, then writes it `times` times.
fn flood(times: u32) -> String {
    wasm::start(&format!(
        "(local $i i32)
        (loop $fill
            (i32.store8 (i32.add (i32.const 65536) (local.get $i)) (local.get $i))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $fill (i32.lt_u (local.get $i) (i32.const 65536))))
        (local.set $i (i32.const {times}))
        (loop $again
            (call $say (i32.const 1) (i32.const 65536) (i32.const 65536))
            (local.set $i (i32.sub (local.get $i) (i32.const 1)))
            (br_if $again (local.get $i)))"
    ))
}

#[test]
fn a_line_without_an_end_comes_through() {
    let program = wasm::module(
        r#"(data (i32.const 64) "no newline")
        (func (export "_start")
            (call $say (i32.const 1) (i32.const 64) (i32.const 2))
            (call $say (i32.const 1) (i32.const 66) (i32.const 8))
            (call $say (i32.const 2) (i32.const 64) (i32.const 10)))"#,
    );
    let ran = Fixture::new().run(&program, Guest::default());
    assert_eq!(ran.stdout, "no newline");
    assert_eq!(ran.stderr, "no newline");
}

#[test]
fn a_part_of_a_line_is_there_before_the_guest_goes_on() {
    let fixture = Fixture::new();
    for cat in CATS {
        let (theirs, ours) = pipe();
        let (back, stdout) = pipe();
        let guest = Guest {
            stdin: input(theirs),
            stdout: output(stdout),
            ..args(["cat"])
        };
        let running = run(fixture.real(cat).prepare(guest).unwrap());
        let (mut ours, mut back) = (File::from(ours), File::from(back));
        for part in [&b"one"[..], b" two", b"\n", &[0, 255, 128]] {
            ours.write_all(part).unwrap();
            let mut echo = vec![0; part.len()];
            back.read_exact(&mut echo).unwrap();
            assert_eq!(echo, part);
        }
        drop(ours);
        assert_eq!(running.end().outcome, Outcome::Exited(0));
        assert_eq!(back.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn nothing_of_many_binary_bytes_is_lost_or_changed() {
    let fixture = Fixture::new();
    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.wrapping_mul(n).to_le_bytes()[1])
        .collect();
    for cat in CATS {
        let (theirs, ours) = pipe();
        let (back, stdout) = pipe();
        let guest = Guest {
            stdin: input(theirs),
            stdout: output(stdout),
            ..args(["cat"])
        };
        let running = run(fixture.real(cat).prepare(guest).unwrap());
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || File::from(ours).write_all(&sent).unwrap());
        let mut echo = Vec::new();
        File::from(back).read_to_end(&mut echo).unwrap();
        writer.join().unwrap();
        assert!(echo == bytes, "{} bytes came back", echo.len());
        assert_eq!(running.end().outcome, Outcome::Exited(0));
    }
}

#[test]
fn more_than_a_pipe_holds_waits_for_a_slow_reader() {
    let (back, stdout) = pipe();
    let guest = Guest {
        stdout: output(stdout),
        ..Guest::default()
    };
    let running = run(Fixture::new().wat(&flood(16)).prepare(guest).unwrap());
    let mut back = File::from(back);
    let mut seen: usize = 0;
    let mut buffer = [0; 977];
    while let count @ 1.. = back.read(&mut buffer).unwrap() {
        let expected = (seen..).map(|n| n.to_le_bytes()[0]);
        assert!(buffer[..count].iter().copied().eq(expected.take(count)));
        seen += count;
    }
    assert_eq!(seen, 16 * 65536);
    assert_eq!(running.end().outcome, Outcome::Exited(0));
}

#[test]
fn what_a_guest_wrote_last_outlives_it() {
    // 128 KiB: more than the pipe holds, and all of it handed over when the guest exits.
    let (back, stdout) = pipe();
    rustix::pipe::fcntl_setpipe_size(&stdout, 4096).unwrap();
    let guest = Guest {
        stdout: output(stdout),
        ..Guest::default()
    };
    let program = wasm::start(
        "(call $say (i32.const 1) (i32.const 65536) (i32.const 8192)) (call $exit (i32.const 3))",
    );
    let running = run(Fixture::new().wat(&program).prepare(guest).unwrap());
    let mut all = Vec::new();
    File::from(back).read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 8192);
    assert_eq!(running.end().outcome, Outcome::Exited(3));
}

#[test]
fn a_reader_that_went_away_is_an_error_of_the_guests() {
    let (back, stdout) = pipe();
    drop(back);
    let guest = Guest {
        stdout: output(stdout),
        ..Guest::default()
    };
    let running = run(Fixture::new().wat(&flood(16)).prepare(guest).unwrap());
    let Outcome::Exited(code) = running.end().outcome else {
        panic!("it should have gone on");
    };
    assert!(code > 100, "no errno: {code}");
}

#[test]
fn a_reader_that_goes_away_in_a_write_does_not_hang_the_guest() {
    let fixture = Fixture::new();
    let (back, stdout) = pipe();
    let guest = Guest {
        stdout: output(stdout),
        ..Guest::default()
    };
    let running = run(fixture.wat(&flood(16)).prepare(guest).unwrap());
    let mut back = File::from(back);
    back.read_exact(&mut [0; 100_000]).unwrap();
    drop(back);
    let Outcome::Exited(code) = running.end().outcome else {
        panic!("it should have gone on");
    };
    assert!(code > 100, "no errno: {code}");
}

#[test]
fn a_trap_nobody_reads_is_a_trap() {
    let (back, stderr) = pipe();
    drop(back);
    let guest = Guest {
        stderr: output(stderr),
        ..Guest::default()
    };
    let running = run(Fixture::new()
        .wat(&wasm::start("unreachable"))
        .prepare(guest)
        .unwrap());
    let outcome = running.end().outcome;
    assert!(matches!(outcome, Outcome::Trapped { .. }), "{outcome:?}");
}

#[test]
fn a_full_disk_is_an_error_of_the_guests() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let guest = Guest {
        stdout: output(full),
        ..Guest::default()
    };
    let running = run(Fixture::new().wat(&flood(2)).prepare(guest).unwrap());
    // 51 is WASI's errno for "no space left".
    assert_eq!(running.end().outcome, Outcome::Exited(151));
}

#[test]
fn stdout_and_stderr_may_be_one_and_keep_the_order() {
    let program = wasm::module(
        r#"(data (i32.const 64) "123456")
        (func (export "_start")
            (call $say (i32.const 1) (i32.const 64) (i32.const 2))
            (call $say (i32.const 2) (i32.const 66) (i32.const 2))
            (call $say (i32.const 1) (i32.const 68) (i32.const 2))
            unreachable)"#,
    );
    let (back, both) = pipe();
    let both = output(both);
    let guest = Guest {
        stdout: both.clone(),
        stderr: both,
        ..Guest::default()
    };
    let running = run(Fixture::new().wat(&program).prepare(guest).unwrap());
    let mut all = String::new();
    File::from(back).read_to_string(&mut all).unwrap();
    let Outcome::Trapped { trace } = running.end().outcome else {
        panic!("{all}");
    };
    assert_eq!(all, format!("123456{trace}"));
}

#[test]
fn stdin_is_closed_and_output_discarded_by_default() {
    let fixture = Fixture::new();
    for cat in CATS {
        let running = run(fixture.real(cat).prepare(args(["cat"])).unwrap());
        assert_eq!(running.end().outcome, Outcome::Exited(0));
    }
    let running = run(fixture.wat(&flood(2)).prepare(Guest::default()).unwrap());
    assert_eq!(running.end().outcome, Outcome::Exited(0));
}

#[test]
fn the_end_of_stdin_arrives() {
    let fixture = Fixture::new();
    for cat in CATS {
        let (theirs, ours) = pipe();
        drop(ours);
        let guest = Guest {
            stdin: input(theirs),
            ..args(["cat"])
        };
        let ran = start(&fixture.real(cat), guest).end();
        assert_eq!(ran.stderr, "eof\n");
        assert_eq!(ran.success(), "");
    }
}

#[test]
fn what_a_guest_did_not_read_stays_in_the_pipe() {
    let (theirs, ours) = pipe();
    let kept = theirs.try_clone().unwrap();
    File::from(ours).write_all(b"mine yours").unwrap();
    let guest = Guest {
        stdin: input(theirs),
        ..Guest::default()
    };
    let program = wasm::start(
        "(call $say (i32.const 1) (i32.const 64) (call $read (i32.const 64) (i32.const 5)))",
    );
    assert_eq!(Fixture::new().run(&program, guest).success(), "mine ");
    let mut rest = String::new();
    File::from(kept).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "yours");
}

#[test]
fn regular_files_are_streams_too() {
    let fixture = Fixture::new();
    for cat in CATS {
        let mut from = tempfile::tempfile().unwrap();
        from.write_all(&[7; 100_000]).unwrap();
        from.rewind().unwrap();
        let mut to = tempfile::tempfile().unwrap();
        let guest = Guest {
            stdin: input(from),
            stdout: output(to.try_clone().unwrap()),
            ..args(["cat"])
        };
        let running = run(fixture.real(cat).prepare(guest).unwrap());
        assert_eq!(running.end().outcome, Outcome::Exited(0));
        to.rewind().unwrap();
        let mut copy = Vec::new();
        to.read_to_end(&mut copy).unwrap();
        assert!(copy == [7; 100_000], "{} bytes", copy.len());
    }
}

#[test]
fn dev_null_is_an_empty_stdin_and_a_bottomless_stdout() {
    let fixture = Fixture::new();
    let null = || File::options().read(true).write(true).open("/dev/null");
    for cat in CATS {
        let guest = Guest {
            stdin: input(null().unwrap()),
            ..args(["cat"])
        };
        assert_eq!(start(&fixture.real(cat), guest).end().success(), "");
    }
    let guest = Guest {
        stdout: output(null().unwrap()),
        ..Guest::default()
    };
    let running = run(fixture.wat(&flood(2)).prepare(guest).unwrap());
    assert_eq!(running.end().outcome, Outcome::Exited(0));
}

#[test]
fn a_terminal_is_told_from_a_pipe() {
    let terminal = || File::options().read(true).write(true).open("/dev/ptmx");
    // The type of stdin or stdout is the exit code: 2 is a character device, 0 anything.
    let kind = |fd: u32| {
        wasm::start(&format!(
            "(drop (call $fdstat (i32.const {fd}) (i32.const 64)))
            (call $exit (i32.load8_u (i32.const 64)))"
        ))
    };
    let fixture = Fixture::new();
    let outcome = |fd, stdin: OwnedFd, stdout: OwnedFd| {
        let guest = Guest {
            stdin: input(stdin),
            stdout: output(stdout),
            ..Guest::default()
        };
        run(fixture.wat(&kind(fd)).prepare(guest).unwrap())
            .end()
            .outcome
    };
    for fd in [0, 1] {
        let (theirs, _ours) = pipe();
        let (_back, stdout) = pipe();
        assert_eq!(outcome(fd, theirs, stdout), Outcome::Exited(0));
        let terminal = terminal().expect("a mounted devpts (/dev/ptmx)");
        let other = terminal.try_clone().unwrap();
        assert_eq!(
            outcome(fd, terminal.into(), other.into()),
            Outcome::Exited(2)
        );
    }
}
