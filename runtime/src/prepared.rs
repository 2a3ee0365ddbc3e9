//! A guest that is ready to run, and its run.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::timeout;
use wasmtime::Store;

use crate::call::Call;
use crate::deadline::{Clock, Deadline};
use crate::host::Host;
use crate::pool::Reserved;
use crate::serve::{Handler, Team};
use crate::{Budget, Error, Guest, Interrupter, Limits, Outcome, Output, Service, Usage, Worker};

/// How long the end of a guest waits for a reader of its output; the limit of containerd's own shim
/// (`cmd/containerd-shim-runc-v2/process/init.go`).
const TAKE: Duration = Duration::from_secs(10);
/// The same for a guest that was killed or had its time, which has to be gone at once.
const TAKE_AFTER_KILL: Duration = Duration::from_millis(20);

/// A program linked to what it is given. Dropping it frees everything; nothing has run.
pub struct Prepared {
    program: Program,
    interrupter: Interrupter,
    budget: Budget,
    limits: Limits,
    deadline: Option<Deadline>,
    stdout: Output,
    stderr: Output,
}

/// Memory that takes the kernel some milliseconds to take back, in bytes.
const MUCH: u64 = 64 << 20;

/// What there is to do.
enum Program {
    /// To call it once.
    Called(Box<Store<Host>>, Call),
    /// To answer requests.
    Serving(Box<Team>),
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared")
    }
}

impl Prepared {
    pub(crate) fn new(
        store: Store<Host>,
        call: Call,
        interrupter: Interrupter,
        guest: Guest,
    ) -> Result<Self, Error> {
        let program = Program::Called(Box::new(store), call);
        Self::with(program, interrupter, &guest)
    }

    pub(crate) fn service(
        (service, room): (Service, Option<Arc<Reserved>>),
        handler: Handler,
        host: Host,
        interrupter: Interrupter,
        guest: Guest,
    ) -> Result<Self, Error> {
        let template = host.into_template(guest);
        let (team, interrupter) = Team::new((service, room), handler, template, interrupter)?;
        let server = team.server();
        Self::with(
            Program::Serving(Box::new(team)),
            interrupter,
            server.guest(),
        )
    }

    fn with(program: Program, interrupter: Interrupter, guest: &Guest) -> Result<Self, Error> {
        let deadline = guest.limits.deadline;
        let deadline = deadline.map(|after| Deadline::new(after, interrupter.clone()));
        Ok(Self {
            program,
            interrupter,
            budget: guest.budget.clone(),
            limits: guest.limits,
            deadline: deadline.transpose()?,
            stdout: guest.stdout.clone(),
            stderr: guest.stderr.clone(),
        })
    }

    /// What other threads than the one that runs it are to do for a service that has more than one
    /// ([`Service::workers`]); nothing for all others. Each is to be run by a thread of its own, born where
    /// the guest is to be confined, which [`Self::run`] waits for.
    #[must_use]
    pub fn workers(&mut self) -> Vec<Worker> {
        match &mut self.program {
            Program::Called(..) => Vec::new(),
            Program::Serving(team) => team.helpers(),
        }
    }

    /// Ends this guest from any thread, now or while it runs.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// The thread that runs it ends when it has ended. So that this is soon after a kill, however many others
    /// compute, it is a real-time thread (`SCHED_FIFO`) from then on, where the process may have those, unless it is
    /// a service or has much memory to give back. What it does after [`Self::run`] has to be short.
    pub fn ends_its_thread(&self) {
        // The requests of a service hold whatever they may.
        if matches!(self.program, Program::Called(..)) {
            self.interrupter.urgency().dedicate();
        }
    }

    /// What the guests of its budget use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.budget.usage()
    }

    /// Starts its time, if it has a deadline, sooner than [`Self::run`] does, which may have to wait for a processor.
    #[must_use]
    pub fn clock(&self) -> Option<Clock> {
        self.deadline.as_ref().and_then(Deadline::clock)
    }

    /// Runs the guest to its end, on the thread that polls, within a tokio runtime. That has to be one
    /// thread from the first poll to the last: its processor time is what the budget pays.
    ///
    /// When it is done its output has been taken by the other side, the trace of a trap included, and
    /// all it held is freed. A reader that takes nothing is waited for 10 s, and after a kill 20 ms;
    /// what it has not taken then is lost.
    pub async fn run(self) -> Outcome {
        let Self {
            program,
            interrupter,
            budget,
            limits,
            deadline,
            stdout,
            stderr,
        } = self;
        if let Some(clock) = deadline.as_ref().and_then(Deadline::clock) {
            clock.start();
        }
        // Its files and sockets are closed before anybody hears of its end.
        let ended = match program {
            Program::Called(mut store, call) => {
                let ended = budget.run(call.run(&mut store), &interrupter).await;
                if budget.usage().memory() > MUCH {
                    interrupter.urgency().end();
                }
                ended
            }
            Program::Serving(team) => team.run(&interrupter).await.map(|()| Ok(0)),
        };
        let outcome = match (ended, &deadline) {
            (Some(result), _) => Outcome::of(result, &limits, interrupter.means().mapped()),
            (None, Some(deadline)) if deadline.has_passed() => Outcome::DeadlineExceeded {
                after: deadline.after,
            },
            (None, _) => Outcome::Killed,
        };
        // What it may take from now on is bounded by the reader.
        drop(deadline);
        let last_words = outcome.last_words();
        // Both at once: who does not read one of them may read the other.
        let finish = join(stdout.finish(b""), stderr.finish(last_words.as_bytes()));
        // Whether all was taken or not, there is nobody to tell.
        let stopped = matches!(outcome, Outcome::Killed | Outcome::DeadlineExceeded { .. });
        let _taken = if stopped {
            timeout(TAKE_AFTER_KILL, finish).await.ok()
        } else {
            let finished = interrupter.guard(timeout(TAKE, finish)).await;
            finished.and_then(Result::ok)
        };
        interrupter.urgency().gone();
        outcome
    }
}
