//! Getting a thread to where it can be stopped: beside many that compute, a thread may wait a tenth of a
//! second for a processor, and a guest notices an order only when it runs. So the thread of a guest that has
//! an order to obey comes before all ordinary ones (`SCHED_FIFO`, sched(7)) until it has obeyed, but only
//! while the fence is up: urgent, it can leave the host or fault, and not compute. Whoever lacks the
//! privilege (`CAP_SYS_NICE`) stops guests later.
//!
//! The threads that give orders themselves, in the name of a quota or a deadline, come first
//! ([`come_first`]) for as long as they live: they do little and sleep, and a quota is kept as exactly as they
//! are punctual. They are no real-time threads, as a process that has one can join few cgroups of version 1.
//!
//! A guest that is killed has a thread with some things to do yet, none of them the guest's. That one weighs as
//! much from then on, and where it ends with its guest ([`Urgency::last`]) it is urgent to its end: as an ordinary
//! one it would be behind by the time that the guest had before its turn, which among fifty that compute is a
//! tenth of a second. What it does is short, but for giving back much memory: that is done as an ordinary one.
//!
//! What an urgent thread starts is ordinary: `SCHED_RESET_ON_FORK`. It is never taken back, as that needs the
//! privilege, which a guest's thread may have given up since.

use std::io;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread::JoinHandle;

use rustix::process::setpriority_process;

/// The priority of a thread that gives orders, or whose guest was killed, as nice(2) counts.
const HASTE: i32 = -10;
/// How long a turn of a thread that gives orders is, in nanoseconds: the least that may be asked for.
const TURN: u64 = 100_000;
/// The size of the first version of `struct sched_attr`, which every kernel knows.
const ATTRIBUTES: u32 = 48;
/// `SCHED_FLAG_RESET_ON_FORK`
const RESET_ON_FORK: u64 = 1;

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

    /// Lets the calling thread, which gives orders and sleeps, come first.
    pub(crate) fn of_orders() {
        // As for `schedule`: without the privilege nothing happens.
        let _preferred = come_first();
    }

    /// Has a thread that was just started, and is [one of those](Self::of_orders), begin at once: a new one takes its place
    /// behind all that compute.
    #[allow(unsafe_code, reason = "there is no safe interface")]
    pub(crate) fn of_starting(thread: &JoinHandle<()>) {
        let parameters = libc::sched_param { sched_priority: 1 };
        // SAFETY: the thread has not been joined or detached, so its handle is valid, ended or not. `parameters`
        // is read during the call.
        let _done = unsafe {
            let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
            libc::pthread_setschedparam(thread.as_pthread_t(), policy, &raw const parameters)
        };
    }
}

/// Lets the calling thread come before those that compute, whenever it wakes. It is to sleep nearly always: it gets ten times
/// the weight of others (nice(2)), and turns of a tenth of a millisecond, so that it has not to wait for the end of
/// another's turn, which may be milliseconds (sched_setattr(2), `sched_runtime`, from Linux 6.12; before, that is ignored).
/// What it starts, threads and programs, is ordinary.
///
/// # Errors
///
/// The system's: it takes `CAP_SYS_NICE`.
#[allow(unsafe_code, reason = "there is no safe interface")]
pub fn come_first() -> io::Result<()> {
    let attributes = libc::sched_attr {
        size: ATTRIBUTES,
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: RESET_ON_FORK,
        sched_nice: HASTE,
        sched_priority: 0,
        sched_runtime: TURN,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of `attributes` as it has, during the call, and keeps no pointer.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
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
