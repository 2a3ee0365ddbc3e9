//! How long requests may take: a thread that ends those that take longer.
//!
//! A guest that computes does not come back to be told the time, so it is told from outside. The thread sleeps
//! until the oldest request that it knew of would be late, looks who is left, and sleeps again; when nobody is,
//! it sleeps until somebody comes. So under load it wakes once in the time that a request may take, and without
//! load never.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Error, Interrupter};

/// Ends requests that take too long.
pub(super) struct Patience {
    time: Duration,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    /// By their numbers, which is by their age.
    requests: BTreeMap<u64, Request>,
    last: u64,
    /// Whether the thread has a moment to wake at.
    awake: bool,
    over: bool,
}

struct Request {
    until: Instant,
    interrupter: Interrupter,
    late: Arc<AtomicBool>,
}

impl Shared {
    /// A panic elsewhere leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Patience {
    pub(super) fn new(time: Duration) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("wasi-requests".to_owned());
        let thread = thread.spawn(move || watch(&watched));
        let thread = thread.map_err(|source| Error::Thread {
            what: "ends requests that take too long",
            source,
        })?;
        Ok(Self {
            time,
            shared,
            thread: Some(thread),
        })
    }

    /// A request begins, which `interrupter` ends if what is returned lives too long.
    pub(super) fn begin(&self, interrupter: &Interrupter) -> Waiting<'_> {
        let late = Arc::new(AtomicBool::new(false));
        let request = Request {
            until: Instant::now() + self.time,
            interrupter: interrupter.clone(),
            late: Arc::clone(&late),
        };
        let mut state = self.shared.state();
        state.last += 1;
        let number = state.last;
        state.requests.insert(number, request);
        let wake = !std::mem::replace(&mut state.awake, true);
        drop(state);
        if wake {
            self.wake();
        }
        Waiting {
            patience: self,
            number,
            late,
        }
    }

    pub(super) fn time(&self) -> Duration {
        self.time
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // At once. It must be gone before the guest's thread, whose namespaces it is in.
            drop(thread.join());
        }
    }
}

/// A request that is waited for.
pub(super) struct Waiting<'a> {
    patience: &'a Patience,
    number: u64,
    late: Arc<AtomicBool>,
}

impl Waiting<'_> {
    /// Nobody waits any more. Whether it came in time: then nobody ends it, now or later.
    pub(super) fn over(self) -> bool {
        let mut state = self.patience.shared.state();
        state.requests.remove(&self.number).is_some()
    }

    /// How long it could have taken, if it was ended for having taken longer.
    pub(super) fn exceeded(&self) -> Option<Duration> {
        self.late.load(SeqCst).then(|| self.patience.time())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.patience.shared.state().requests.remove(&self.number);
    }
}

fn watch(shared: &Shared) {
    loop {
        let mut state = shared.state();
        if state.over {
            return;
        }
        let Some(oldest) = state.requests.first_entry() else {
            state.awake = false;
            drop(state);
            std::thread::park();
            continue;
        };
        let left = oldest.get().until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            drop(state);
            std::thread::park_timeout(left);
            continue;
        }
        let request = oldest.remove();
        // It takes until the guest has been forced out of its poll.
        drop(state);
        request.late.store(true, SeqCst);
        request.interrupter.kill();
    }
}
