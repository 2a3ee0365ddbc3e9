//! A program that takes a container's output (`binary://`): nerdctl's, and whoever else's.
//!
//! It gets the reading ends of two pipes as descriptors 3 and 4, stdout and stderr, and the writing end
//! of a third as 5, by which it says that it is ready: by closing it, or with `binary-v2` by a byte. Its
//! environment is `CONTAINER_ID` and `CONTAINER_NAMESPACE` alone. It is a child of the shim, in the
//! host's namespaces and the shim's cgroup.
//!
//! The guest writes into the pipes itself. The shim holds no end of them: the program reads to the end
//! of both when the guest ends, and if the program ends first, the guest meets a broken pipe, as in
//! `guest | program`. (runc's shim holds them, so that there the container hangs once 64 KiB are written.)
//!
//! It has until Delete to end by itself, and then 10 s; then it is sent SIGTERM, and after 12 s SIGKILL.
//! A task of the control runtime waits for it all the time, so it is never a zombie.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::Owner;
use super::target::LogCommand;
use crate::Error;

/// How long a program may take for what.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// To say that it is ready.
    ready: Duration,
    /// To read what is left in its pipes and end, after Delete.
    read: Duration,
    /// To end after SIGTERM.
    terminate: Duration,
}

/// The last is that of runc's shim, which gives no time for the others, or all.
const PATIENCE: Patience = Patience {
    ready: Duration::from_secs(10),
    read: Duration::from_secs(10),
    terminate: Duration::from_secs(12),
};

/// The lowest descriptor that cannot be one of the program's own.
const BEYOND: i32 = 6;

/// A logger that runs, or ran. Dropping it gives it the time it has after Delete.
#[derive(Debug)]
pub(super) struct LogProgram {
    stage: watch::Sender<Stage>,
    ended: oneshot::Receiver<()>,
}

/// What is to be expected of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The guest may write.
    Open,
    /// The guest has ended.
    Closed,
}

/// A process to be waited for.
#[derive(Debug)]
struct Child {
    pidfd: AsyncFd<OwnedFd>,
}

/// The descriptors of a new logger: its own, then the guest's and the shim's.
struct Pipes {
    theirs: [OwnedFd; 3],
    stdout: OwnedFd,
    stderr: OwnedFd,
    ready: OwnedFd,
}

impl LogProgram {
    /// Starts it and waits until it is ready. Returns the writing ends of its stdout and stderr, too.
    ///
    /// # Errors
    ///
    /// [`Error::Logger`] says what it did not do; it is gone then.
    pub(super) async fn start(
        command: &LogCommand,
        owner: Owner<'_>,
    ) -> Result<(Self, OwnedFd, OwnedFd), Error> {
        Self::start_within(PATIENCE, command, owner).await
    }

    async fn start_within(
        patience: Patience,
        command: &LogCommand,
        owner: Owner<'_>,
    ) -> Result<(Self, OwnedFd, OwnedFd), Error> {
        let name = command.name();
        let fail = |problem: &str, source: io::Error| Error::Logger {
            program: name.clone(),
            problem: problem.to_owned(),
            source,
        };
        let Pipes {
            theirs,
            stdout,
            stderr,
            ready,
        } = Pipes::new().map_err(|error| fail("no pipe for it", error.into()))?;
        let pidfd = {
            let environment = owner.environment();
            let environment = environment.map_err(|error| fail("its environment", error.into()))?;
            let command = command.clone();
            // Not on the control thread: it waits until the program is loaded. The task closes its copies.
            let spawned =
                tokio::task::spawn_blocking(move || spawn(&command, &environment, &theirs));
            let spawned = spawned.await.unwrap_or_else(|_| Err(Errno::CANCELED));
            spawned.map_err(|error| fail("it cannot be started", error.into()))?
        };
        let child = Child::new(pidfd).map_err(|error| fail("it cannot be waited for", error))?;
        if let Err(error) = is_ready(ready, command.strict, patience.ready).await {
            child.signal(Signal::KILL);
            drop(child.ended().await);
            return Err(fail("it is not ready", error));
        }
        let (stage, watched) = watch::channel(Stage::Open);
        let (end, ended) = oneshot::channel();
        let name = format!("the logger {name} of {}", owner.id);
        tokio::spawn(async move {
            tend(child, &name, watched, patience).await;
            drop(end);
        });
        Ok((Self { stage, ended }, stdout, stderr))
    }

    /// The guest has ended, and so may the program.
    pub(super) fn close(&self) {
        self.stage.send_replace(Stage::Closed);
    }

