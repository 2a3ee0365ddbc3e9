//! The loop of a terminal's thread: what was typed to the master, what the master shows to the client.
//!
//! All descriptors are non-blocking, and one chunk waits in each direction at most: a side that takes
//! nothing stops its source, which is how a slow reader slows its guest. The loop ends when the last
//! slave is closed and all that was written to it has been handed on, or when it is told to stop.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;

use super::keys::Keys;
use crate::lifecycle::Signal;

/// In bytes: the most that the kernel's line discipline gives at once.
const CHUNK: usize = 4096;

/// The descriptors that a terminal's thread works on.
#[derive(Debug)]
pub(super) struct Copier {
    pub(super) master: Arc<OwnedFd>,
    /// Where typing comes from.
    pub(super) input: Option<OwnedFd>,
    /// Where output goes; discarded without one.
    pub(super) output: Option<OwnedFd>,
    /// Stops the loop when its other end is closed.
    pub(super) stop: OwnedFd,
    /// Who wants to know of signals.
    pub(super) typed: mpsc::Sender<Signal>,
    /// Whether the last byte typed quotes the next.
    pub(super) quoted: bool,
}

/// Bytes on their way.
struct Chunk {
    bytes: [u8; CHUNK],
    start: usize,
    end: usize,
}

impl Chunk {
    const EMPTY: Self = Self {
        bytes: [0; CHUNK],
        start: 0,
        end: 0,
    };

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Reads into an empty chunk what is there: `None` when nothing is, 0 at the end.
    fn fill(&mut self, from: &OwnedFd) -> Result<Option<usize>, Errno> {
        self.clear();
        match rustix::io::read(from, &mut self.bytes) {
            Ok(count) => {
                self.end = count;
                Ok(Some(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what the other side takes now.
    fn give(&mut self, to: &OwnedFd) -> Result<(), Errno> {
        while !self.is_empty() {
            match rustix::io::write(to, self.waiting()) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Copier {
    /// Copies to the end.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to wait, or to read the master: a bug.
    pub(super) fn run(mut self) -> io::Result<()> {
        let (mut typed, mut shown) = (Chunk::EMPTY, Chunk::EMPTY);
        let mut heard = Vec::new();
        while self.wait(&typed, &shown)? {
            heard.extend(self.take_typed(&mut typed));
            if typed.give(&self.master).is_err() {
                // Nobody reads it any more.
                typed.clear();
            }
            if typed.is_empty() {
                // Now, so that the kernel echoes the key while there is a guest.
                for signal in heard.drain(..) {
                    // A driver that has as many as fit before it does not need another.
                    let _ = self.typed.try_send(signal);
                }
            }
            if shown.is_empty() {
                match shown.fill(&self.master) {
                    // The slave's other side is closed, and empty.
                    Ok(Some(0)) | Err(Errno::IO) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            self.show(&mut shown);
        }
        Ok(())
    }

    /// Waits until there is something to do; whether to go on.
    fn wait(&self, typed: &Chunk, shown: &Chunk) -> io::Result<bool> {
        let mut master = PollFlags::empty();
        master.set(PollFlags::OUT, !typed.is_empty());
        master.set(PollFlags::IN, shown.is_empty());
        let mut polled = Vec::with_capacity(4);
        polled.push(PollFd::new(&self.stop, PollFlags::empty()));
        // What is not wanted is left out: poll(2) reports hang-ups unasked, again and again.
        if !master.is_empty() {
            polled.push(PollFd::new(&*self.master, master));
        }
        if let Some(input) = self.input.as_ref().filter(|_| typed.is_empty()) {
            polled.push(PollFd::new(input, PollFlags::IN));
        }
        if let Some(output) = self.output.as_ref().filter(|_| !shown.is_empty()) {
            polled.push(PollFd::new(output, PollFlags::OUT));
        }
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => Ok(polled[0].revents().is_empty()),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what was typed, if the last of it is on its way, and returns the signals in it.
    fn take_typed(&mut self, typed: &mut Chunk) -> Vec<Signal> {
        let Some(input) = self.input.as_ref().filter(|_| typed.is_empty()) else {
            return Vec::new();
        };
        match typed.fill(input) {
            Ok(None) => Vec::new(),
            Ok(Some(1..)) => rustix::termios::tcgetattr(&*self.master)
                .map(|settings| Keys::from(&settings).signals(typed.waiting(), &mut self.quoted))
                .unwrap_or_default(),
            // The client has hung up.
            Ok(Some(0)) | Err(_) => {
                self.input = None;
                vec![Signal::HUP]
            }
        }
    }

    fn show(&mut self, shown: &mut Chunk) {
        let given = match &self.output {
            Some(output) => shown.give(output),
            None => Err(Errno::PIPE),
        };
        if let Err(error) = given {
            shown.clear();
            if self.output.take().is_some() {
                log::warn!("a terminal's output is lost from now on: {error}");
            }
        }
    }
}
