//! What some guests may use together, and what they have used: memory and processor time.
//!
//! The guests of a container (its program and what is executed in it) share one budget, so that starting
//! more of them gets nobody more. It can be changed at any time, and holds from then on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::limits::MemoryLimitHit;
use crate::meter::Meter;
use crate::quota::{CpuQuota, Throttling};
use crate::throttle::{Nap, Throttle, Watched};
use crate::urgency::Urgency;
use crate::{Ceiling, Error, Interrupter};

/// A budget. Clones are the same one. The default has no limit.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    memory: Memory,
    meter: Meter,
    throttle: Throttle,
    ceiling: Option<Arc<dyn Ceiling>>,
}

#[derive(Debug)]
struct Memory {
    /// `u64::MAX` for none: nobody has so much.
    limit: AtomicU64,
    used: AtomicU64,
    peak: AtomicU64,
    refusals: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            limit: AtomicU64::new(u64::MAX),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        }
    }
}

impl Memory {
    fn limit(&self) -> Option<u64> {
        let limit = self.limit.load(Relaxed);
        (limit != u64::MAX).then_some(limit)
    }
}

impl Budget {
    /// One without a limit of its own, in a process that has one: no guest of it gets memory that `ceiling` has
    /// not.
    pub fn below(ceiling: Arc<dyn Ceiling>) -> Self {
        let mut shared = Shared::default();
        shared.ceiling = Some(ceiling);
        Self(Arc::new(shared))
    }

    /// Limits linear memories and tables together, in bytes. `None` lifts the limit.
    ///
    /// Below what is used already nobody loses anything: the next growth ends its guest.
    pub fn set_memory(&self, limit: Option<u64>) {
        self.0
            .memory
            .limit
            .store(limit.unwrap_or(u64::MAX), Relaxed);
    }

    /// What is used of it, for those who are to look only.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage(self.clone())
    }

    /// Limits processor time. `None` lifts the limit.
    ///
    /// The first quota starts a thread, from the caller's thread and with all that this has (namespaces,
    /// rights); it ends with the budget.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] when that thread cannot be started; nothing has changed then.
    pub fn set_cpu(&self, quota: Option<CpuQuota>) -> Result<(), Error> {
        let watch = || {
            let budget = Arc::downgrade(&self.0);
            let thread = std::thread::Builder::new().name("wasi-quota".to_owned());
            let thread = thread.spawn(move || watch(&budget))?;
            Ok(thread.thread().clone())
        };
        let set = self.0.throttle.set(quota, &self.0.meter, watch);
        set.map_err(|source| Error::Thread {
            what: "keeps a CPU quota",
            source,
        })
    }

    /// Counts the calling thread, which works for guests of this budget, until it calls
    /// [`Self::thread_ends`]. The thread that runs a guest is counted without this.
    pub fn thread_begins(&self) {
        self.0.meter.begin();
    }

    /// Counts the calling thread no more. What it has used stays counted.
    pub fn thread_ends(&self) {
        self.0
            .meter
            .end(rustix::thread::gettid().as_raw_nonzero().get());
    }

    /// Takes `more` bytes.
    pub(crate) fn take(&self, more: u64) -> Result<(), MemoryLimitHit> {
        self.take_own(more)?;
        let ceiling = self.0.ceiling.as_ref();
        let Some(limit) = ceiling.and_then(|ceiling| ceiling.passed_by(more)) else {
            return Ok(());
        };
        self.give_back(more);
        self.0.memory.refusals.fetch_add(1, Relaxed);
        Err(MemoryLimitHit::Ceiling { limit, more })
    }

    fn take_own(&self, more: u64) -> Result<(), MemoryLimitHit> {
        let memory = &self.0.memory;
        let limit = memory.limit.load(Relaxed);
        let within = |used: u64| Some(used.saturating_add(more)).filter(|used| *used <= limit);
        match memory.used.fetch_update(Relaxed, Relaxed, within) {
            Ok(before) => {
                memory.peak.fetch_max(before.saturating_add(more), Relaxed);
                Ok(())
            }
            Err(used) => {
                memory.refusals.fetch_add(1, Relaxed);
                Err(MemoryLimitHit::Budget {
                    limit,
                    wanted: used.saturating_add(more),
                })
            }
        }
    }

    /// Gives back `bytes` that were taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.0.memory.used.fetch_sub(bytes, Relaxed);
    }

    /// Runs a guest at this budget's expense; the calling thread is its.
    pub(crate) async fn run<F: Future>(
        &self,
        guest: F,
        interrupter: &Interrupter,
    ) -> Option<F::Output> {
        let _expense = Expense {
            budget: self,
            interrupter,
            thread: self.0.meter.begin(),
        };
        self.0.throttle.join(interrupter);
        let guest = Watched::new(guest, &self.0.throttle);
        interrupter.guard(guest).await
    }
}

