//! What may happen to a container, and when. A pure function of the phase and the request: no lock, no
//! clock, no I/O.
//!
//! ```text
//!  Create           Start           Pause         guest ends         output is taken
//! ───────► Created ───────► Running ◄─────► Paused ─────────► Ending ───────────────► Stopped ──Delete──► (gone)
//!             │                │            Resume              ▲                        ▲
//!             │                └────────────────────────────────┘                        │
//!             └── kill ──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! |                     | Created            | Running         | Paused          | Ending           | Stopped            |
//! |---------------------|--------------------|-----------------|-----------------|------------------|--------------------|
//! | Start               | do                 | already started | already started | already started  | cannot start again |
//! | Kill, ending signal | do: exit 128 + n   | do              | do              | already finished | already finished   |
//! | Kill, STOP          | nothing            | as Pause        | nothing         | already finished | already finished   |
//! | Kill, CONT          | nothing            | nothing         | as Resume       | already finished | already finished   |
//! | Kill, any other     | nothing            | nothing         | nothing         | already finished | already finished   |
//! | Pause               | not running        | do              | nothing         | not running      | not running        |
//! | Resume              | not running        | nothing         | do              | not running      | not running        |
//! | Delete              | do: exit 137 first | still running   | still running   | still running    | do                 |
//!
//! An ending signal stops a command; to a service the first one, unless it is KILL, says that it is to finish
//! ([`Manner`]), which it does in `Running`, and when it is resumed.
//!
//! The init and each exec have a phase of their own, to which this table applies. A container that is
//! paused has its execs paused with it; its end is theirs, and theirs come first. So the phase of the init
//! decides, too, whether an exec can be added or started ([`may_exec`]).

use std::fmt;
use std::time::SystemTime;

use wasi_runtime::Outcome;

/// Where a container is, without what it owns there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhaseKind {
    /// Its thread is parked in its namespaces, with the guest linked.
    Created,
    /// The guest runs.
    Running,
    /// The guest is stopped where it was.
    Paused,
    /// The guest has ended, and its last output is on its way to the client. It has no exit yet.
    Ending,
    /// It has an exit.
    Stopped,
}

/// What is asked of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Release the guest.
    Start,
    /// Deliver a signal.
    Kill(Signal),
    /// Stop the guest where it is.
    Pause,
    /// Let it go on.
    Resume,
    /// Forget it.
    Delete,
}

/// A Linux signal number. A guest has no signals, so the host acts in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub u32);

/// How a guest ends that is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It stops at once: a command, a service that was told before, and what does not run yet.
    Stops,
    /// It finishes what it does: a service.
    Finishes,
}

/// What a signal does to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It ends.
    End,
    /// It finishes what it does, and ends.
    Drain,
    /// It stops where it is.
    Pause,
    /// It goes on.
    Resume,
    /// Nothing.
    Nothing,
}

/// What to do about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out.
    Do,
    /// Success without effect.
    Ignore,
    /// Say why not.
    Refuse(Refusal),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Start of a running container.
    AlreadyStarted,
    /// Start of a stopped container.
    NotStartable,
    /// Delete of a running container.
    StillRunning,
    /// Kill of a stopped container.
    AlreadyFinished,
    /// Pause or resume of a container without a running guest.
    NotRunning,
    /// An exec in a paused container.
    Paused,
    /// An exec in a stopped container.
    NoHome,
    /// Kill with a number that is no signal's.
    NoSuchSignal(u32),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchSignal(n) => {
                return write!(f, "was sent {n}, which is no signal; there are 1 to 64");
            }
            Self::AlreadyStarted => "is running already",
            Self::NotStartable => "has ended and cannot be started again; create a new one",
            Self::StillRunning => "is running; stop it before deleting it",
            // containerd's clients look for these words (client `task.go`, CRI `errdefs`).
            Self::AlreadyFinished => "has ended: process already finished",
            Self::NotRunning => "is not running",
            Self::Paused => "is paused; nothing can be executed in it until it is resumed",
            Self::NoHome => "has ended; nothing can be executed in it",
        })
    }
}

impl Signal {
    pub(crate) const HUP: Self = Self(1);
    pub(crate) const INT: Self = Self(2);
    pub(crate) const QUIT: Self = Self(3);
    pub(crate) const KILL: Self = Self(9);
    /// The largest number of a signal: `SIGRTMAX` of Linux.
    const MAX: u32 = 64;

    /// What it comes to: STOP and CONT pause and resume; HUP, INT, QUIT, KILL and TERM end the guest,
    /// which has no handler for any; all others do nothing. A guest that finishes by itself is asked to, by
    /// the first one, unless it is KILL.
    #[must_use]
    pub fn effect(self, manner: Manner) -> Effect {
        match (self.0, manner) {
            (1 | 2 | 3 | 15, Manner::Finishes) => Effect::Drain,
            (1 | 2 | 3 | 15, Manner::Stops) | (9, Manner::Finishes | Manner::Stops) => Effect::End,
            (18, _) => Effect::Resume,
            (19, _) => Effect::Pause,
            (_, _) => Effect::Nothing,
        }
    }

