//! Which threads of guests that were killed come before ordinary ones. Takes `CAP_SYS_NICE`.

use std::fs::File;
use std::io::Read;

use wasi_runtime::{Artifact, Guest, Outcome, Output};

use crate::fixture::{Fixture, args, runtime};
use crate::wasm;

/// Of the calling thread: what sched(7) calls its policy.
fn policy() -> i32 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // Fields are counted from 1; the third one follows the name (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(") ").unwrap().1.split(' ');
    let policy = fields.nth(41 - 3).unwrap();
    policy.parse().unwrap()
}

/// How many of some threads are real-time threads when the guest is dead that they ran.
fn urgent(artifact: &Artifact, dedicated: bool) -> usize {
    let killed = || {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let guest = Guest {
            stdout: Output::from_fd(theirs).unwrap(),
            ..args(["guest"])
        };
        let prepared = artifact.prepare(guest).unwrap();
        let interrupter = prepared.interrupter();
        let thread = std::thread::spawn(move || {
            if dedicated {
                prepared.ends_its_thread();
            }
            let outcome = runtime().block_on(prepared.run());
            (outcome, policy())
        });
        let mut said = [0; 6];
        File::from(ours).read_exact(&mut said).unwrap();
        interrupter.kill();
        let (outcome, policy) = thread.join().unwrap();
        assert_eq!(outcome, Outcome::Killed);
        // After its end nothing happens, to whoever has the thread's number by then.
        interrupter.kill();
        policy == libc::SCHED_FIFO
    };
    (0..10).filter(|_| killed()).count()
}

#[test]
fn a_thread_that_ends_with_its_guest_is_urgent_to_its_end() {
    let fixture = Fixture::new();
    for program in [wasm::SPIN, wasm::SLEEP] {
        let artifact = fixture.wat(&wasm::ready_then(program));
        // One whose guest does not notice at once is an ordinary one in between, and may stay that.
        assert!(urgent(&artifact, true) > 5, "{program}");
        assert_eq!(urgent(&artifact, false), 0, "{program}");
    }
}

#[test]
fn much_memory_is_given_back_by_an_ordinary_thread() {
    let artifact = Fixture::new().wat(&wasm::module(&format!(
        r#"(data (i32.const 64) "ready\n")
        (func (export "_start")
            (drop (memory.grow (i32.const 2048)))
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            {})"#,
        wasm::SPIN
    )));
    assert_eq!(urgent(&artifact, true), 0);
}

#[test]
fn who_gives_orders_comes_first_and_what_it_starts_does_not() {
    let nice = || rustix::process::getpriority_process(None).unwrap();
    let answers = std::thread::spawn(move || {
        wasi_runtime::come_first().unwrap();
        let started = std::thread::spawn(nice).join().unwrap();
        (nice(), policy(), started)
    });
    assert_eq!(answers.join().unwrap(), (-10, 0, 0));
}
