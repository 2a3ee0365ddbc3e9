//! A native program for runc: what a Linux container of the same size as our wasm guests does.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};

use crate::image::Image;
use crate::invocation::Invocation;

/// `hello` greets; `hello exit N` ends with N; `hello block` never ends; `hello cat` copies stdin.
const SOURCE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
    if (argc > 1 && !strcmp(argv[1], "block")) for (;;) pause();
    if (argc > 1 && !strcmp(argv[1], "cat")) {
        char bytes[4096]; ssize_t n;
        while ((n = read(0, bytes, sizeof bytes)) > 0) if (write(1, bytes, n) != n) return 1;
        return 0;
    }
    puts("hello from linux");
    return 0;
}
"#;

/// An image with the static program, compiled once per run of the tests.
///
/// # Errors
///
/// When there is no C compiler with a static libc.
pub fn image() -> Result<Image> {
    let image = Image::new("native-hello:1").platform("linux", "amd64");
    Ok(image
        .executable("/hello", program()?)
        .entrypoint(["/hello"]))
}

/// The static program itself.
///
/// # Errors
///
/// As [`image`].
pub fn program() -> Result<&'static [u8]> {
    static PROGRAM: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| compile().map_err(|error| format!("{error:#}")));
    program.as_deref().map_err(|error| anyhow!("{error}"))
}

fn compile() -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("a folder to compile in")?;
    let source = folder.path().join("hello.c");
    let program = folder.path().join("hello");
    std::fs::write(&source, SOURCE).context("write hello.c")?;
    Invocation::new("cc")
        .args([
            Path::new("-static"),
            "-O2".as_ref(),
            "-o".as_ref(),
            &program,
            &source,
        ])
        .success()?;
    std::fs::read(&program).context("read the compiled hello")
}
