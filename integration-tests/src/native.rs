//! A native program for runc: what a Linux container of the same size as our wasm guests does.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, anyhow};

use crate::image::Image;
use crate::invocation::Invocation;

/// `hello` greets; `hello exit N` ends with N; `hello block` never ends; `hello cat` copies stdin;
/// `hello processes` writes what each process that it sees runs, a line each; `hello self` its user and its
/// environment; `hello fill N` has N MiB of memory and never ends.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
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
    if (argc > 2 && !strcmp(argv[1], "fill")) {
        size_t size = (size_t)atoi(argv[2]) << 20;
        /* Not for the compiler to leave out. */
        volatile char *memory = malloc(size);
        for (size_t at = 0; at < size; at += 4096) memory[at] = 1;
        for (;;) pause();
    }
    if (argc > 1 && !strcmp(argv[1], "self")) {
        gid_t groups[64];
        int n = getgroups(64, groups);
        printf("uid %d gid %d groups", getuid(), getgid());
        for (int i = 0; i < n; i++) printf(" %d", groups[i]);
        putchar('\n');
        for (char **variable = environ; *variable; variable++) puts(*variable);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "processes")) {
        DIR *processes = opendir("/proc");
        struct dirent *entry;
        while (processes && (entry = readdir(processes))) {
            char path[300], bytes[4096];
            if (!atoi(entry->d_name)) continue;
            snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
            FILE *file = fopen(path, "r");
            size_t n = file ? fread(bytes, 1, sizeof bytes, file) : 0;
            for (size_t i = 0; i + 1 < n; i++) putchar(bytes[i] ? bytes[i] : ' ');
            putchar('\n');
            if (file) fclose(file);
        }
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
