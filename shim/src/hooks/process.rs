//! One run of a hook: a process that is given its state, bounded in time and in what it says.

use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use wasi_bundles::{Hook, User};

use crate::cgroup::Origin;
use crate::credentials;

/// How much of what a hook wrote is told: the end of it, where failures are named.
const TOLD: usize = 2048;
/// What a pipe holds (pipe(7)), and so the most that can be left in it.
const PIPE: usize = 64 * 1024;

/// Where a hook runs.
#[derive(Debug)]
pub(super) enum Place {
    /// In the host's namespaces.
    Host(Origin),
    /// In those of the container's thread, which still has the host's files.
    Namespaces(u32, Origin),
    /// In those, in its root, and as its user with these capabilities.
    Container(u32, User, Vec<String>),
}

/// Why a hook failed; reads on after its path.
#[derive(Debug)]
pub enum Failure {
    /// It could not be run.
    Host(io::Error),
    /// It ended with a failure. The end of what it wrote.
    Status(ExitStatus, String),
    /// It took longer than it may.
    TimedOut(Duration, String),
    /// Nobody waits for it any more.
    GivenUp,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (written, short) = match self {
            Self::Host(error) => return write!(f, "cannot be run: {error}"),
            Self::GivenUp => return write!(f, "was given up with the container"),
            Self::Status(status, written) => (written, format!("failed ({status})")),
            Self::TimedOut(limit, written) => (written, format!("took longer than {limit:?}")),
        };
        match written.trim() {
            "" => write!(f, "{short} and wrote nothing"),
            written => write!(f, "{short}: {written}"),
        }
    }
}

/// Runs a hook to its end. Killed, with what it started in its process group, at its timeout and when
/// the other end of `given_up` is closed.
pub(super) fn run(
    hook: &Hook,
    bundle: &Path,
    place: &Place,
    state: &[u8],
    given_up: &PipeReader,
) -> Result<(), Failure> {
    let deadline = hook.timeout.map(|limit| (Instant::now() + limit, limit));
    let (mut child, output) = start(hook, bundle, place).map_err(Failure::Host)?;
    let ended = attend(&mut child, output, state, deadline, given_up);
    if let Err(Failure::Host(_) | Failure::TimedOut(..) | Failure::GivenUp) = ended {
        // Not waited for yet: the group is its own.
        let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    }
    let status = child.wait().map_err(Failure::Host)?;
    match ended? {
        _ if status.success() => Ok(()),
        written => Err(Failure::Status(status, written)),
    }
}

/// Starts it; both streams that it writes to are the pipe.
fn start(hook: &Hook, bundle: &Path, place: &Place) -> io::Result<(Child, PipeReader)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .envs(hook.env.iter().map(|(name, value)| (name, value)))
        .stdin(std::process::Stdio::piped())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        // What is killed for it is killed as a whole.
        .process_group(0);
    let child = match place {
        Place::Host(origin) => {
            origin.apply_to(&mut command);
            command.current_dir(bundle).spawn()
        }
        Place::Namespaces(pid, origin) => {
            origin.apply_to(&mut command);
            // A process has the namespaces of the thread that starts it, which ends here.
            in_thread(|| enter(*pid).and_then(|()| command.spawn()))
        }
        Place::Container(pid, user, capabilities) => in_thread(|| {
            enter(*pid)?;
            // There is nothing of the host's for it to see or to signal.
            unshare(CloneFlags::CLONE_NEWPID)?;
            credentials::assume_for_a_program(user, capabilities.iter().map(String::as_str))?;
            command.spawn()
        }),
    }?;
    Ok((child, reader))
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let ended = thread::Builder::new()
            .name("wasi-hook".to_owned())
            .spawn_scoped(scope, work)?
            .join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    })
}

/// Moves the calling thread into the namespaces of a thread of this process.
fn enter(pid: u32) -> io::Result<()> {
    let open = |name: &str| File::open(format!("/proc/self/task/{pid}/ns/{name}"));
    let kinds = [
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("ipc")?, CloneFlags::CLONE_NEWIPC),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        // Last: it changes the root, and the working directory with it.
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    unshare(CloneFlags::CLONE_FS)?;
    for (namespace, kind) in kinds {
        setns(namespace, kind)?;
    }
    Ok(())
}