    /// Whether kill(2) takes it. 0 asks only whether there is anything to signal.
    #[must_use]
    pub fn exists(self) -> bool {
        self.0 <= Self::MAX
    }

    /// The exit status of a process that it ended.
    #[must_use]
    pub fn exit_status(self) -> u32 {
        self.0.saturating_add(128)
    }
}

/// Decides. Every pair of phase and request is written out.
#[must_use]
pub fn decide(phase: PhaseKind, request: Request) -> Verdict {
    use {PhaseKind as P, Request as R};
    match (phase, request) {
        (P::Created, R::Start) => Verdict::Do,
        (P::Running | P::Paused | P::Ending, R::Start) => Verdict::Refuse(Refusal::AlreadyStarted),
        (P::Stopped, R::Start) => Verdict::Refuse(Refusal::NotStartable),
        (P::Ending | P::Stopped, R::Kill(_)) => Verdict::Refuse(Refusal::AlreadyFinished),
        (P::Created | P::Running | P::Paused, R::Kill(signal)) if !signal.exists() => {
            Verdict::Refuse(Refusal::NoSuchSignal(signal.0))
        }
        (P::Created | P::Running | P::Paused, R::Kill(signal)) => {
            match (phase, signal.effect(Manner::Stops)) {
                // To finish is a way to end.
                (_, Effect::End | Effect::Drain)
                | (P::Running, Effect::Pause)
                | (P::Paused, Effect::Resume) => Verdict::Do,
                (_, Effect::Pause | Effect::Resume | Effect::Nothing) => Verdict::Ignore,
            }
        }
        (P::Created | P::Ending | P::Stopped, R::Pause | R::Resume) => {
            Verdict::Refuse(Refusal::NotRunning)
        }
        (P::Running, R::Pause) | (P::Paused, R::Resume) => Verdict::Do,
        (P::Running, R::Resume) | (P::Paused, R::Pause) => Verdict::Ignore,
        (P::Created | P::Stopped, R::Delete) => Verdict::Do,
        (P::Running | P::Paused | P::Ending, R::Delete) => Verdict::Refuse(Refusal::StillRunning),
    }
}

/// Whether an exec can be added to a container, or started in it, whose init is in `phase`. As for runc,
/// a created container will do.
///
/// # Errors
///
/// Why not.
pub fn may_exec(phase: PhaseKind) -> Result<(), Refusal> {
    match phase {
        PhaseKind::Created | PhaseKind::Running => Ok(()),
        PhaseKind::Paused => Err(Refusal::Paused),
        PhaseKind::Ending | PhaseKind::Stopped => Err(Refusal::NoHome),
    }
}

/// How a process ended, as containerd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255 for a guest that ends by itself.
    pub status: u32,
    /// When.
    pub at: SystemTime,
    /// Whether it ended at its memory limit.
    pub oom: bool,
}

impl Exit {
    /// Now, by `signal`, of a container whose guest never ran, or of which nobody knows.
    #[must_use]
    pub fn unborn(signal: Signal) -> Self {
        Self {
            status: signal.exit_status(),
            at: SystemTime::now(),
            oom: false,
        }
    }

    /// Now, of a process that a bug of the shim has lost.
    #[must_use]
    pub fn lost() -> Self {
        Self {
            status: UNKNOWN,
            at: SystemTime::now(),
            oom: false,
        }
    }
}

/// A trap exits like a process that called `abort`: 128 + SIGABRT, as the wasmtime command does.
const TRAPPED: u32 = 134;
/// A stack that overflowed: 128 + SIGSEGV, which is what the kernel ends a process with.
const STACK_OVERFLOW: u32 = 139;
/// Too many of something, for which Linux has no such end: as for a trap.
const TOO_MANY: u32 = TRAPPED;
/// As coreutils' `timeout` exits.
const DEADLINE: u32 = 124;
/// containerd's word for an exit that nobody saw.
const UNKNOWN: u32 = 255;

/// The exit status of a guest: 0 to 255, as a process's. `signal` is the first one that was meant to end it; `None` in place of
/// an outcome means that the guest's thread was lost to a panic.
#[must_use]
pub fn exit_status(outcome: Option<&Outcome>, signal: Option<Signal>) -> u32 {
    match outcome {
        Some(Outcome::Exited(code)) => code & 0xff,
        Some(Outcome::Trapped { .. }) => TRAPPED,
        Some(Outcome::OutOfMemory { .. } | Outcome::NoMemoryLeft { .. }) => {
            Signal::KILL.exit_status()
        }
        Some(Outcome::StackOverflow { .. }) => STACK_OVERFLOW,
        Some(Outcome::TooMany { .. }) => TOO_MANY,
        Some(Outcome::DeadlineExceeded { .. }) => DEADLINE,
        Some(Outcome::Killed) => signal.unwrap_or(Signal::KILL).exit_status(),
        None => UNKNOWN,
    }
}

#[cfg(test)]
mod tests;
