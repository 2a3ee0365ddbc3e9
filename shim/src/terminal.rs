//! A terminal: a pseudo-terminal whose slave is the guest's stdin, stdout and stderr, and whose master
//! is copied to and from what containerd has opened.
//!
//! The slave is a fresh terminal: echo, line editing, `\n` shown as `\r\n`, ^D for the end of input;
//! all that is the kernel's line discipline. Signals are not, see `keys`: the guest is no process, so
//! what is typed for it is [heard](Terminal::poll_typed) here, and ends it as the signal would. A client that
//! closes its end of stdin for good hangs up: HUP, as runc's shim has it.
//!
//! Who copies: one thread for each terminal, blocked in poll(2) while nothing moves. Not the guest's
//! thread, which may compute for ever. Not a task of the control runtime either: the kernel gives 4 KiB at
//! a time, so a guest that floods its terminal would come between containerd and its answers a quarter of
//! a million times for each GiB, and file output cannot be awaited at all. A thread costs some 20 KiB
//! while it is idle, and only containers with a terminal have one.
//!
//! The thread ends by itself when the guest has closed its slave and the rest is with the client, which
//! [`Terminal::drain`] waits for before the exit is told.

mod copier;
mod keys;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wasi_bundles::ConsoleSize;

use self::copier::Copier;
use crate::lifecycle::Signal;

/// Signals that wait for the driver. It acts on the first that ends the guest.
const TYPED: usize = 8;

/// In bytes. The loop has two chunks of 4 KiB on it; a log line fits, too.
const STACK: usize = 128 << 10;

/// A terminal in use. Dropping it stops the copying where it is.
#[derive(Debug)]
pub struct Terminal {
    console: Console,
    typed: mpsc::Receiver<Signal>,
    ended: oneshot::Receiver<()>,
    /// The thread sees it closed.
    stop: OwnedFd,
}

/// What anybody may do with a terminal.
#[derive(Debug, Clone)]
pub struct Console {
    master: Weak<OwnedFd>,
}

impl Terminal {
    /// Makes a terminal and its thread; `input` is typed into it, `output` gets what it shows. Returns
    /// the slave, too.
    ///
    /// # Errors
    ///
    /// When the kernel gives no terminal or no thread.
    pub fn open(
        size: ConsoleSize,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> io::Result<(Self, OwnedFd)> {
        // Not the shim's own terminal: it leads a session and has none.
        let flags = OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let pty = posix_openpt(OFlag::O_RDWR | flags)?;
        grantpt(&pty)?;
        unlockpt(&pty)?;
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits())
            .open(ptsname_r(&pty)?)?;
        let master = Arc::new(pty.as_fd().try_clone_to_owned()?);
        drop(pty);
        let console = Console {
            master: Arc::downgrade(&master),
        };
        console.resize(size)?;
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (heard, typed) = mpsc::channel(TYPED);
        let (end, ended) = oneshot::channel();
        let copier = Copier {
            master,
            input,
            output,
            stop: stopped,
            typed: heard,
            quoted: false,
        };
        std::thread::Builder::new()
            .name("terminal".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Its descriptors are closed when it returns, and only then the end is told.
                if let Err(error) = copier.run() {
                    log::error!("a terminal has failed, its output is lost: {error}");
                }
                drop(end);
            })?;
        let terminal = Self {
            console,
            typed,
            ended,
            stop,
        };
        Ok((terminal, slave.into()))
    }

    /// For those who resize it.
    #[must_use]
    pub fn console(&self) -> Console {
        self.console.clone()
    }

    /// The next signal that was typed, or that hanging up is; never ready when there is none to come.
    pub fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        match self.typed.poll_recv(cx) {
            Poll::Ready(Some(signal)) => Poll::Ready(signal),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Waits until the client has all that was written, `limit` at most, when the guest has ended.
    /// Whether it has all.
    pub async fn drain(mut self, limit: Duration) -> bool {
        // An error is the sender dropped, which is what is waited for.
        let drained = timeout(limit, &mut self.ended).await.is_ok();
        let Self { stop, ended, .. } = self;
        if !drained {
            drop(stop);
            let _ = ended.await;
        }
        drained
    }
}

impl Console {
    /// Sets the size, in characters. Without effect on a terminal that has ended.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn resize(&self, size: ConsoleSize) -> io::Result<()> {
        let Some(master) = self.master.upgrade() else {
            return Ok(());
        };
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(rustix::termios::tcsetwinsize(&*master, size)?)
    }
}

#[cfg(test)]
mod tests;