    /// Waits until it has ended, and sees to it.
    pub(super) async fn end(self) {
        drop(self.stage);
        // An error is the sender dropped, which is what is waited for.
        let _ = self.ended.await;
    }
}

impl Pipes {
    fn new() -> Result<Self, Errno> {
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let ((read_stdout, stdout), (read_stderr, stderr), (ready, say_ready)) =
            (pipe()?, pipe()?, pipe()?);
        // Out of the way of the numbers that they get in the program.
        let beyond = |fd: OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, BEYOND);
        Ok(Self {
            theirs: [
                beyond(read_stdout)?,
                beyond(read_stderr)?,
                beyond(say_ready)?,
            ],
            stdout: non_blocking(stdout)?,
            stderr: non_blocking(stderr)?,
            ready: non_blocking(ready)?,
        })
    }
}

/// The shim's and the guest's ends are; the program's are descriptions of their own.
fn non_blocking(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

/// Starts the program with `fds` as its 3, 4 and 5, and nothing else of the shim's.
fn spawn(
    command: &LogCommand,
    environment: &[CString],
    fds: &[OwnedFd; 3],
) -> Result<OwnedFd, Errno> {
    let convert = |error: nix::Error| Errno::from_raw_os_error(error as i32);
    let spawned = || {
        let mut actions = PosixSpawnFileActions::init()?;
        for (number, fd) in (3..).zip(fds) {
            actions.add_dup2(fd.as_raw_fd(), number)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        // Rust programs ignore SIGPIPE, which is inherited.
        attributes.set_sigdefault(&SigSet::from_iter([Blocked::SIGPIPE]))?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
        )?;
        let args: Vec<&CString> = std::iter::once(&command.program)
            .chain(&command.args)
            .collect();
        posix_spawn(
            command.program.as_c_str(),
            &actions,
            &attributes,
            &args,
            environment,
        )
    };
    let pid = spawned().map_err(convert)?;
    // Its own child, and not waited for: the id is not another's yet.
    let pid = Pid::from_raw(pid.as_raw()).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::NONBLOCK)
}

/// Waits until the program says that it is ready.
async fn is_ready(ready: OwnedFd, strict: bool, patience: Duration) -> io::Result<()> {
    let mut ready = Receiver::from_owned_fd(ready)?;
    match timeout(patience, ready.read(&mut [0; 1])).await {
        Ok(Ok(0)) if strict => Err(io::Error::other(
            "it closed descriptor 5, or ended, without the byte that binary-v2 asks for",
        )),
        Ok(said) => said.map(drop),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it neither closed descriptor 5 nor wrote to it within {patience:?}"),
        )),
    }
}

/// Waits for the end of the program, and when nobody has it any more, brings it about.
async fn tend(child: Child, name: &str, mut stage: watch::Receiver<Stage>, patience: Patience) {
    loop {
        tokio::select! {
            status = child.ended() => {
                let early = *stage.borrow() == Stage::Open;
                match status {
                    Ok(status) if early => log::warn!(
                        "{name} has ended before it, with {status}; its output goes nowhere"
                    ),
                    Ok(0) => {}
                    Ok(status) => log::warn!("{name} has ended with {status}"),
                    Err(error) => log::error!("{name} cannot be waited for: {error}"),
                }
                return;
            }
            changed = stage.changed() => if changed.is_err() {
                break;
            }
        }
    }
    for (signal, patience) in [
        (Signal::TERM, patience.read),
        (Signal::KILL, patience.terminate),
    ] {
        if timeout(patience, child.ended()).await.is_ok() {
            return;
        }
        log::warn!("{name} still runs after {patience:?}, and is sent {signal:?}");
        child.signal(signal);
    }
    drop(child.ended().await);
}

impl Child {
    #[allow(unsafe_code, reason = "tokio offers no safe way to poll a pidfd")]
    fn new(pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `register_with_interest` wants the number of the descriptor to stay open and the same
        // until the registration is dropped. It owns the `OwnedFd`, whose `as_raw_fd` is constant, and
        // only shared references to that are given out (`get_ref`, in this type alone).
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        Ok(Self { pidfd: pidfd? })
    }

    fn signal(&self, signal: Signal) {
        // It may have ended meanwhile.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), signal);
    }

    /// Waits for its end and takes its status, as a shell tells it. May be dropped and called again
    /// until it has returned.
    async fn ended(&self) -> io::Result<i32> {
        let status = self.pidfd.async_io(Interest::READABLE, |pidfd| {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(error.into()),
            }
        });
        status.await.map(|status: WaitIdStatus| {
            let signal = || status.terminating_signal().unwrap_or_default() + 128;
            status.exit_status().unwrap_or_else(signal)
        })
    }
}

#[cfg(test)]
mod tests;
