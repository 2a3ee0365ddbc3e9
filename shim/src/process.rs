//! A process of a container: its init, or an exec.
//!
//! The container's driver has it as a `Process`: the phase, with what exists in that phase and nowhere
//! else. What may happen when, the driver has decided before. Everybody else has a [`View`] of it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Sleep;
use wasi_runtime::Outcome;

use crate::Error;
use crate::confine::{Parked, Running};
use crate::lifecycle::{Exit, Manner, PhaseKind, Signal, exit_status};
use crate::stdio::{Holds, StdioPaths};
use crate::terminal::Console;

/// Where a process is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The phase.
    pub phase: PhaseKind,
    /// Set when stopped.
    pub exit: Option<Exit>,
}

/// A process of a container, to those who do not drive it.
#[derive(Debug)]
pub struct View {
    /// containerd's id: the container's for its init, otherwise the exec's.
    pub id: String,
    /// The id of its thread.
    pub pid: u32,
    /// The streams, as containerd named them.
    pub stdio: StdioPaths,
    /// The terminal that they are, if they are one.
    pub terminal: Option<Console>,
    snapshot: watch::Receiver<Snapshot>,
}

impl View {
    /// What was true last. Never waits.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Waits until the process has ended, or answers at once if it has.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is deleted meanwhile without having ended, which only a bug can do.
    pub async fn exited(&self) -> Result<Exit, Error> {
        let mut snapshot = self.snapshot.clone();
        let ended = snapshot.wait_for(|now| now.exit.is_some()).await;
        let exit = ended.ok().and_then(|now| now.exit);
        exit.ok_or_else(|| Error::NotFound {
            id: self.id.clone(),
        })
    }
}

/// A thread in a container, from when it is parked to when its exit is forgotten.
pub(crate) struct Process {
    /// containerd's id: the container's for its init.
    pub(crate) id: String,
    /// The id of its thread.
    pub(crate) pid: u32,
    /// The shim's ends of its streams.
    pub(crate) holds: Holds,
    /// How long it may take to finish.
    grace: Duration,
    phase: Phase,
    snapshot: watch::Sender<Snapshot>,
}

enum Phase {
    Created(Parked),
    Running(Guest),
    /// The guest has ended. Somebody sees to it that its thread goes and the client gets the last output.
    Ending {
        exit: Exit,
        rest: JoinHandle<Holds>,
    },
    Stopped,
    /// Between two phases, within one method.
    Changing,
}

/// A guest that was released.
struct Guest {
    thread: Running,
    /// It was told to stop where it is.
    stopped: bool,
    /// It was stopped with the container that it is an exec of.
    frozen: bool,
    /// The first signal that was meant to end it; before that, the one that asked it to finish.
    ended_by: Option<Signal>,
    /// When it is ended, having been asked to finish.
    grace: Option<Pin<Box<Sleep>>>,
}

/// What a process does by itself.
pub(crate) enum Happening {
    /// A signal was typed at its terminal.
    Typed(Signal),
    /// Its guest has ended.
    Ended,
    /// It has its exit, which is to be [shown](Process::bury).
    Exited(Exit),
}

impl Process {
    /// A process whose thread is parked, and how others see it.
    pub(crate) fn new(id: &str, stdio: StdioPaths, thread: Parked, holds: Holds) -> (Self, View) {
        let (snapshot, seen) = watch::channel(Snapshot {
            phase: PhaseKind::Created,
            exit: None,
        });
        let view = View {
            id: id.to_owned(),
            pid: thread.pid(),
            stdio,
            terminal: holds.console(),
            snapshot: seen,
        };
        let process = Self {
            id: id.to_owned(),
            pid: thread.pid(),
            holds,
            grace: thread
                .place()
                .map_or_else(Duration::default, |place| place.plan.options().http.grace),
            phase: Phase::Created(thread),
            snapshot,
        };
        (process, view)
    }

    /// Where it is by itself, whether or not it was stopped with its container.
    pub(crate) fn kind(&self) -> PhaseKind {
        match self.phase {
            Phase::Created(_) => PhaseKind::Created,
            Phase::Running(Guest { stopped: false, .. }) => PhaseKind::Running,
            Phase::Running(Guest { stopped: true, .. }) => PhaseKind::Paused,
            Phase::Ending { .. } => PhaseKind::Ending,
            Phase::Stopped | Phase::Changing => PhaseKind::Stopped,
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Created: lets the guest run.
    pub(crate) fn release(&mut self) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Changing) {
            Phase::Created(thread) => Phase::Running(Guest {
                thread: thread.release(),
                stopped: false,
                frozen: false,
                ended_by: None,
                grace: None,
            }),
            phase @ (Phase::Running(_)
            | Phase::Ending { .. }
            | Phase::Stopped
            | Phase::Changing) => phase,
        };
        self.show(None);
    }

    /// How its guest ends that is told to now.
    pub(crate) fn manner(&self) -> Manner {
        match &self.phase {
            Phase::Running(Guest {
                ended_by: None,
                thread,
                ..
            }) if thread.drains() => Manner::Finishes,
            Phase::Created(_)
            | Phase::Running(_)
            | Phase::Ending { .. }
            | Phase::Stopped
            | Phase::Changing => Manner::Stops,
        }
    }

