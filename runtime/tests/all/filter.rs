//! The compile child's system calls.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use crate::fixture::{Fixture, args, start};
use crate::locate;

#[test]
fn every_thread_is_filtered_before_the_module_is_read() {
    let mut child = Command::new(locate::compiler())
        .args(["digest", "fence"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = child.stdin.as_ref().unwrap().as_fd();
    let mut stdin = File::from(stdin.try_clone_to_owned().unwrap());
    stdin.write_all(b"\0asm").unwrap();
    while rustix::io::ioctl_fionread(&stdin).unwrap() > 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let mut count = 0;
    for thread in threads {
        let path = thread.unwrap().path().join("status");
        let status = std::fs::read_to_string(path).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        if rustix::process::geteuid().is_root() {
            assert!(
                status.contains("\nUid:\t65534\t65534\t65534\t65534\n"),
                "{status}"
            );
        }
        count += 1;
    }
    assert!(count > 1, "the pool's threads are made before the filter");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_largest_guest_is_compiled_under_the_filter() {
    let artifact = Fixture::new().real("hello-go.wasm");
    let ran = start(&artifact, args(["hello-go"])).end();
    assert!(!ran.success().is_empty());
}
