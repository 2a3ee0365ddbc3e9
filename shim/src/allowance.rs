//! What a container is allowed, and the budget that holds its guests to it.
//!
//! The limits are those of the bundle until an `Update` changes some of them. A change counts at once, for
//! guests that run, and needs no guest to be asked; so it does not go through the container's driver.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use wasi_bundles::{CpuLimit, CpuShare, Limits, Plan};
use wasi_runtime::{Budget, Ceiling, CpuQuota};

use crate::Error;

/// The limits of one container.
#[derive(Debug)]
pub struct Allowance {
    asked: Mutex<Asked>,
    budget: Budget,
}

/// What is asked for now.
#[derive(Debug, Clone, Copy)]
struct Asked {
    limits: Limits,
    cpu: CpuShare,
}

impl Allowance {
    /// The limits of a bundle, below that of the shim. To be called on a thread of the host's: a quota starts a thread.
    ///
    /// # Errors
    ///
    /// [`Error::Limit`] when that thread cannot be started.
    pub fn new(plan: &Plan, ceiling: Arc<dyn Ceiling>) -> Result<Self, Error> {
        Self::of(*plan.limits(), plan.cgroup().cpu, ceiling)
    }

    fn of(limits: Limits, cpu: CpuShare, ceiling: Arc<dyn Ceiling>) -> Result<Self, Error> {
        let budget = Budget::below(ceiling);
        apply(&budget, limits)?;
        Ok(Self {
            asked: Mutex::new(Asked { limits, cpu }),
            budget,
        })
    }

    /// What the container's guests are given.
    #[must_use]
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Changes what `resources` names, `LinuxResources` as JSON. Returns what the kernel has to be told.
    ///
    /// # Errors
    ///
    /// [`Error::Bundle`] when a limit cannot be one, [`Error::Limit`] as for [`Self::new`]; nothing has
    /// changed then.
    pub fn update(&self, resources: &[u8]) -> Result<CpuShare, Error> {
        // Held until all is applied, so that of two updates one is last in everything.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let updated = Asked {
            limits: asked.limits.updated(resources)?,
            cpu: asked.cpu.updated(resources)?,
        };
        apply(&self.budget, updated.limits)?;
        *asked = updated;
        Ok(updated.cpu)
    }
}

/// The one that can fail comes first.
fn apply(budget: &Budget, limits: Limits) -> Result<(), Error> {
    budget
        .set_cpu(limits.cpu.and_then(quota))
        .map_err(Error::Limit)?;
    budget.set_memory(limits.memory);
    Ok(())
}

fn quota(limit: CpuLimit) -> Option<CpuQuota> {
    let quota = CpuQuota::new(limit.quota, limit.period);
    quota.map(|quota| quota.burst(limit.burst))
}

/// The threads that can run at once: as many as the host has processors for the shim, and no more than the
/// quota pays for.
#[must_use]
pub fn cores(limit: Option<CpuLimit>) -> NonZeroUsize {
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let paid = limit.map(|limit| limit.quota.as_nanos().div_ceil(limit.period.as_nanos()));
    let paid = paid.and_then(|paid| usize::try_from(paid).ok());
    paid.and_then(NonZeroUsize::new)
        .map_or(all, |paid| paid.min(all))
}

/// The resources that a guest with so many open files needs at most: a connection of a component has two
/// streams, and something to wait for. Not more than a quarter of the descriptors that the shim may have, as
/// it needs some itself, and `None` is the engine's default.
#[must_use]
pub fn handles(open_files: Option<u64>) -> Option<usize> {
    const EACH: u64 = 4;
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = own.current.map_or(u64::MAX, |own| own / 4).max(LEAST);
    let wanted = open_files?.saturating_mul(EACH).clamp(LEAST, most);
    usize::try_from(wanted).ok()
}

/// What a guest needs for its standard streams and directories.
const LEAST: u64 = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cgroup::MemoryCeiling;

    #[test]
    fn an_update_counts_at_once_or_not_at_all() {
        let ceiling = Arc::new(MemoryCeiling::default());
        let allowance = Allowance::of(Limits::default(), CpuShare::default(), ceiling).unwrap();
        let usage = allowance.budget().usage();
        let json = br#"{"memory": {"limit": 1048576}, "cpu": {"quota": 5000, "period": 20000}}"#;
        allowance.update(json).unwrap();
        let quota = CpuQuota::new(Duration::from_millis(5), Duration::from_millis(20));
        let now = || (usage.memory_limit(), usage.cpu_quota());
        assert_eq!(now(), (Some(1 << 20), quota));
        let half = br#"{"memory": {"limit": 7}, "cpu": {"quota": 1}}"#;
        assert!(matches!(allowance.update(half), Err(Error::Bundle(_))));
        assert_eq!(now(), (Some(1 << 20), quota));
        let none = br#"{"memory": {"limit": -1}, "cpu": {"quota": -1}}"#;
        allowance.update(none).unwrap();
        assert_eq!(now(), (None, None));
    }

    #[test]
    fn part_of_a_core_is_a_core_and_there_are_no_more_than_there_are() {
        let limit = |quota, period| CpuLimit {
            quota: Duration::from_millis(quota),
            period: Duration::from_millis(period),
            burst: Duration::ZERO,
        };
        let all = std::thread::available_parallelism().unwrap();
        assert_eq!(cores(None), all);
        for (quota, cores_paid) in [(1, 1), (100, 1), (101, 2), (200, 2), (1_000_000, 10_000)] {
            let expected = NonZeroUsize::new(cores_paid).unwrap().min(all);
            assert_eq!(cores(Some(limit(quota, 100))), expected, "{quota}");
        }
    }

    #[test]
    fn open_files_are_resources_within_reason() {
        assert_eq!(handles(None), None);
        assert_eq!(handles(Some(0)), Some(64));
        assert_eq!(handles(Some(50)), Some(200));
        let all = handles(Some(u64::MAX)).unwrap();
        let own = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert!(own.current.is_none_or(|own| (all as u64) < own), "{all}");
    }
}
