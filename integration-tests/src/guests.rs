//! The wasm programs that containers run.
//!
//! Most are compiled by `integration-tests/guests` into `target/guests`. The few that the process tests need are
//! written here as text, so that this stage needs nothing but the shim.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::image::Image;

/// A compiled guest, by its file name without `.wasm`.
///
/// # Errors
///
/// When it has not been compiled.
pub fn named(name: &str) -> Result<Vec<u8>> {
    let file = crate::target().join("guests").join(format!("{name}.wasm"));
    std::fs::read(&file)
        .with_context(|| format!("read {}; `make guests` compiles it", file.display()))
}

/// A compiled guest with another digest than [`named`] has, for a test that loses it.
///
/// # Errors
///
/// When it has not been compiled.
pub fn own(name: &str) -> Result<Vec<u8>> {
    let mut wasm = named(name)?;
    // A custom section: id 0, three bytes, and its name of two (core specification 5.5.3).
    wasm.extend(b"\0\x03\x02my");
    Ok(wasm)
}

/// An image of platform `wasi/wasm` that runs a compiled guest, which is its `/app.wasm`.
///
/// # Errors
///
/// When the guest has not been compiled.
pub fn image(name: &str) -> Result<Image> {
    Ok(Image::new(&format!("{name}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", named(name)?)
        .entrypoint(["/app.wasm"]))
}

/// A module that ends with this status.
///
/// # Errors
///
/// Never, with text that parses.
pub fn exits(status: u8) -> Result<Vec<u8>> {
    module(&format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") i32.const {status} call $exit))"#
    ))
}

/// A module that writes this line and ends.
///
/// # Errors
///
/// Never, with text that parses.
pub fn writes(line: &str) -> Result<Vec<u8>> {
    let length = line.len() + 1;
    module(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\{length:02x}\00\00\00")
            (data (i32.const 16) "{line}\n")
            (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#
    ))
}

/// A module that computes for ever.
///
/// # Errors
///
/// Never, with text that parses.
pub fn spins() -> Result<Vec<u8>> {
    module(r#"(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))"#)
}

/// A module that says `copying` and copies a megabyte in its memory, again and again.
///
/// # Errors
///
/// Never, with text that parses.
pub fn copies() -> Result<Vec<u8>> {
    copies_of(1 << 20)
}

fn copies_of(bytes: u32) -> Result<Vec<u8>> {
    module(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") {pages})
            (data (i32.const 0) "\10\00\00\00\08\00\00\00")
            (data (i32.const 16) "copying\n")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (loop (memory.copy (i32.const {bytes}) (i32.const 65536) (i32.const {bytes})) (br 0))))"#,
        pages = (bytes >> 15) + 1,
    ))
}

/// A module that says `copying` and copies a gigabyte in its memory, again and again.
///
/// # Errors
///
/// Never, with text that parses.
pub fn long_copies() -> Result<Vec<u8>> {
    copies_of(1 << 30)
}

/// A module that counts to this number, and ends.
///
/// # Errors
///
/// Never, with text that parses.
pub fn counts_to(number: u32) -> Result<Vec<u8>> {
    module(&format!(
        r#"(module (memory (export "memory") 1)
            (func (export "_start") (local $i i32)
                (loop (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
                                         (i32.const {number}))))))"#
    ))
}

/// A module that grows its memory, a page at a time, until it is stopped.
///
/// # Errors
///
/// Never, with text that parses.
pub fn grows() -> Result<Vec<u8>> {
    module(
        r#"(module (memory (export "memory") 1)
            (func (export "_start") (loop (drop (memory.grow (i32.const 1))) (br 0))))"#,
    )
}

/// A module that writes to this many MiB of its memory, and then computes for ever.
///
/// # Errors
///
/// Never, with text that parses.
pub fn fills(mebibytes: u32) -> Result<Vec<u8>> {
    module(&format!(
        r#"(module (memory (export "memory") {pages})
            (func (export "_start")
                (memory.fill (i32.const 0) (i32.const 1) (i32.const {bytes}))
                (loop br 0)))"#,
        pages = mebibytes * 16,
        bytes = mebibytes << 20,
    ))
}

/// A module that takes MiB after MiB, and writes to each, until it is stopped.
///
/// # Errors
///
/// Never, with text that parses.
pub fn takes_all() -> Result<Vec<u8>> {
    module(
        r#"(module (memory (export "memory") 1)
            (func (export "_start")
                (loop
                    (memory.fill
                        (i32.mul (memory.grow (i32.const 16)) (i32.const 65536))
                        (i32.const 1)
                        (i32.const 1048576))
                    (br 0))))"#,
    )
}

