//! Ending a guest from outside, whatever it does.
//!
//! A guest is a future that somebody polls. To kill it is to poll it no more and drop it, which frees
//! its stack and everything it held. A guest blocked in a host call is not being polled: waking the
//! task is enough. A busy one is inside `poll`: raising the engine's epoch makes its next loop
//! iteration or call yield back to the poll loop. Every other guest of the process then yields once,
//! too, and goes on.
//!
//! No wake-up can be lost: `kill` stores the flag, then raises the epoch, then wakes. A poll that read
//! the flag before the store set its deadline before the epoch was raised, so it is interrupted; one
//! that starts later reads the flag.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::engine::WasmtimeEngine;

/// Kills the guest it was taken from. Clones kill the same guest.
#[derive(Clone, Debug)]
pub struct Interrupter {
    switch: Arc<Switch>,
    engine: WasmtimeEngine,
}

#[derive(Debug, Default)]
struct Switch {
    killed: AtomicBool,
    waker: AtomicWaker,
}

impl Interrupter {
    pub(crate) fn new(engine: WasmtimeEngine) -> Self {
        Self {
            switch: Arc::default(),
            engine,
        }
    }

    /// Ends the guest at its next instruction that can be interrupted; returns at once.
    ///
    /// Before the guest runs it will end without having run; after its end nothing happens.
    pub fn kill(&self) {
        self.switch.killed.store(true, SeqCst);
        self.engine.0.increment_epoch();
        self.switch.waker.wake();
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

struct Guarded<'a, F> {
    guest: Pin<Box<F>>,
    switch: &'a Switch,
}

impl<F: Future> Future for Guarded<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.switch.waker.register(cx.waker());
        if self.switch.killed.load(SeqCst) {
            return Poll::Ready(None);
        }
        self.guest.as_mut().poll(cx).map(Some)
    }
}
