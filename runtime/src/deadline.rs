//! The end of a guest's time.
//!
//! A guest that computes does not come back to be told the time, so a thread sleeps until then and ends it;
//! the thread goes with the guest, whichever ends first. Only a guest with a deadline has one, and it does
//! not wake before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::urgency::Urgency;
use crate::{Error, Interrupter};

/// Ends a guest when its time is over. Dropped, it ends nobody any more.
#[derive(Debug)]
pub(crate) struct Deadline {
    pub(crate) after: Duration,
    passed: Arc<AtomicBool>,
    start: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Deadline {
    /// A deadline for a guest that has not started.
    pub(crate) fn new(after: Duration, interrupter: Interrupter) -> Result<Self, Error> {
        let (start, started) = channel::<()>();
        let passed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&passed);
        let thread = std::thread::Builder::new().name("wasi-deadline".to_owned());
        let thread = thread.spawn(move || {
            Urgency::of_orders();
            // An error is the guest having ended, or never begun.
            if started.recv().is_ok()
                && started.recv_timeout(after) == Err(RecvTimeoutError::Timeout)
            {
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
            start: Some(start),
            thread: Some(thread),
        })
    }

    /// The guest starts.
    pub(crate) fn start(&self) {
        if let Some(start) = &self.start {
            // A thread that is gone was lost to a panic, which its hook has told.
            let _ = start.send(());
        }
    }

    /// Whether it has ended the guest.
    pub(crate) fn has_passed(&self) -> bool {
        self.passed.load(SeqCst)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.start = None;
        if let Some(thread) = self.thread.take() {
            // At once: it is in no poll. It must be gone before the guest's thread, whose namespaces it is in.
            drop(thread.join());
        }
    }
}
