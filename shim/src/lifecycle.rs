//! What may happen to a container, and when. A pure function of the phase and the request: no lock, no
//! clock, no I/O.
//!
//! ```text
//!  Create           Start           Pause            guest ends
//! ───────► Created ───────► Running ◄─────► Paused ──────────────► Stopped ──Delete──► (gone)
//!             │   kill         │            Resume                    ▲
//!             └────────────────┴──────────────────────────────────────┘
//! ```
//!
//! |                     | Created            | Running         | Paused          | Stopped            |
//! |---------------------|--------------------|-----------------|-----------------|--------------------|
//! | Start               | do                 | already started | already started | cannot start again |
//! | Kill, ending signal | do: exit 128 + n   | do              | do              | already finished   |
//! | Kill, STOP          | nothing            | as Pause        | nothing         | already finished   |
//! | Kill, CONT          | nothing            | nothing         | as Resume       | already finished   |
//! | Kill, any other     | nothing            | nothing         | nothing         | already finished   |
//! | Pause               | not running        | do              | nothing         | not running        |
//! | Resume              | not running        | nothing         | do              | not running        |
//! | Delete              | do: exit 137 first | still running   | still running   | do                 |
//!
//! The init and each exec have a phase of their own, to which this table applies. A container that is
//! paused has its execs paused with it; its end is theirs, and theirs come first. So the phase of the init
//! decides, too, whether an exec can be added or started ([`may_exec`]).

use std::fmt;
use std::time::{Duration, SystemTime};

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

/// What a signal does to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It ends.
    End,
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
    pub(crate) const KILL: Self = Self(9);
    /// The largest number of a signal: `SIGRTMAX` of Linux.
    const MAX: u32 = 64;

    /// What it comes to: STOP and CONT pause and resume; HUP, INT, QUIT, KILL and TERM end the guest,
    /// which has no handler for any; all others do nothing.
    #[must_use]
    pub fn effect(self) -> Effect {
        match self.0 {
            1 | 2 | 3 | 9 | 15 => Effect::End,
            18 => Effect::Resume,
            19 => Effect::Pause,
            _ => Effect::Nothing,
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
        (P::Running | P::Paused, R::Start) => Verdict::Refuse(Refusal::AlreadyStarted),
        (P::Stopped, R::Start) => Verdict::Refuse(Refusal::NotStartable),
        (P::Stopped, R::Kill(_)) => Verdict::Refuse(Refusal::AlreadyFinished),
        (P::Created | P::Running | P::Paused, R::Kill(signal)) if !signal.exists() => {
            Verdict::Refuse(Refusal::NoSuchSignal(signal.0))
        }
        (P::Created | P::Running | P::Paused, R::Kill(signal)) => match (phase, signal.effect()) {
            (_, Effect::End) | (P::Running, Effect::Pause) | (P::Paused, Effect::Resume) => {
                Verdict::Do
            }
            (_, Effect::Pause | Effect::Resume | Effect::Nothing) => Verdict::Ignore,
        },
        (P::Created | P::Stopped, R::Pause | R::Resume) => Verdict::Refuse(Refusal::NotRunning),
        (P::Running, R::Pause) | (P::Paused, R::Resume) => Verdict::Do,
        (P::Running, R::Resume) | (P::Paused, R::Pause) => Verdict::Ignore,
        (P::Created | P::Stopped, R::Delete) => Verdict::Do,
        (P::Running | P::Paused, R::Delete) => Verdict::Refuse(Refusal::StillRunning),
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
        PhaseKind::Stopped => Err(Refusal::NoHome),
    }
}

