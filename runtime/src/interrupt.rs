//! Stopping a guest from outside, whatever it does.
//!
//! A guest is a future that somebody polls. To pause it is to poll it no more; to kill it is to drop it,
//! too, which frees its stack and everything it held. A guest that is blocked in a host call is not
//! being polled: waking its task is enough. A busy one is inside `poll`: raising the engine's epoch makes
//! its next loop iteration or call yield back to the poll loop. Every other guest of the process then
//! yields once, too, and goes on.
//!
//! ```text
//!            pause            kill
//!  Running ◄───────► Paused ───────► Killed (for good)
//!     └──────────────────────────────────▲
//! ```
//!
//! A CPU quota is another reason not to be polled, beside those: a guest that is throttled stays so while
//! it is paused and resumed, and a kill ends it.
//!
//! No order can be lost. It stores the state, raises the epoch and wakes. A poll that begins after the
//! store reads the state; so only a poll that has begun before is left. One raise is not enough to end
//! that: a guest that yielded to a neighbour's order takes its next deadline from the epoch of the moment
//! it goes on, which is after its poll read the state, and a raise between the two is behind the new
//! deadline. So the epoch is raised until the poll is over: that takes a guest on a processor the blink of
//! an eye, and for one that has none a thread goes on with it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::engine::WasmtimeEngine;

/// How often an order raises the epoch itself before it leaves that to a thread.
const RAISES: usize = 100;
/// How long that thread waits between raises.
const INTERVAL: Duration = Duration::from_millis(1);

/// The guest may run.
const RUNNING: u32 = 0;
/// The guest may not run until it is resumed or killed.
const PAUSED: u32 = 1;
/// The guest may not run any more.
const KILLED: u32 = 2;

/// No quota stops the guest.
const FREE: u32 = 0;
/// A quota stops it.
const THROTTLED: u32 = 1;
/// No quota stops it any more.
const EXEMPT: u32 = 2;

/// Stops the guest it was taken from. Clones stop the same guest.
#[derive(Clone, Debug)]
pub struct Interrupter {
    switch: Arc<Switch>,
    engine: WasmtimeEngine,
}

#[derive(Debug, Default)]
struct Switch {
    /// One of the states above.
    state: AtomicU32,
    /// FREE, THROTTLED or EXEMPT.
    quota: AtomicU32,
    /// Whether the guest is inside of a poll that read `state` afterwards.
    polled: AtomicBool,
    waker: AtomicWaker,
}

impl Interrupter {
    pub(crate) fn new(engine: WasmtimeEngine) -> Self {
        Self {
            switch: Arc::default(),
            engine,
        }
    }

    /// Ends the guest at its next instruction that can be interrupted; returns at once, the outcome
    /// follows.
    ///
    /// Before the guest runs it will end without having run; after its end nothing happens.
    pub fn kill(&self) {
        self.switch.state.store(KILLED, SeqCst);
        self.enforce();
    }

    /// Stops the guest at its next instruction that can be interrupted; returns at once. Nothing happens
    /// to one that is paused or killed.
    ///
    /// What the host does for it goes on: a sleep runs out, a socket receives.
    pub fn pause(&self) {
        if self.change(RUNNING, PAUSED) {
            self.enforce();
        }
    }

    /// Lets a paused guest go on. Nothing happens to one that is not paused.
    pub fn resume(&self) {
        if self.change(PAUSED, RUNNING) {
            self.switch.waker.wake();
        }
    }

    /// Stops the guest as [`Self::pause`] does, or lets it go on, on behalf of its CPU quota.
    pub(crate) fn throttle(&self, stop: bool) {
        let (from, to) = if stop {
            (FREE, THROTTLED)
        } else {
            (THROTTLED, FREE)
        };
        let quota = &self.switch.quota;
        if quota.compare_exchange(from, to, SeqCst, SeqCst).is_ok() {
            if stop {
                self.enforce();
            } else {
                self.switch.waker.wake();
            }
        }
    }

    /// No quota stops what is left to do for the guest, from now on.
    pub(crate) fn exempt(&self) {
        self.switch.quota.store(EXEMPT, SeqCst);
        self.switch.waker.wake();
    }

    /// Whether it is an interrupter of the same guest.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.switch, &other.switch)
    }

    fn change(&self, from: u32, to: u32) -> bool {
        let change = self.switch.state.compare_exchange(from, to, SeqCst, SeqCst);
        change.is_ok()
    }

    fn enforce(&self) {
        self.switch.waker.wake();
        for _ in 0..RAISES {
            if !self.raise() {
                return;
            }
            std::thread::yield_now();
        }
        let persistent = self.clone();
        let thread = std::thread::Builder::new().name("wasi-interrupt".to_owned());
        let started = thread.spawn(move || persistent.raise_until_over());
        if started.is_err() {
            // Late is better than never.
            self.raise_until_over();
        }
    }

    /// Raises the epoch if the guest is being polled against an order; whether it was.
    fn raise(&self) -> bool {
        let defied = self.switch.polled.load(SeqCst) && self.switch.forbids();
        if defied {
            self.engine.0.increment_epoch();
        }
        defied
    }

    fn raise_until_over(&self) {
        while self.raise() {
            std::thread::park_timeout(INTERVAL);
        }
    }

    /// Polls `guest` until it is done, or until it is killed: then `None`, and `guest` is dropped.
    pub(crate) async fn guard<F: Future>(&self, guest: F) -> Option<F::Output> {
        Guarded {
            guest: Box::pin(guest),
            switch: &self.switch,
        }
        .await
    }
}

impl Switch {
    /// Whether an order says that the guest is not to be polled.
    fn forbids(&self) -> bool {
        self.state.load(SeqCst) != RUNNING || self.quota.load(SeqCst) == THROTTLED
    }
}

struct Guarded<'a, F> {
    guest: Pin<Box<F>>,
    switch: &'a Switch,
}

impl<F: Future> Future for Guarded<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.switch.waker.register(cx.waker());
        let _polled = Polled::begin(&self.switch.polled);
        match self.switch.state.load(SeqCst) {
            KILLED => Poll::Ready(None),
            PAUSED => Poll::Pending,
            _ if self.switch.forbids() => Poll::Pending,
            _ => self.guest.as_mut().poll(cx).map(Some),
        }
    }
}

/// While it lives a poll goes on, be it left by a panic.
struct Polled<'a>(&'a AtomicBool);

impl<'a> Polled<'a> {
    fn begin(polled: &'a AtomicBool) -> Self {
        polled.store(true, SeqCst);
        Self(polled)
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}
