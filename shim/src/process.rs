//! A process of a container: its init, or an exec.
//!
//! The container's driver has it as a `Process`: the phase, with what exists in that phase and nowhere
//! else. What may happen when, the driver has decided before. Everybody else has a [`View`] of it.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use wasi_runtime::Outcome;

use crate::Error;
use crate::confine::{Ended, Parked, Running};
use crate::lifecycle::{Exit, PhaseKind, Signal, exit_status};
use crate::stdio::{Holds, StdioPaths};

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
    phase: Phase,
    snapshot: watch::Sender<Snapshot>,
}

enum Phase {
    Created(Parked),
    Running(Guest),
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
    /// The first signal that was meant to end it.
    ended_by: Option<Signal>,
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
            snapshot: seen,
        };
        let process = Self {
            id: id.to_owned(),
            pid: thread.pid(),
            holds,
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
            }),
            phase @ (Phase::Running(_) | Phase::Stopped | Phase::Changing) => phase,
        };
        self.show(None);
    }

    /// Running: ends the guest. Its end comes by [`Self::poll_ended`].
    pub(crate) fn kill(&mut self, signal: Signal) {
        if let Phase::Running(guest) = &mut self.phase {
            guest.ended_by.get_or_insert(signal);
            guest.thread.interrupter().kill();
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
            if guest.stopped || guest.frozen {
                guest.thread.interrupter().pause();
            } else {
                guest.thread.interrupter().resume();
            }
            self.show(None);
        }
    }

    /// Whether a guest that runs has ended; never ready in any other phase.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        match &mut self.phase {
            Phase::Running(guest) => guest.thread.poll_ended(cx),
            Phase::Created(_) | Phase::Stopped | Phase::Changing => Poll::Pending,
        }
    }

    /// After [`Self::poll_ended`]: waits until the thread is gone. The exit is to be [shown](Self::bury).
    pub(crate) async fn finish(&mut self, end: Option<Ended>) -> Option<Exit> {
        let Phase::Running(guest) = std::mem::replace(&mut self.phase, Phase::Changing) else {
            return None;
        };
        guest.thread.join().await;
        self.holds = Holds::default();
        let (outcome, cpu) = end.map_or((None, Duration::ZERO), |end| (Some(end.outcome), end.cpu));
        match &outcome {
            None => log::error!("{} was lost to a panic", self.id),
            Some(outcome) => {
                if let Some(limit) = outcome.limit() {
                    log::warn!("{}: {limit}", self.id);
                }
            }
        }
        Some(Exit {
            status: exit_status(outcome.as_ref(), guest.ended_by),
            at: SystemTime::now(),
            cpu,
            oom: matches!(outcome, Some(Outcome::OutOfMemory { .. })),
        })
    }

    /// Ends it, whatever it does, and waits for that. `None` if it had ended already.
    pub(crate) async fn end(&mut self, signal: Signal) -> Option<Exit> {
        match std::mem::replace(&mut self.phase, Phase::Changing) {
            Phase::Created(thread) => {
                thread.discard().await;
                self.holds = Holds::default();
                Some(Exit::unborn(signal))
            }
            running @ Phase::Running(_) => {
                self.phase = running;
                self.kill(signal);
                let end = std::future::poll_fn(|cx| self.poll_ended(cx)).await;
                self.finish(end).await
            }
            phase @ (Phase::Stopped | Phase::Changing) => {
                self.phase = phase;
                None
            }
        }
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
