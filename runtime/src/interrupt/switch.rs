//! What a guest was ordered, and where it is: what those who give orders and the guest's own thread tell each
//! other.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use futures_util::task::AtomicWaker;

use crate::fence::{Fence, Spot, wait, wake};
use crate::urgency::Urgency;

/// Orders, which a guest may have several of: it may not run until it is resumed.
pub(super) const PAUSE: u32 = 1;
/// It may not run any more.
pub(super) const KILL: u32 = 2;
/// It may not run until its quota allows it.
pub(super) const THROTTLE: u32 = 4;

/// Where a guest is: not inside of a poll.
pub(super) const OUT: u32 = 0;
/// Inside of a poll.
pub(super) const IN: u32 = 1;
/// Inside of a poll, kept from going on by the fence.
pub(super) const HELD: u32 = 2;
/// Inside of a poll, made to trap by the fence.
pub(super) const DIVERTED: u32 = 3;

/// What a guest was ordered, and where it is.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    pub(super) orders: AtomicU32,
    pub(super) place: AtomicU32,
    /// Whether quotas are to leave it alone.
    pub(super) exempt: AtomicBool,
    pub(super) waker: AtomicWaker,
    pub(super) urgency: Urgency,
    /// The thread of a service, for a request that it is serving. What is ordered there holds here.
    pub(super) above: Option<Arc<Self>>,
    /// Whether somebody sees to it that orders are obeyed: one thread does for all of them.
    pub(super) insisting: AtomicBool,
    /// The thread of its quota.
    pub(super) watcher: OnceLock<Thread>,
}

impl Switch {
    /// Whether the guest goes on against an order, or could yet: one that is held has not ended.
    pub(super) fn is_defying(&self) -> bool {
        let orders = self.orders.load(SeqCst);
        match self.place.load(SeqCst) {
            IN => orders != 0,
            HELD => orders & KILL != 0,
            _ => false,
        }
    }

    /// Whether its thread has nothing left to do but to end: it was killed, and runs no more of the guest.
    pub(super) fn is_done(&self) -> bool {
        self.urgency.is_dedicated()
            && self.orders.load(SeqCst) & KILL != 0
            && matches!(self.place.load(SeqCst), OUT | DIVERTED)
    }

    /// See [`Urgency::last`].
    pub(super) fn hurry(&self) {
        if self.is_done() {
            self.urgency.last();
        }
    }

    /// Whether there is an order to insist on, and nobody who does: then the caller has to.
    pub(super) fn takes_insisting(&self) -> bool {
        self.is_defying() && !self.insisting.swap(true, SeqCst)
    }

    /// The orders have changed.
    pub(super) fn notify(&self) {
        self.waker.wake();
        wake(&self.orders);
        if let Some(above) = &self.above {
            // Who is held there looks here, too.
            wake(&above.orders);
        }
    }

    /// What was ordered to the thread of a service.
    pub(super) fn orders_above(&self) -> u32 {
        let above = self.above.as_ref();
        above.map_or(0, |above| above.orders.load(SeqCst))
    }

    /// Nobody waits for the place but who gave an order, and looks at it after that.
    pub(super) fn be(&self, place: u32) {
        self.place.store(place, SeqCst);
        if self.orders.load(SeqCst) != 0 {
            wake(&self.place);
        }
    }

    /// What to do with a guest that faulted at `spot`, at the fence: go on there (`None`), or somewhere
    /// else. Returns when it may. Async-signal-safe.
    pub(crate) fn at_fence(&self, fence: &Fence, spot: Spot) -> Option<usize> {
        loop {
            let (own, above) = (self.orders.load(SeqCst), self.orders_above());
            let orders = own | above;
            if orders & KILL != 0 {
                let landing = fence.landing_from(spot);
                if landing.is_some() {
                    self.be(DIVERTED);
                    if let Some(thread) = &self.above
                        && above & KILL != 0
                    {
                        thread.be(DIVERTED);
                    }
                    return landing;
                }
            }
            if orders == 0 || orders & KILL != 0 {
                fence.wait_down();
                return None;
            }
            // A request is only ever ordered to end, so it is the thread's order that it is held for.
            let holder = self.above.as_deref().unwrap_or(self);
            let order = if self.above.is_some() { above } else { own };
            holder.be(HELD);
            holder.urgency.end();
            wait(&holder.orders, order, None);
            holder.be(IN);
        }
    }
}
