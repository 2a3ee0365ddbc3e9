//! How much processor time some threads have used, read from their clocks by any other thread.
//!
//! A thread is counted from the moment it says so until it says that it is done; what it used in between
//! stays counted. Nothing runs for that: the kernel keeps the clock of every thread, and whoever asks
//! reads it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::time::ClockId;

/// The clocks of threads that belong together.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Clocks>);

#[derive(Debug, Default)]
struct Clocks {
    /// What threads have used that are not counted any more.
    done: Duration,
    counted: Vec<Clock>,
}

#[derive(Debug)]
struct Clock {
    thread: i32,
    /// What it showed when the thread began to be counted.
    begun: Duration,
    /// What it showed when it was read last, in case that it cannot be read any more.
    read: Duration,
}

impl Clock {
    fn used(&mut self) -> Duration {
        self.read = now(self.thread).unwrap_or(self.read);
        self.read.saturating_sub(self.begun)
    }
}

/// The processor time of a thread of this process; `None` when it has ended.
fn now(thread: i32) -> Option<Duration> {
    // The clock of a thread by its id, as the C library's `pthread_getcpuclockid` puts it together:
    // CPUCLOCK_PERTHREAD and CPUCLOCK_SCHED (linux/posix-timers.h).
    let clock = ClockId::from_raw((!thread << 3) | 6);
    clock.now().ok().map(Duration::from)
}

impl Meter {
    /// Counts the calling thread from now on; its id, to end that with.
    pub(crate) fn begin(&self) -> i32 {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let begun = now(thread).unwrap_or_default();
        self.clocks().counted.push(Clock {
            thread,
            begun,
            read: begun,
        });
        thread
    }

    /// Counts a thread no more, if it was.
    pub(crate) fn end(&self, thread: i32) {
        let mut clocks = self.clocks();
        let mut counted = clocks.counted.iter();
        if let Some(found) = counted.position(|clock| clock.thread == thread) {
            let used = clocks.counted.swap_remove(found).used();
            clocks.done += used;
        }
    }

    /// What all have used so far. Never less than it was.
    pub(crate) fn total(&self) -> Duration {
        let mut clocks = self.clocks();
        let counted: Duration = clocks.counted.iter_mut().map(Clock::used).sum();
        clocks.done + counted
    }

    /// A panic elsewhere leaves sums that are whole.
    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses processor time until `meter` shows more than `than`.
    fn burn(meter: &Meter, than: Duration) -> Duration {
        loop {
            let now = meter.total();
            if now > than {
                return now;
            }
        }
    }

    #[test]
    fn a_thread_is_counted_while_it_says_so_and_what_it_used_stays() {
        let meter = Meter::default();
        assert_eq!(meter.total(), Duration::ZERO);
        let thread = meter.begin();
        let used = burn(&meter, Duration::from_millis(5));
        meter.end(thread);
        let after = meter.total();
        assert!(after >= used);
        let other = Meter::default();
        other.begin();
        burn(&other, Duration::from_millis(5));
        other.end(thread);
        assert_eq!(meter.total(), after, "what is not counted does not count");
    }

    #[test]
    fn threads_add_up_and_may_vanish() {
        let meter = Meter::default();
        let alone = Duration::from_millis(5);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    meter.begin();
                    let own = Meter::default();
                    own.begin();
                    burn(&own, alone);
                    // Seen once more by somebody, then gone without a word.
                    meter.total();
                });
            }
        });
        assert!(meter.total() >= alone * 3, "{:?}", meter.total());
    }

    #[test]
    fn a_thread_that_is_gone_has_no_clock() {
        assert_eq!(now(i32::MAX >> 4), None);
    }
}
