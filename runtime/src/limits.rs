//! What a guest may use of the host's memory.
//!
//! wasmtime asks before every growth of a memory or table of the store. One [`Limiter`] a guest adds
//! them all up, so that a component's many core instances share one limit. A growth beyond it ends
//! the guest, as the kernel's OOM killer ends a process: `malloc` returning null is what few
//! programs survive, and none reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasmtime::{ResourceLimiter, Result};

/// Limits of one guest. The default has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Linear memories and tables together, in bytes.
    pub memory: Option<u64>,
}

/// What a guest uses of the host's memory, at any moment and from any thread. Clones show the same.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    memory: AtomicU64,
    peak: AtomicU64,
}

impl Usage {
    /// Linear memories and tables together, in bytes; 0 when the guest is gone.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.0.memory.load(Relaxed)
    }

    /// The most they ever were, in bytes. A growth that the host refused after all counts.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Relaxed)
    }
}

/// The size of a table's element in the engine, in bytes.
const TABLE_ELEMENT: u64 = size_of::<usize>() as u64;

#[derive(Debug)]
pub(crate) struct Limiter {
    limits: Limits,
    usage: Usage,
    /// A growth that the kernel refuses after all stays counted.
    used: u64,
}

/// The root cause of the trap that ends a guest at its memory limit.
#[derive(Debug, thiserror::Error)]
#[error("memory limit of {limit} bytes reached: {wanted} bytes wanted")]
pub(crate) struct MemoryLimitHit {
    pub(crate) limit: u64,
    wanted: u64,
}

impl Limiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            usage: Usage::default(),
            used: 0,
        }
    }

    /// Accounts for a growth, `current` and `desired` being bytes; refuses what the limit forbids.
    fn grow(&mut self, current: u64, desired: u64) -> Result<bool> {
        let wanted = self.used.saturating_sub(current).saturating_add(desired);
        if let Some(limit) = self.limits.memory
            && wanted > limit
        {
            return Err(MemoryLimitHit { limit, wanted }.into());
        }
        self.set(wanted);
        Ok(true)
    }

    fn set(&mut self, used: u64) {
        self.used = used;
        self.usage.0.memory.store(used, Relaxed);
        self.usage.0.peak.fetch_max(used, Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage.clone()
    }
}

/// The guest's memory goes with its store.
impl Drop for Limiter {
    fn drop(&mut self) {
        self.usage.0.memory.store(0, Relaxed);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut limiter = Limiter::new(Limits { memory: Some(1000) });
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(limiter.table_growing(0, 50, None).unwrap());
        let error = limiter.memory_growing(600, 601, None).unwrap_err();
        assert!(error.downcast_ref::<MemoryLimitHit>().is_some());
        let usage = limiter.usage();
        assert_eq!(usage.memory(), 1000);
        drop(limiter);
        assert_eq!((usage.memory(), usage.peak()), (0, 1000));
    }

    /// wasmtime calls back also for a growth that it refused before it asked, so nothing may be taken
    /// back: a guest that makes one fail after each that succeeds would never reach its limit.
    #[test]
    fn a_growth_that_fails_takes_nothing_back() {
        let mut limiter = Limiter::new(Limits { memory: Some(100) });
        assert!(limiter.memory_growing(0, 80, None).unwrap());
        let refused = || wasmtime::Error::msg("refused");
        limiter.table_grow_failed(refused()).unwrap();
        limiter.memory_grow_failed(refused()).unwrap();
        assert!(limiter.memory_growing(80, 101, None).is_err());
    }

    #[test]
    fn a_programs_own_maximum_is_refused_without_ending_it() {
        let mut limiter = Limiter::new(Limits { memory: Some(10) });
        assert!(!limiter.memory_growing(0, 600, Some(500)).unwrap());
        assert!(limiter.memory_growing(0, 10, Some(500)).unwrap());
    }
}
