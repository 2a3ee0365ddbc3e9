//! Spans that wait to be told: not more than there is room for, and whoever adds one never waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::messages::Span;

/// The spans of a service.
#[derive(Debug)]
pub(super) struct Queue {
    spans: Mutex<VecDeque<Span>>,
    most: usize,
    batch: usize,
    wake: Notify,
    lost: AtomicU64,
}

impl Queue {
    pub(super) fn new(most: usize, batch: usize) -> Self {
        Self {
            spans: Mutex::default(),
            most: most.max(1),
            batch: batch.clamp(1, most.max(1)),
            wake: Notify::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// A span is whole or not there, so a panic elsewhere leaves nothing torn.
    fn spans(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, if there is room. Wakes who tells them when there is one, and when there is a batch, not for each.
    pub(super) fn push(&self, span: Span) {
        let mut spans = self.spans();
        if spans.len() >= self.most {
            drop(spans);
            self.lose(1);
            return;
        }
        spans.push_back(span);
        let count = spans.len();
        drop(spans);
        if count == 1 || count == self.batch {
            self.wake.notify_one();
        }
    }

    /// Whether there is one, and whether there is a batch.
    pub(super) fn fill(&self) -> (bool, bool) {
        let count = self.spans().len();
        (count > 0, count >= self.batch)
    }

    /// Waits until [`Self::fill`] may have changed.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// The oldest, at most a batch.
    pub(super) fn take(&self) -> Vec<Span> {
        let mut spans = self.spans();
        let count = spans.len().min(self.batch);
        spans.drain(..count).collect()
    }

    /// So many will never be told.
    pub(super) fn lose(&self, count: usize) {
        self.lost.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_lost_and_counted() {
        let queue = Queue::new(3, 2);
        for _ in 0..5 {
            queue.push(Span::default());
        }
        assert_eq!(queue.lost(), 2);
        assert_eq!(queue.take().len(), 2);
        assert_eq!(queue.take().len(), 1);
        assert_eq!(queue.take().len(), 0);
        assert_eq!(queue.fill(), (false, false));
    }

    #[test]
    fn its_reader_is_woken_for_the_first_and_for_a_batch() {
        let queue = Queue::new(10, 3);
        let woken = || queue.changed().now_or_never().is_some();
        assert!(!woken());
        let mut seen = Vec::new();
        for _ in 0..5 {
            queue.push(Span::default());
            seen.push(woken());
        }
        assert_eq!(seen, [true, false, true, false, false]);
        assert_eq!(queue.fill(), (true, true));
    }
}
