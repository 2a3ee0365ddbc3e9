//! What a guest may use of the host besides its [`Budget`], and who asks.
//!
//! wasmtime asks before every growth of a memory or table of the store. One [`Limiter`] a guest takes them
//! all from its budget, so that a component's many core instances, and all guests of a budget, share one
//! limit. A growth beyond it ends the guest, as the kernel's OOM killer ends a process: `malloc` returning
//! null is what few programs survive, and none reports.

use std::time::Duration;

use wasmtime::{ResourceLimiter, Result};

use crate::Budget;

/// Limits of one guest. None of them is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many resources it may hold at once: files, sockets, streams, what it polls. Many are a
    /// descriptor of the process, and each may have buffers of some 64 KiB. To open a file or a socket beyond
    /// that is an error of the guest's (`EMFILE`, `new-socket-limit`); of what has no such error, what is
    /// polled, it may have 128 more, and one beyond that ends it. 4,096 by default.
    pub handles: usize,
    /// How many core instances it may have, and how many memories, and how many tables. 1,000 by
    /// default; the largest components have some dozens.
    pub instances: usize,
    /// How long it may take from its start, pauses included. No limit by default: a server is to run
    /// for ever.
    pub deadline: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handles: 4096,
            instances: 1000,
            deadline: None,
        }
    }
}

/// The most that one call may move from the guest to the host, or have the host make for it (random
/// bytes), in bytes: a call that wants more ends the guest. It is memory of the host, so a budget whose
/// memory is less allows less.
pub(crate) fn largest_transfer(budget: &Budget) -> usize {
    const MOST: u64 = 64 << 20;
    let most = budget
        .usage()
        .memory_limit()
        .map_or(MOST, |limit| limit.min(MOST));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// The size of a table's element in the engine, in bytes.
const TABLE_ELEMENT: u64 = size_of::<usize>() as u64;

#[derive(Debug)]
pub(crate) struct Limiter {
    budget: Budget,
    instances: usize,
    /// What this guest has taken. A growth that the kernel refuses after all stays counted.
    taken: u64,
}

/// The root cause of the trap that ends a guest at its memory limit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MemoryLimitHit {
    #[error("memory limit of {limit} bytes reached: {wanted} bytes wanted")]
    Budget { limit: u64, wanted: u64 },
    #[error("memory limit of {limit} bytes of the whole process reached: {more} bytes more wanted")]
    Ceiling { limit: u64, more: u64 },
}

impl Limiter {
    pub(crate) fn new(budget: Budget, limits: Limits) -> Self {
        Self {
            budget,
            instances: limits.instances,
            taken: 0,
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Accounts for a growth, `current` and `desired` being bytes; refuses what the limit forbids.
    fn grow(&mut self, current: u64, desired: u64) -> Result<bool> {
        let more = desired.saturating_sub(current);
        self.budget.take(more)?;
        self.taken = self.taken.saturating_add(more);
        Ok(true)
    }
}

/// The guest's memory goes with its store.
impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        // Beyond what the program itself declared, `memory.grow` fails as the specification says.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(current as u64, desired as u64)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(
            (current as u64).saturating_mul(TABLE_ELEMENT),
            (desired as u64).saturating_mul(TABLE_ELEMENT),
        )
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.instances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(memory: u64) -> (Budget, Limiter) {
        let budget = Budget::default();
        budget.set_memory(Some(memory));
        (budget.clone(), Limiter::new(budget, Limits::default()))
    }

    #[test]
    fn memories_and_tables_share_one_limit() {
        let (budget, mut limiter) = limited(1000);
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.table_growing(0, 50, None).unwrap());
        let error = limiter.memory_growing(600, 601, None).unwrap_err();
        assert!(error.downcast_ref::<MemoryLimitHit>().is_some());
        let usage = budget.usage();
        assert_eq!(usage.memory(), 1000);
        drop(limiter);
        assert_eq!((usage.memory(), usage.peak()), (0, 1000));
    }

    #[test]
    fn guests_of_a_budget_share_one_limit() {
        let (budget, mut one) = limited(1000);
        let mut other = Limiter::new(budget.clone(), Limits::default());
        assert!(one.memory_growing(0, 600, None).unwrap());
        assert!(other.memory_growing(0, 400, None).unwrap());
        assert!(other.memory_growing(400, 401, None).is_err());
        drop(one);
        assert!(other.memory_growing(400, 1000, None).unwrap());
    }

    /// wasmtime calls back also for a growth that it refused before it asked, so nothing may be taken
    /// back: a guest that makes one fail after each that succeeds would never reach its limit.
    #[test]
    fn a_growth_that_fails_takes_nothing_back() {
        let (_, mut limiter) = limited(100);
        assert!(limiter.memory_growing(0, 80, None).unwrap());
        let refused = || wasmtime::Error::msg("refused");
        limiter.table_grow_failed(refused()).unwrap();
        limiter.memory_grow_failed(refused()).unwrap();
        assert!(limiter.memory_growing(80, 101, None).is_err());
    }

    #[test]
    fn a_programs_own_maximum_is_refused_without_ending_it() {
        let (_, mut limiter) = limited(10);
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(limiter.memory_growing(0, 10, Some(500)).unwrap());
    }

    #[test]
    fn a_small_budget_makes_small_transfers() {
        let (budget, _limiter) = limited(1 << 20);
        assert_eq!(largest_transfer(&budget), 1 << 20);
        assert_eq!(largest_transfer(&Budget::default()), 64 << 20);
    }
}