/// Feeds it and listens until it has ended; the end of what it wrote.
fn attend(
    child: &mut Child,
    mut output: PipeReader,
    state: &[u8],
    deadline: Option<(Instant, Duration)>,
    given_up: &PipeReader,
) -> Result<String, Failure> {
    let host = |error: rustix::io::Errno| Failure::Host(error.into());
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    let process = process.map_err(host)?;
    let mut input = child.stdin.take();
    for pipe in [Some(output.as_fd()), input.as_ref().map(AsFd::as_fd)] {
        let Some(pipe) = pipe else { continue };
        rustix::io::ioctl_fionbio(pipe, true).map_err(host)?;
    }
    let mut unsent = state;
    let mut written = Tail::default();
    let mut open = true;
    loop {
        let mut watched = vec![
            PollFd::new(&process, PollFlags::IN),
            PollFd::new(given_up, PollFlags::IN),
        ];
        if open {
            watched.push(PollFd::new(&output, PollFlags::IN));
        }
        if let Some(input) = &input {
            watched.push(PollFd::new(input, PollFlags::OUT));
        }
        let left = deadline.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut watched, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(host(error)),
        }
        let ended = !watched[0].revents().is_empty();
        let abandoned = !watched[1].revents().is_empty();
        drop(watched);
        // One that reads nothing, or not all, does not mind.
        if let Some(pipe) = &mut input {
            match pipe.write(unsent) {
                Ok(count) => unsent = &unsent[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => unsent = &[],
            }
        }
        if unsent.is_empty() {
            input = None;
        }
        // No more than a pipe holds at a time: who writes without end has a deadline, too.
        open = open && written.take(&mut output);
        if ended {
            // What it left running may hold the pipe open: that is not waited for.
            return Ok(written.text());
        }
        if abandoned {
            return Err(Failure::GivenUp);
        }
        if let Some((at, limit)) = deadline
            && Instant::now() >= at
        {
            return Err(Failure::TimedOut(limit, written.text()));
        }
    }
}

/// The end of what was written.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Takes what is there now; whether there can be more.
    fn take(&mut self, from: &mut impl Read) -> bool {
        let mut buffer = [0; 4096];
        for _ in 0..PIPE / buffer.len() {
            match from.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.bytes.len().saturating_sub(TOLD);
        self.cut |= excess > 0;
        self.bytes.drain(..excess);
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let dots = if self.cut { "…" } else { "" };
        format!("{dots}{}", text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Option<Duration>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: ["hook", "-c", script].map(str::to_owned).into(),
            env: vec![("NAME".into(), "value".into())],
            timeout,
        }
    }

    fn run_with(script: &str, state: &[u8], timeout: Option<Duration>) -> Result<(), Failure> {
        let (given_up, _waiting) = io::pipe().unwrap();
        let place = Place::Host(Origin::default());
        run(
            &shell(script, timeout),
            Path::new("/"),
            &place,
            state,
            &given_up,
        )
    }

    fn failure(script: &str) -> String {
        run_with(script, b"{}", None).unwrap_err().to_string()
    }

    #[test]
    fn it_reads_the_state_to_its_end() {
        run_with(r#"[ "$(cat)" = '{"id":"a"}' ]"#, br#"{"id":"a"}"#, None).unwrap();
        // More than a pipe holds, read late, or not at all.
        let large = vec![b'x'; 3 * PIPE];
        run_with("[ $(wc -c) = 196608 ]", &large, None).unwrap();
        run_with("exec true", &large, None).unwrap();
    }

    #[test]
    fn its_environment_is_its_own() {
        let own = "[ \"$(env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=)\" = NAME=value ]";
        run_with(own, b"", None).unwrap();
    }

    #[test]
    fn a_failure_is_told_with_the_end_of_what_it_wrote() {
        let text = failure("echo out; echo err >&2; exit 3");
        assert_eq!(text, "failed (exit status: 3): out\nerr");
        assert_eq!(
            failure("exit 1"),
            "failed (exit status: 1) and wrote nothing"
        );
        let text = failure("head -c 1000000 /dev/zero | tr '\\0' x; echo the end; exit 1");
        assert!(
            text.ends_with("the end") && text.len() < 2 * TOLD,
            "{}",
            text.len()
        );
    }

    #[test]
    fn one_that_hangs_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        let script = format!("mkfifo {0}; cat {0} & echo waiting; wait", fifo.display());
        let text = run_with(&script, b"", Some(Duration::from_secs(1)));
        let text = text.unwrap_err().to_string();
        assert_eq!(text, "took longer than 1s: waiting");
        // Without a reader a nonblocking open for writing fails (fifo(7)): the `cat` is gone, or going.
        let gone = || {
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
            rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).is_err()
        };
        let begun = Instant::now();
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it still reads");
            thread::yield_now();
        }
    }

    #[test]
    fn one_without_a_waiter_is_killed() {
        let (given_up, waiting) = io::pipe().unwrap();
        drop(waiting);
        let place = Place::Host(Origin::default());
        let run = run(
            &shell("exec sleep 1000", None),
            Path::new("/"),
            &place,
            b"",
            &given_up,
        );
        assert!(matches!(run, Err(Failure::GivenUp)), "{run:?}");
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        run_with(
            &format!("sleep 1000 & echo $! > {}", pid.display()),
            b"",
            None,
        )
        .unwrap();
        let pid: i32 = std::fs::read_to_string(pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).expect("it still runs");
    }

    #[test]
    fn a_program_that_is_not_there_cannot_be_run() {
        let hook = Hook {
            path: "/nowhere/hook".into(),
            ..shell("", None)
        };
        let (given_up, _waiting) = io::pipe().unwrap();
        let place = Place::Host(Origin::default());
        let failed = run(&hook, Path::new("/"), &place, b"", &given_up).unwrap_err();
        assert!(
            failed.to_string().starts_with("cannot be run: "),
            "{failed}"
        );
    }
}
