//! FIFOs and devices: WASI reads and writes files at positions, and these have none.

use std::fs::{File, OpenOptions};
use std::io::Write;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};
use wasi_runtime::{Guest, Outcome};

use super::{Container, answers, programs};
use crate::fixture::{Fixture, start};
use crate::wasm;

/// A container with `/fifo` in it.
fn container() -> Container {
    let container = Container::new();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, container.path("fifo"), FileType::Fifo, mode, 0).unwrap();
    container
}

#[test]
fn a_fifo_is_read_to_its_end() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = container();
        let path = container.path("fifo");
        let sent = "0123456789".repeat(20_000);
        let writing = std::thread::spawn({
            let sent = sent.clone();
            // Waits for the reader, and the reader for this.
            move || std::fs::write(path, sent)
        });
        let steps = ["lstat /fifo", "read /fifo"];
        let found = answers(&artifact, container.root(), &steps);
        writing.join().unwrap().unwrap();
        assert_eq!(found[0], "other", "{world}");
        assert!(found[1] == sent, "{world}: {} bytes", found[1].len());
    }
}

#[test]
fn a_fifo_is_written() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        for how in ["write", "append"] {
            let container = container();
            let path = container.path("fifo");
            let reading = std::thread::spawn(move || std::fs::read_to_string(path));
            let step = format!("{how} /fifo text");
            let found = answers(&artifact, container.root(), &[&step]);
            assert_eq!(found, ["ok"], "{world}");
            assert_eq!(reading.join().unwrap().unwrap(), "text", "{world}");
        }
    }
}

#[test]
fn a_read_of_a_stalled_fifo_is_ended() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = container();
        // Both sides, so that nobody waits and there is no end.
        let both = open(container.path("fifo"), OFlags::RDWR, Mode::empty()).unwrap();
        let guest = Guest {
            args: ["paths", "read /fifo"].map(str::to_owned).to_vec(),
            preopens: container.root(),
            ..Guest::default()
        };
        let running = start(&artifact, guest);
        let mut writer = File::from(both);
        writer.write_all(b"some").unwrap();
        while rustix::io::ioctl_fionread(&writer).unwrap() > 0 {
            std::thread::yield_now();
        }
        // It has read all there was, and reads on.
        let ran = running.kill();
        assert_eq!(ran.outcome, Outcome::Killed, "{world}: {ran:?}");
    }
}

/// wasmtime-wasi makes the standard streams when it is first asked something.
#[test]
fn the_first_call_of_a_guest_may_open_a_fifo() {
    let container = container();
    let both = open(container.path("fifo"), OFlags::RDWR, Mode::empty()).unwrap();
    let mut writer = File::from(both);
    writer.write_all(b"some").unwrap();
    let guest = Guest {
        preopens: container.root(),
        ..Guest::default()
    };
    // Exits with 100 + errno, or with how much it has read.
    let text = wasm::module(
        r#"(data (i32.const 64) "fifo")
        (func (export "_start") (local $errno i32)
            (local.set $errno (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4)
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 128)))
            (i32.store (i32.const 0) (i32.const 192))
            (i32.store (i32.const 4) (i32.const 8))
            (if (i32.eqz (local.get $errno)) (then (local.set $errno
                (call $fd_read (i32.load (i32.const 128)) (i32.const 0) (i32.const 1) (i32.const 8)))))
            (if (local.get $errno)
                (then (call $exit (i32.add (i32.const 100) (local.get $errno)))))
            (call $exit (i32.load (i32.const 8))))"#,
    );
    let ran = Fixture::new().run(&text, guest);
    assert_eq!(ran.outcome, Outcome::Exited(4), "{ran:?}");
}

#[test]
fn a_fifo_whose_reader_goes_is_a_broken_pipe() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = container();
        let both = open(container.path("fifo"), OFlags::RDWR, Mode::empty()).unwrap();
        let size = rustix::pipe::fcntl_setpipe_size(&both, 4096).unwrap() as u64;
        let guest = Guest {
            args: vec![
                "paths".to_owned(),
                format!("append /fifo {}", "x".repeat(20_000)),
            ],
            preopens: container.root(),
            ..Guest::default()
        };
        let running = start(&artifact, guest);
        while rustix::io::ioctl_fionread(&both).unwrap() < size {
            std::thread::yield_now();
        }
        // It waits for room, and then for nobody.
        drop(both);
        let found = running.end().success();
        // wasi-libc of WASI 0.2 does not tell why a stream fails.
        let told = ["Broken pipe\n", "I/O error\n", "ErrorCode::Pipe\n"];
        assert!(told.contains(&found.as_str()), "{world}: {found}");
    }
}

/// Needs root.
#[test]
fn devices_are_what_they_are() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = container();
        let mode = Mode::from_raw_mode(0o666);
        let null = makedev(1, 3);
        mknodat(
            CWD,
            container.path("null"),
            FileType::CharacterDevice,
            mode,
            null,
        )
        .unwrap();
        let opened = OpenOptions::new().write(true).open(container.path("null"));
        if opened.is_err() {
            panic!("the temporary folder is on a file system without devices (nodev)");
        }
        let steps = ["write /null text", "append /null text", "read /null"];
        let found = answers(&artifact, container.root(), &steps);
        assert_eq!(found, ["ok", "ok", ""], "{world}");
    }
}
