//! The end of a guest's time.
//!
//! A guest that computes does not come back to be told the time, so a thread sleeps until then and ends it;
//! the thread goes with the guest, whichever ends first. Only a guest with a deadline has one, and it does
//! not wake before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::urgency::Urgency;
use crate::{Error, Interrupter};

/// Ends a guest when its time is over. Dropped, it ends nobody any more.
#[derive(Debug)]
pub(crate) struct Deadline {
    pub(crate) after: Duration,
    passed: Arc<AtomicBool>,
    clock: Option<Clock>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the time of a guest that has a deadline: whoever lets it go can do that at once, while its thread may
/// wait for a turn first. Clones start the same time, which starts once.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Sender<Instant>,
    started: Arc<AtomicBool>,
}

impl Clock {
    /// The guest starts. Nothing happens to one that did before, or has ended.
    pub fn start(self) {
        if !self.started.swap(true, SeqCst) {
            // A thread that is gone has nobody to end, or was lost to a panic, which its hook has told.
            let _ = self.start.send(Instant::now());
        }
    }
}

impl Deadline {
    /// A deadline for a guest that has not started.
    pub(crate) fn new(after: Duration, interrupter: Interrupter) -> Result<Self, Error> {
        let (start, started) = channel::<Instant>();
        let passed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&passed);
        let thread = std::thread::Builder::new().name("wasi-deadline".to_owned());
        let thread = thread.spawn(move || {
            Urgency::of_orders();
            // An error is the guest having ended, or never begun.
            let Ok(begin) = started.recv() else { return };
            // This thread may have had its first turn only now.
            let left = after.saturating_sub(begin.elapsed());
            if started.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                told.store(true, SeqCst);
                interrupter.kill();
            }
        });
        let thread = thread.map_err(|source| Error::Thread {
            what: "keeps a deadline",
            source,
        })?;
        Ok(Self {
            after,
            passed,
            clock: Some(Clock {
                start,
                started: Arc::default(),
            }),
            thread: Some(thread),
        })
    }

    /// What starts it. Not to be kept: the deadline's end waits for the last one.
    pub(crate) fn clock(&self) -> Option<Clock> {
        self.clock.clone()
    }

    /// Whether it has ended the guest.
    pub(crate) fn has_passed(&self) -> bool {
        self.passed.load(SeqCst)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clock = None;
        if let Some(thread) = self.thread.take() {
            // At once: it is in no poll. It must be gone before the guest's thread, whose namespaces it is in.
            drop(thread.join());
        }
    }
}
