//! Holds guests to a CPU quota: asks the [`Account`] who may run until when, and sees to it.
//!
//! A guest that computes does not come back to be asked, so a thread watches: it sleeps until the moment at
//! which the quota could be used up at the earliest, reads the clocks, and stops the guests if it is, until
//! the period that brings them more. While no guest is being polled there is nothing that could use anything
//! up, and the thread sleeps until one is. So a quota costs nothing while its guests are blocked, or paused, and a
//! budget without a quota has no such thread.
//!
//! ```text
//!  watching ──quota used up──► waiting ──period over──► watching
//!     │ ▲                                                 │ ▲
//!     │ └── a guest is polled ── parked ◄── nobody is ────┘ │
//!     └── nobody is polled ───────▲ └──────────────────────-┘
//! ```

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{Thread, available_parallelism};
use std::time::{Duration, Instant};

use crate::Interrupter;
use crate::meter::Meter;
use crate::quota::{Account, CpuQuota, Throttling, Verdict};

/// The thread does not look more often. What guests use up meanwhile is a debt that they pay.
const SHORTEST: Duration = Duration::from_micros(500);

/// The quota of a budget, and whom it binds.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Moments of the account are since this one.
    begun: Instant,
    state: Mutex<State>,
    /// Whether the thread sleeps until a guest is polled.
    parked: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    account: Option<Account>,
    /// What the meter showed when the account was charged last.
    charged: Duration,
    guests: Vec<Interrupter>,
    stopped: bool,
    watcher: Option<Thread>,
}

/// How long the thread sleeps, if it is not woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nap {
    Until(Duration),
    Woken,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            state: Mutex::default(),
            parked: AtomicBool::new(false),
        }
    }
}

impl Throttle {
    /// Sets, changes or lifts the quota. `watch` starts the thread, once, if there is to be one.
    pub(crate) fn set(
        &self,
        quota: Option<CpuQuota>,
        meter: &Meter,
        watch: impl FnOnce() -> std::io::Result<Thread>,
    ) -> std::io::Result<()> {
        let mut state = self.state();
        match (&mut state.account, quota) {
            (Some(account), Some(quota)) => account.change(quota),
            (None, Some(quota)) => {
                if state.watcher.is_none() {
                    let watcher = watch()?;
                    for guest in &state.guests {
                        guest.watched_by(&watcher);
                    }
                    state.watcher = Some(watcher);
                }
                state.charged = meter.total();
                state.account = Some(Account::new(quota, self.begun.elapsed()));
            }
            (_, None) => state.account = None,
        }
        if let Some(watcher) = &state.watcher {
            watcher.unpark();
        }
        Ok(())
    }

    pub(crate) fn quota(&self) -> Option<CpuQuota> {
        self.state().account.as_ref().map(Account::quota)
    }

    pub(crate) fn throttling(&self) -> Throttling {
        let state = self.state();
        let account = state.account.as_ref();
        account.map(Account::throttling).unwrap_or_default()
    }

    /// Binds a guest, from before its first poll until [`Self::leave`].
    pub(crate) fn join(&self, guest: &Interrupter) {
        let mut state = self.state();
        if let Some(watcher) = &state.watcher {
            guest.watched_by(watcher);
        }
        if state.stopped {
            guest.throttle(true);
        }
        state.guests.push(guest.clone());
    }

    /// Releases a guest for good, which may be stopped at this very moment.
    pub(crate) fn leave(&self, guest: &Interrupter) {
        guest.exempt();
        self.state().guests.retain(|other| !other.is(guest));
    }

    /// Accounts for what was used, stops or releases the guests, and says when to look again.
    pub(crate) fn look(&self, meter: &Meter) -> Nap {
        let mut state = self.state();
        let (now, total) = (self.begun.elapsed(), meter.total());
        let used = total.saturating_sub(state.charged);
        state.charged = total;
        let verdict = state
            .account
            .as_mut()
            .map(|account| account.charge(now, used));
        let stop = matches!(verdict, Some(Verdict::Wait { .. }));
        let guests = (state.stopped != stop).then(|| state.guests.clone());
        state.stopped = stop;
        // Not under the lock: it takes until a guest has been forced out of its poll. Only this thread
        // stops and releases, so no guest is left behind; one that joins meanwhile has read `stopped`.
        drop(state);
        for guest in guests.iter().flatten() {
            guest.throttle(stop);
        }
        match verdict {
            None => Nap::Woken,
            Some(Verdict::Wait { until }) => Nap::Until(until.saturating_sub(self.begun.elapsed())),
            Some(Verdict::Run { left }) => {
                let nap = self.nap(left);
                if nap == Nap::Woken
                    && let Some(account) = &mut self.state().account
                {
                    account.rest();
                }
                nap
            }
        }
    }

    /// Until the guests that are polled could have used what is `left`, or until one is polled.
    fn nap(&self, left: Duration) -> Nap {
        let mut running = self.running();
        if running == 0 {
            // A guest that begins after this finds it set, and wakes the thread; one that has begun before
            // is found here. One that is resumed wakes the thread in any case.
            self.parked.store(true, SeqCst);
            running = self.running();
            if running == 0 {
                return Nap::Woken;
            }
            self.parked.store(false, SeqCst);
        }
        let processors = available_parallelism().map_or(1, usize::from);
        let at_once = u32::try_from(running.min(processors)).unwrap_or(u32::MAX);
        Nap::Until((left / at_once).max(SHORTEST))
    }

    /// How many guests may use something.
    fn running(&self) -> usize {
        let state = self.state();
        let running = state.guests.iter().filter(|guest| guest.may_compute());
        running.count()
    }

    /// A guest of those that are bound is inside of a poll.
    fn begin_poll(&self) {
        if self.parked.load(SeqCst) && self.parked.swap(false, SeqCst) {
            self.wake();
        }
    }

    /// Makes the thread look.
    pub(crate) fn wake(&self) {
        if let Some(watcher) = &self.state().watcher {
            watcher.unpark();
        }
    }

    /// A panic elsewhere leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's future, of which the throttle knows when it is polled.
pub(crate) struct Watched<'a, F> {
    guest: Pin<Box<F>>,
    throttle: &'a Throttle,
}

impl<'a, F: Future> Watched<'a, F> {
    pub(crate) fn new(guest: F, throttle: &'a Throttle) -> Self {
        Self {
            guest: Box::pin(guest),
            throttle,
        }
    }
}

impl<F: Future> Future for Watched<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.throttle.begin_poll();
        self.guest.as_mut().poll(cx)
    }
}
