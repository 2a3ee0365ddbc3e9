//! A guest's future, which obeys the orders of its switch.

use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};

use super::switch::{DIVERTED, IN, KILL, OUT, Switch};

/// A guest, which is polled while it may run.
pub(super) struct Guarded<'a, F> {
    guest: Pin<Box<F>>,
    switch: &'a Switch,
    ended: bool,
}

/// A guest that waits in the host unwinds as it is dropped: its code runs once more, to where it was entered.
/// An order other than a kill would hold it there, with whoever drops it.
impl<F> Drop for Guarded<'_, F> {
    fn drop(&mut self) {
        if !self.ended {
            self.switch.orders.fetch_or(KILL, SeqCst);
        }
    }
}

impl<'a, F> Guarded<'a, F> {
    pub(super) fn new(guest: F, switch: &'a Switch) -> Self {
        Self {
            guest: Box::pin(guest),
            switch,
            ended: false,
        }
    }
}

impl<F: Future> Future for Guarded<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.switch.waker.register(cx.waker());
        let polled = Polled::begin(self.switch);
        let orders = self.switch.orders.load(SeqCst);
        if orders & KILL != 0 {
            return Poll::Ready(None);
        }
        if orders != 0 {
            return Poll::Pending;
        }
        let above = self.switch.orders_above();
        if above != 0 {
            // The thread is in one of its polls, and stops with it. Unless it ends, this goes on then.
            if above & KILL == 0 {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let done = self.guest.as_mut().poll(cx).map(Some);
        self.ended = done.is_ready();
        if polled.0.place.load(SeqCst) == DIVERTED {
            // What it comes to is the trap that it was sent to.
            return Poll::Ready(None);
        }
        done
    }
}

/// While it lives a poll goes on, be it left by a panic.
struct Polled<'a>(&'a Switch);

impl<'a> Polled<'a> {
    fn begin(switch: &'a Switch) -> Self {
        switch.urgency.here();
        switch.be(IN);
        Self(switch)
    }
}

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        self.0.be(OUT);
        if !self.0.is_done() {
            self.0.urgency.end();
        }
    }
}
