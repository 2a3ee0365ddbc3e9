//! The wasm programs that containers run.
//!
//! Most are compiled by `integration-tests/guests` into `target/guests`. The few that the process tests need are
//! written here as text, so that this stage needs nothing but the shim.

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
    module(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 33)
            (data (i32.const 0) "\10\00\00\00\08\00\00\00")
            (data (i32.const 16) "copying\n")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (loop (memory.copy (i32.const 1048576) (i32.const 65536) (i32.const 1048576)) (br 0))))"#,
    )
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
            super::counts_to(3),
            super::grows(),
            super::fills(1),
        ] {
            assert!(module.unwrap().starts_with(b"\0asm"));
        }
    }
}