    /// Running: asks a service to finish, and ends it when it takes too long.
    pub(crate) fn drain(&mut self, signal: Signal) {
        if let Phase::Running(guest) = &mut self.phase {
            guest.ended_by.get_or_insert(signal);
            guest.grace = Some(Box::pin(tokio::time::sleep(self.grace)));
            guest.thread.drain();
        }
    }

    /// Running: ends the guest. Its end comes by [`Self::poll`].
    pub(crate) fn kill(&mut self, signal: Signal) {
        if let Phase::Running(guest) = &mut self.phase {
            // To be asked to finish is not the end yet: the signal counts that does not ask.
            if guest.grace.take().is_some() {
                guest.ended_by = Some(signal);
            }
            guest.ended_by.get_or_insert(signal);
            guest.thread.kill();
        }
    }

    /// Running: stops the guest where it is, or takes that back.
    pub(crate) fn stop(&mut self, stopped: bool) {
        self.change(|guest| guest.stopped = stopped);
    }

    /// Running: stops the guest with its container, or takes that back.
    pub(crate) fn freeze(&mut self, frozen: bool) {
        self.change(|guest| guest.frozen = frozen);
    }

    fn change(&mut self, change: impl FnOnce(&mut Guest)) {
        if let Phase::Running(guest) = &mut self.phase {
            change(guest);
            guest.thread.stop(guest.stopped || guest.frozen);
            self.show(None);
        }
    }

    /// Created: ends it without letting the guest run. `None` in any other phase.
    pub(crate) async fn discard(&mut self, signal: Signal) -> Option<Exit> {
        match std::mem::replace(&mut self.phase, Phase::Changing) {
            Phase::Created(thread) => {
                thread.discard().await;
                self.holds.close();
                Some(Exit::unborn(signal))
            }
            phase @ (Phase::Running(_)
            | Phase::Ending { .. }
            | Phase::Stopped
            | Phase::Changing) => {
                self.phase = phase;
                None
            }
        }
    }

    /// Ends it in whatever phase it is, after a bug; `None` if it has its exit. The exit is to be
    /// [shown](Self::bury).
    pub(crate) fn lose(&mut self) -> Option<Exit> {
        if self.snapshot().exit.is_some() {
            return None;
        }
        self.kill(Signal::KILL);
        self.holds.close();
        // Its thread ends by itself, released or not.
        self.phase = Phase::Changing;
        Some(Exit::lost())
    }

    /// What it does by itself; not ready while it does nothing.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        match &mut self.phase {
            Phase::Running(guest) => match guest.thread.poll_ended(cx) {
                Poll::Ready(outcome) => {
                    self.finish(outcome);
                    Poll::Ready(Happening::Ended)
                }
                Poll::Pending => {
                    let grace = guest.grace.as_mut();
                    if grace.is_some_and(|grace| grace.as_mut().poll(cx).is_ready()) {
                        guest.grace = None;
                        guest.thread.kill();
                    }
                    // Not before Start, for which what was typed waits.
                    self.holds.poll_typed(cx).map(Happening::Typed)
                }
            },
            Phase::Ending { exit, rest } => {
                let exit = *exit;
                Pin::new(rest).poll(cx).map(|holds| {
                    // An error is a panic, or the runtime shutting down.
                    self.holds = holds.unwrap_or_default();
                    self.phase = Phase::Changing;
                    Happening::Exited(exit)
                })
            }
            Phase::Created(_) | Phase::Stopped | Phase::Changing => Poll::Pending,
        }
    }

    /// Running, and the guest has ended: `None` when its thread panicked.
    fn finish(&mut self, outcome: Option<Outcome>) {
        let Phase::Running(guest) = std::mem::replace(&mut self.phase, Phase::Changing) else {
            return;
        };
        match &outcome {
            None => log::error!("{} was lost to a panic", self.id),
            Some(outcome) => {
                if let Some(limit) = outcome.limit() {
                    log::warn!("{}: {limit}", self.id);
                }
            }
        }
        let exit = Exit {
            status: exit_status(outcome.as_ref(), guest.ended_by),
            at: SystemTime::now(),
            oom: matches!(
                outcome,
                Some(Outcome::OutOfMemory { .. } | Outcome::NoMemoryLeft { .. })
            ),
        };
        let mut holds = std::mem::take(&mut self.holds);
        let rest = tokio::spawn(async move {
            guest.thread.join().await;
            holds.finish().await;
            holds
        });
        self.phase = Phase::Ending { exit, rest };
        self.show(None);
    }

    /// The end of its story: shows the exit to who waits for it.
    pub(crate) fn bury(&mut self, exit: Exit) {
        self.phase = Phase::Stopped;
        self.show(Some(exit));
    }

    /// Shows the phase to those who do not drive.
    fn show(&self, exit: Option<Exit>) {
        let frozen = matches!(self.phase, Phase::Running(Guest { frozen: true, .. }));
        let phase = if frozen {
            PhaseKind::Paused
        } else {
            self.kind()
        };
        self.snapshot.send_replace(Snapshot { phase, exit });
    }
}
