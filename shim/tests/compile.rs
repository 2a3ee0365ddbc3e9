//! `containerd-shim-wasi-v1 compile`, as a person calls it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail the test that calls them"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A folder for wasm files and a cache.
struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        let shim = Path::new(env!("CARGO_BIN_EXE_containerd-shim-wasi-v1"));
        let compiler = shim.with_file_name("containerd-shim-wasi-compile");
        assert!(compiler.exists(), "there is no compiler: run `make build`");
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Runs `compile` where the files are, with a cache `chosen` by the environment.
    fn run(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_containerd-shim-wasi-v1"))
            .arg("compile")
            .args(words)
            .env_clear()
            .env("CONTAINERD_SHIM_WASI_CACHE", self.path("chosen"))
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A module that does nothing, told from others by its `name`.
fn module(name: &str) -> Vec<u8> {
    wat::parse_str(format!(r#"(module (func (export "{name}")))"#)).unwrap()
}

#[test]
fn each_file_is_compiled_once() {
    let fixture = Fixture::new();
    fixture.write("a.wasm", &module("a"));
    fixture.write("b.wasm", &module("b"));
    let first = fixture.run(&["a.wasm", "b.wasm"]);
    assert!(first.status.success(), "{first:?}");
    let lines = stdout(&first);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("a.wasm: compiled in "), "{lines:?}");
    assert!(lines[1].starts_with("b.wasm: compiled in "), "{lines:?}");
    assert_eq!(stderr(&first), "", "no bar where there is no terminal");
    let second = fixture.run(&["b.wasm", "a.wasm"]);
    assert!(second.status.success(), "{second:?}");
    assert_eq!(
        stdout(&second),
        "b.wasm: already there\na.wasm: already there\n"
    );
}

#[test]
fn another_cache_can_be_named() {
    let fixture = Fixture::new();
    fixture.write("a.wasm", &module("a"));
    assert!(
        fixture
            .run(&["--cache", "other", "a.wasm"])
            .status
            .success()
    );
    assert!(fixture.path("other").exists());
    assert!(!fixture.path("chosen").exists());
}

#[test]
fn what_fails_is_said_and_the_rest_is_compiled() {
    let fixture = Fixture::new();
    fixture.write("a.wasm", &module("a"));
    fixture.write("b.wasm", b"no wasm");
    let output = fixture.run(&["missing.wasm", ".", "b.wasm", "a.wasm"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("a.wasm: compiled in "));
    let reasons = stderr(&output);
    let reasons: Vec<&str> = reasons.lines().collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert_eq!(
        reasons[..2],
        [
            "missing.wasm: No such file or directory (os error 2)",
            ".: it is no regular file"
        ]
    );
    assert!(reasons[2].starts_with("b.wasm: cannot compile it: "));
}

#[test]
fn a_cache_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    fixture.write("a.wasm", &module("a"));
    std::fs::create_dir(fixture.path("chosen")).unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(fixture.path("chosen"), open).unwrap();
    let output = fixture.run(&["a.wasm"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("closed to all others"),
        "{output:?}"
    );
}

#[test]
fn help_is_printed() {
    let output = Fixture::new().run(&["--help"]);
    assert!(output.status.success());
    assert!(stdout(&output).starts_with("Usage: containerd-shim-wasi-v1 compile"));
}