/// How a process ended, as containerd is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255 for a guest that ends by itself.
    pub status: u32,
    /// When.
    pub at: SystemTime,
    /// The processor time it had used.
    pub cpu: Duration,
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
            cpu: Duration::ZERO,
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
        Some(Outcome::OutOfMemory { .. }) => Signal::KILL.exit_status(),
        Some(Outcome::StackOverflow { .. }) => STACK_OVERFLOW,
        Some(Outcome::TooMany { .. }) => TOO_MANY,
        Some(Outcome::DeadlineExceeded { .. }) => DEADLINE,
        Some(Outcome::Killed) => signal.unwrap_or(Signal::KILL).exit_status(),
        None => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERM: Signal = Signal(15);
    const USR1: Signal = Signal(10);

    #[test]
    fn a_container_is_started_once() {
        assert_eq!(decide(PhaseKind::Created, Request::Start), Verdict::Do);
        for phase in [PhaseKind::Running, PhaseKind::Paused, PhaseKind::Stopped] {
            assert!(matches!(decide(phase, Request::Start), Verdict::Refuse(_)));
        }
    }

    #[test]
    fn signals_that_end_nothing_are_accepted_while_there_is_something_to_signal() {
        for signal in [USR1, Signal(0), Signal(18), Signal(28)] {
            assert_eq!(
                decide(PhaseKind::Running, Request::Kill(signal)),
                Verdict::Ignore
            );
            assert_eq!(
                decide(PhaseKind::Stopped, Request::Kill(signal)),
                Verdict::Refuse(Refusal::AlreadyFinished)
            );
        }
    }

    #[test]
    fn stop_and_cont_pause_and_resume() {
        let (stop, cont) = (Request::Kill(Signal(19)), Request::Kill(Signal(18)));
        assert_eq!(decide(PhaseKind::Running, stop), Verdict::Do);
        assert_eq!(decide(PhaseKind::Paused, stop), Verdict::Ignore);
        assert_eq!(decide(PhaseKind::Paused, cont), Verdict::Do);
        assert_eq!(decide(PhaseKind::Running, cont), Verdict::Ignore);
        assert_eq!(
            decide(PhaseKind::Paused, Request::Kill(Signal::KILL)),
            Verdict::Do
        );
    }

    #[test]
    fn every_signal_has_its_answer_in_every_phase() {
        use PhaseKind::{Created, Paused, Running, Stopped};
        use Refusal::{AlreadyFinished, NoSuchSignal};
        for number in 0..=u32::from(u8::MAX) {
            let signal = Signal(number);
            let verdicts = [Created, Running, Paused, Stopped]
                .map(|phase| decide(phase, Request::Kill(signal)));
            let finished = Verdict::Refuse(AlreadyFinished);
            let (created, running, paused) = match number {
                1 | 2 | 3 | 9 | 15 => (Verdict::Do, Verdict::Do, Verdict::Do),
                18 => (Verdict::Ignore, Verdict::Ignore, Verdict::Do),
                19 => (Verdict::Ignore, Verdict::Do, Verdict::Ignore),
                0..=64 => (Verdict::Ignore, Verdict::Ignore, Verdict::Ignore),
                65.. => [Verdict::Refuse(NoSuchSignal(number)); 3].into(),
            };
            assert_eq!(verdicts, [created, running, paused, finished], "{number}");
        }
    }

    #[test]
    fn an_exec_needs_a_container_that_lives_and_is_not_paused() {
        assert_eq!(may_exec(PhaseKind::Created), Ok(()));
        assert_eq!(may_exec(PhaseKind::Running), Ok(()));
        assert_eq!(may_exec(PhaseKind::Paused), Err(Refusal::Paused));
        assert_eq!(may_exec(PhaseKind::Stopped), Err(Refusal::NoHome));
    }

    #[test]
    fn exits_have_the_numbers_of_the_design() {
        assert_eq!(exit_status(Some(&Outcome::Exited(7)), Some(TERM)), 7);
        assert_eq!(exit_status(Some(&Outcome::Exited(1000)), None), 232);
        assert_eq!(
            exit_status(
                Some(&Outcome::Trapped {
                    trace: String::new()
                }),
                None
            ),
            134
        );
        assert_eq!(
            exit_status(Some(&Outcome::OutOfMemory { limit: 1 }), None),
            137
        );
        let overflow = Outcome::StackOverflow {
            trace: String::new(),
        };
        assert_eq!(exit_status(Some(&overflow), None), 139);
        let many = Outcome::TooMany {
            what: wasi_runtime::Countable::Handles,
            limit: 1,
        };
        assert_eq!(exit_status(Some(&many), None), 134);
        let late = Outcome::DeadlineExceeded {
            after: Duration::from_secs(1),
        };
        assert_eq!(exit_status(Some(&late), Some(TERM)), 124);
        assert_eq!(exit_status(Some(&Outcome::Killed), Some(TERM)), 143);
        assert_eq!(exit_status(None, None), 255);
    }

    proptest! {
        /// A toy container that does as it is told: whatever is asked in whatever order, it runs at
        /// most once, ends at most once, and is never deleted while it runs.
        #[test]
        fn any_history_starts_and_ends_once(requests in prop::collection::vec(0_u32..60, 0..50)) {
            let (mut phase, mut starts, mut exits) = (PhaseKind::Created, 0, 0);
            for number in requests {
                let request = match number {
                    0..5 => Request::Start,
                    5..10 => Request::Delete,
                    10..15 => Request::Pause,
                    15..20 => Request::Resume,
                    signal => Request::Kill(Signal(signal - 20)),
                };
                if decide(phase, request) != Verdict::Do {
                    continue;
                }
                let effect = match request {
                    Request::Kill(signal) => signal.effect(),
                    Request::Pause => Effect::Pause,
                    Request::Resume => Effect::Resume,
                    Request::Start => {
                        starts += 1;
                        phase = PhaseKind::Running;
                        Effect::Nothing
                    }
                    Request::Delete => {
                        prop_assert!(phase != PhaseKind::Running && phase != PhaseKind::Paused);
                        break;
                    }
                };
                match effect {
                    Effect::End => {
                        exits += 1;
                        phase = PhaseKind::Stopped;
                    }
                    Effect::Pause => phase = PhaseKind::Paused,
                    Effect::Resume => phase = PhaseKind::Running,
                    Effect::Nothing => {}
                }
                prop_assert!(starts <= 1 && exits <= 1);
            }
        }
    }
}