/// What the guests of a budget use, at any moment and from any thread, and have used when they are gone.
/// Clones show the same.
#[derive(Debug, Clone)]
pub struct Usage(Budget);

impl Usage {
    /// Linear memories and tables together, in bytes; 0 when all guests are gone.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.shared().memory.used.load(Relaxed)
    }

    /// The most they ever were, in bytes. A growth that the host refused after all counts.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.shared().memory.peak.load(Relaxed)
    }

    /// Their limit now, in bytes.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        self.shared().memory.limit()
    }

    /// How many guests the limit has ended.
    #[must_use]
    pub fn memory_refusals(&self) -> u64 {
        self.shared().memory.refusals.load(Relaxed)
    }

    /// The processor time of guests, and of threads that work for them. Never less than before.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.shared().meter.total()
    }

    /// The CPU quota now.
    #[must_use]
    pub fn cpu_quota(&self) -> Option<CpuQuota> {
        self.shared().throttle.quota()
    }

    /// What the CPU quota has done since it was set.
    #[must_use]
    pub fn throttling(&self) -> Throttling {
        self.shared().throttle.throttling()
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }
}

/// While it lives a guest is bound by a budget.
struct Expense<'a> {
    budget: &'a Budget,
    interrupter: &'a Interrupter,
    thread: i32,
}

impl Drop for Expense<'_> {
    fn drop(&mut self) {
        self.budget.0.throttle.leave(self.interrupter);
        self.budget.0.meter.end(self.thread);
    }
}

/// The thread of a quota.
fn watch(budget: &Weak<Shared>) {
    Urgency::of_orders();
    while let Some(shared) = budget.upgrade() {
        let nap = shared.throttle.look(&shared.meter);
        // If it is the last one the thread wakes itself, and ends.
        drop(shared);
        match nap {
            Nap::Until(time) => std::thread::park_timeout(time),
            Nap::Woken => std::thread::park(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.throttle.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Option<CpuQuota> {
        CpuQuota::new(Duration::from_millis(10), Duration::from_millis(100))
    }

    #[test]
    fn a_lower_limit_takes_nothing_and_refuses_more() {
        let budget = Budget::default();
        let usage = budget.usage();
        budget.take(100).unwrap();
        budget.set_memory(Some(50));
        assert_eq!((usage.memory(), usage.memory_limit()), (100, Some(50)));
        let hit = budget.take(1).unwrap_err();
        let expected = MemoryLimitHit::Budget {
            limit: 50,
            wanted: 101,
        };
        assert_eq!(hit, expected);
        budget.give_back(80);
        budget.take(30).unwrap();
        budget.set_memory(None);
        budget.take(1 << 40).unwrap();
        assert_eq!(usage.peak(), 50 + (1 << 40));
        assert_eq!(usage.memory_refusals(), 1);
    }

    /// A process that has room for 100 bytes more, whoever asks.
    #[derive(Debug)]
    struct Hundred;

    impl Ceiling for Hundred {
        fn passed_by(&self, more: u64) -> Option<u64> {
            (more > 100).then_some(4096)
        }
    }

    #[test]
    fn nobody_gets_what_the_process_has_not() {
        let budget = Budget::below(Arc::new(Hundred));
        let usage = budget.usage();
        assert_eq!(usage.memory_limit(), None);
        budget.take(100).unwrap();
        let hit = budget.take(101).unwrap_err();
        let (limit, more) = (4096, 101);
        assert_eq!(hit, MemoryLimitHit::Ceiling { limit, more });
        assert_eq!((usage.memory(), usage.memory_refusals()), (100, 1));
        // Its own limit is still that.
        budget.set_memory(Some(150));
        let hit = budget.take(100).unwrap_err();
        assert!(matches!(hit, MemoryLimitHit::Budget { .. }), "{hit}");
        assert_eq!((usage.memory(), usage.memory_refusals()), (100, 2));
    }

    #[test]
    fn a_quota_is_set_changed_and_lifted() {
        let budget = Budget::default();
        assert_eq!(budget.usage().cpu_quota(), None);
        budget.set_cpu(quota()).unwrap();
        assert_eq!(budget.usage().cpu_quota(), quota());
        let more = quota().map(|quota| quota.burst(Duration::from_millis(1)));
        budget.set_cpu(more).unwrap();
        assert_eq!(budget.usage().cpu_quota(), more);
        budget.set_cpu(None).unwrap();
        assert_eq!(budget.usage().cpu_quota(), None);
        assert_eq!(budget.usage().throttling(), Throttling::default());
    }

    #[test]
    fn the_thread_of_a_quota_ends_with_its_budget() {
        let budget = Budget::default();
        budget.set_cpu(quota()).unwrap();
        let watched = Arc::downgrade(&budget.0);
        drop(budget);
        let begun = std::time::Instant::now();
        while watched.strong_count() > 0 {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "it holds on to it"
            );
            std::thread::yield_now();
        }
    }
}