/// A module that grows by this many MiB, says `grown`, and writes to them when it has read something.
///
/// # Errors
///
/// Never, with text that parses.
pub fn fills_when_told(mebibytes: u32) -> Result<Vec<u8>> {
    module(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\06\00\00\00")
            (data (i32.const 16) "grown\n")
            (func (export "_start")
                (drop (memory.grow (i32.const {pages})))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (memory.fill (i32.const 65536) (i32.const 1) (i32.const {bytes}))
                (loop br 0)))"#,
        pages = mebibytes * 16,
        bytes = mebibytes << 20,
    ))
}

/// A module that sleeps for an hour.
///
/// # Errors
///
/// Never, with text that parses.
pub fn sleeps() -> Result<Vec<u8>> {
    naps(Duration::from_secs(3600), "")
}

/// A module that grows its memory by a page every 10 ms, until it is stopped.
///
/// # Errors
///
/// Never, with text that parses.
pub fn grows_slowly() -> Result<Vec<u8>> {
    naps(
        Duration::from_millis(10),
        "(drop (memory.grow (i32.const 1)))",
    )
}

/// Sleeps, does `then`, and so on for ever. The subscription is a clock (0) with a timeout at its 24.
fn naps(time: Duration, then: &str) -> Result<Vec<u8>> {
    module(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i64.store (i32.const 24) (i64.const {}))
                (i32.store (i32.const 16) (i32.const 1))
                (loop
                    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
                    {then}
                    (br 0))))"#,
        time.as_nanos()
    ))
}

/// A module that opens its root until it cannot, and exits with the error's number.
///
/// # Errors
///
/// Never, with text that parses.
pub fn opens() -> Result<Vec<u8>> {
    module(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) ".")
            (func (export "_start") (local $error i32)
                (loop
                    (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1)
                        (i32.const 2) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 0)))
                    (br_if 0 (i32.eqz (local.get $error))))
                (call $exit (local.get $error))))"#,
    )
}

/// A module that calls itself for ever.
///
/// # Errors
///
/// Never, with text that parses.
pub fn recurses() -> Result<Vec<u8>> {
    module(
        r#"(module (memory (export "memory") 1)
            (func $deep (call $deep) (call $deep)) (func (export "_start") (call $deep)))"#,
    )
}

/// A module that does nothing, of so many functions that the compiler is busy for a while.
///
/// # Errors
///
/// Never, with text that parses.
pub fn takes_long_to_compile() -> Result<Vec<u8>> {
    let step = "(local.set 0 (i32.rotl (i32.mul (local.get 0) (i32.const 31)) (local.get 0)))";
    let function = format!(
        "(func (param i32) (result i32) {} (local.get 0))",
        step.repeat(50)
    );
    module(&format!(
        r#"(module (memory (export "memory") 1) (func (export "_start")) {})"#,
        function.repeat(1000)
    ))
}

/// A module that writes `00000000`, `00000001` and so on, a line each 5 ms, until it is stopped.
///
/// # Errors
///
/// Never, with text that parses.
pub fn counts() -> Result<Vec<u8>> {
    // The digits are at 16; a subscription to the monotonic clock at 64, its timeout at 88 (WASI preview 1,
    // "subscription"), the event at 128.
    module(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\09\00\00\00")
            (data (i32.const 16) "00000000\n")
            (func (export "_start") (local $at i32)
                (i32.store (i32.const 80) (i32.const 1))
                (i64.store (i32.const 88) (i64.const 5000000))
                (loop $line
                    (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
                    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 160)))
                    (local.set $at (i32.const 23))
                    (block $done (loop $digit
                        (if (i32.lt_u (i32.load8_u (local.get $at)) (i32.const 57)) (then
                            (i32.store8 (local.get $at)
                                (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
                            (br $done)))
                        (i32.store8 (local.get $at) (i32.const 48))
                        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                        (br $digit)))
                    (br $line))))"#,
    )
}

fn module(text: &str) -> Result<Vec<u8>> {
    wat::parse_str(text).context("assemble a module")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_texts_are_modules() {
        for module in [
            super::exits(7),
            super::writes("hello"),
            super::spins(),
            super::copies(),
            super::long_copies(),
            super::counts_to(3),
            super::grows(),
            super::fills(1),
            super::sleeps(),
            super::grows_slowly(),
            super::opens(),
            super::recurses(),
            super::counts(),
            super::takes_long_to_compile(),
        ] {
            assert!(module.unwrap().starts_with(b"\0asm"));
        }
    }
}
