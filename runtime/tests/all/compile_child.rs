//! The compile child, run by hand.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use crate::fixture::digest;
use crate::locate;

/// The child with `digest` as its argument, all three streams being pipes.
fn spawn(digest: &str) -> Child {
    Command::new(locate::compiler())
        .args([digest, "fence"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether it succeeded, how much it wrote, and its words.
fn compile(wasm: &[u8], digest: &str) -> (bool, usize, String) {
    let mut child = spawn(digest);
    child.stdin.take().unwrap().write_all(wasm).unwrap();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), output.stdout.len(), words)
}

#[test]
fn wasm_becomes_an_artifact_without_a_word() {
    for text in ["(module)", "(component)"] {
        let wasm = wat::parse_str(text).unwrap();
        let (success, artifact, words) = compile(&wasm, &digest(&wasm));
        assert!(success && artifact > 0, "{words}");
        assert_eq!(words, "");
    }
}

#[test]
fn garbage_is_refused_and_nothing_written() {
    let (success, artifact, words) = compile(b"garbage", &digest(b"garbage"));
    assert!(!success);
    assert_eq!(artifact, 0);
    assert!(words.contains("magic header"), "{words}");
}

#[test]
fn another_content_than_the_digest_says_is_refused() {
    let wasm = wat::parse_str("(module)").unwrap();
    let (success, artifact, words) = compile(&wasm, &digest(b"other"));
    assert!(!success);
    assert_eq!(artifact, 0);
    assert!(words.contains("changed while it was read"), "{words}");
}

/// Its parent may die before it has asked to be killed then.
#[test]
fn without_a_reader_of_its_words_it_does_not_begin() {
    let wasm = wat::parse_str("(module)").unwrap();
    let mut child = spawn(&digest(&wasm));
    drop(child.stderr.take());
    // It may be gone before it has read all.
    drop(child.stdin.take().unwrap().write_all(&wasm));
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert_eq!(output.stdout.len(), 0);
}

#[test]
fn without_a_digest_it_says_how_to_use_it() {
    let output = Command::new(locate::compiler()).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: "));
}

/// A child that has confined itself and waits for the rest of its module.
///
/// It reads after it has confined itself, so it has once the pipe is empty.
fn confined() -> Child {
    let mut child = spawn(&digest(b""));
    let mut stdin = child
        .stdin
        .as_ref()
        .map(|stdin| File::from(stdin.as_fd().try_clone_to_owned().unwrap()))
        .unwrap();
    stdin.write_all(b"\0asm").unwrap();
    while rustix::io::ioctl_fionread(&stdin).unwrap() > 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    child
}

fn proc(child: &Child, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn it_reads_the_module_without_privileges() {
    let child = confined();
    let status = proc(&child, "status");
    let field = |name: &str| -> Vec<String> {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let words = line.split_whitespace().skip(1);
        words.map(str::to_owned).collect()
    };
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        assert_eq!(field("Uid:"), ["65534"; 4]);
        assert_eq!(field("Gid:"), ["65534"; 4]);
        assert_eq!(field("Groups:"), [""; 0]);
    } else {
        assert_eq!(field("Uid:"), [uid.as_raw().to_string().as_str(); 4]);
        assert_eq!(field("Gid:"), [gid.as_raw().to_string().as_str(); 4]);
    }
    for capabilities in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(capabilities), ["0000000000000000"]);
    }
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    end(child);
}

#[test]
fn it_is_limited_in_memory_time_and_core_dumps() {
    let child = confined();
    let limits = proc(&child, "limits");
    let limit = |name: &str| -> Vec<&str> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().take(2).collect()
    };
    assert_eq!(limit("Max address space"), ["8589934592", "8589934592"]);
    assert_eq!(limit("Max cpu time"), ["900", "900"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    end(child);
}

#[test]
fn it_dies_with_the_thread_that_asked_for_it() {
    use std::os::unix::process::ExitStatusExt;
    let mut child = std::thread::spawn(confined).join().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_module_that_is_too_large_is_refused() {
    let mut child = spawn(&digest(b""));
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let chunk = vec![0; 1 << 20];
        // It stops reading, which is an error here.
        while stdin.write_all(&chunk).is_ok() {}
    });
    let mut words = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    stderr.read_to_string(&mut words).unwrap();
    assert_eq!(words, "the module is larger than 256 MiB\n");
    assert!(!child.wait().unwrap().success());
    writer.join().unwrap();
}
