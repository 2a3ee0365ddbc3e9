//! Getting a thread to where it can be stopped: beside many that compute, a thread may wait a tenth of a
//! second for a processor, and a guest notices an order only when it runs. So the thread of a guest that has
//! an order to obey comes before all ordinary ones (`SCHED_FIFO`, sched(7)) until it has obeyed, but only
//! while the fence is up: urgent, it can leave the host or fault, and not compute. Whoever lacks the
//! privilege (`CAP_SYS_NICE`) stops guests later.
//!
//! The threads that give orders themselves, in the name of a quota or a deadline, weigh ten times as much as
//! others (nice(2)) for as long as they live: they do little and sleep, and a quota is kept as exactly as they
//! are punctual. They are no real-time threads, as a process that has one can join few cgroups of version 1.
//!
//! A guest that is killed has a thread with some things to do yet, none of them the guest's. That one weighs as
//! much from then on, and where it ends with its guest ([`Urgency::last`]) it is urgent to its end: as an ordinary
//! one it would be behind by the time that the guest had before its turn, which among fifty that compute is a
//! tenth of a second. What it does is short, but for giving back much memory: that is done as an ordinary one.
//!
//! What an urgent thread starts is ordinary: `SCHED_RESET_ON_FORK`. It is never taken back, as that needs the
//! privilege, which a guest's thread may have given up since.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use rustix::process::setpriority_process;

/// The priority of a thread that gives orders, or whose guest was killed, as nice(2) counts.
const HASTE: i32 = -10;

/// The thread that polls a guest, and whether it may have been made urgent.
#[derive(Debug, Default)]
pub(crate) struct Urgency {
    thread: AtomicI32,
    /// Never unset: once there was an order the thread ends its urgency itself, too, when it has obeyed, so
    /// that what it does then is done as an ordinary one.
    ever: AtomicBool,
    /// Whether the thread ends with its guest.
    dedicated: AtomicBool,
}

impl Urgency {
    /// The calling thread polls the guest; it is the same one each time.
    pub(crate) fn here(&self) {
        if self.thread.load(SeqCst) == 0 {
            let thread = rustix::thread::gettid().as_raw_nonzero().get();
            self.thread.store(thread, SeqCst);
        }
    }

    /// The thread ends with its guest, and does nothing else.
    pub(crate) fn dedicate(&self) {
        self.dedicated.store(true, SeqCst);
    }

    pub(crate) fn is_dedicated(&self) -> bool {
        self.dedicated.load(SeqCst)
    }

    /// The thread polls the guest no more; it is somebody else's, or ends.
    pub(crate) fn gone(&self) {
        self.thread.store(0, SeqCst);
    }

    /// Makes the thread urgent during `meanwhile`, if it still defies an order, and until its end if it is
    /// `done` with its guest by then.
    pub(crate) fn during(
        &self,
        defies: impl Fn() -> bool,
        meanwhile: impl FnOnce(),
        done: impl Fn() -> bool,
    ) {
        self.ever.store(true, SeqCst);
        let thread = self.thread.load(SeqCst);
        if thread == 0 || !defies() {
            return meanwhile();
        }
        schedule(thread, libc::SCHED_FIFO, 1);
        meanwhile();
        if !done() {
            schedule(thread, libc::SCHED_OTHER, 0);
        }
    }

    /// Makes the thread urgent to its end: it will not run its guest any more.
    pub(crate) fn last(&self) {
        self.ever.store(true, SeqCst);
        let thread = self.thread.load(SeqCst);
        if thread != 0 {
            schedule(thread, libc::SCHED_FIFO, 1);
        }
    }

    /// The calling thread has obeyed. Async-signal-safe.
    pub(crate) fn end(&self) {
        if self.ever.load(SeqCst) {
            schedule(0, libc::SCHED_OTHER, 0);
        }
    }

    /// The guest ends: its thread has a tenfold weight for what is left to do, which is the host's.
    pub(crate) fn hasten(&self) {
        let thread = rustix::process::Pid::from_raw(self.thread.load(SeqCst));
        if let Some(thread) = thread {
            // As for `schedule`: without the privilege nothing happens.
            let _hastened = setpriority_process(Some(thread), HASTE);
        }
    }

    /// Gives the calling thread, which gives orders and sleeps, its weight.
    pub(crate) fn of_orders() {
        schedule(0, libc::SCHED_OTHER, 0);
        let _hastened = setpriority_process(None, HASTE);
    }
}

/// Without the privilege nothing happens. A thread that has ended meanwhile is not found; that another one
/// has its number already cannot be, as numbers go around first.
#[allow(unsafe_code, reason = "there is no safe interface")]
fn schedule(thread: i32, policy: i32, priority: i32) {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the kernel reads `parameters` during the call and keeps no pointer.
    let _done = unsafe {
        let policy = policy | libc::SCHED_RESET_ON_FORK;
        libc::sched_setscheduler(thread, policy, &raw const parameters)
    };
}
