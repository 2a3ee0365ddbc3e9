//! What a container may use at most, from `linux.resources`.
//!
//! Only what is enforced on a guest is here: its memory and its processor time. The rest of the
//! structure is about processes (pids), about pages of the kernel (swap, huge pages), about a cgroup
//! among its neighbours (shares), or about devices that a guest cannot reach.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use crate::Error;

/// The kernel's default for a quota without a period.
const PERIOD: Duration = Duration::from_millis(100);
/// What the kernel takes for a period (`tg_set_cfs_bandwidth`, kernel/sched/core.c).
const PERIODS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(1);
/// The least it takes for a quota.
const LEAST_QUOTA: Duration = Duration::from_millis(1);

/// The limits of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Linear memories and tables together, in bytes (`linux.resources.memory.limit`). `None` is no
    /// limit.
    pub memory: Option<u64>,
    /// Processor time (`linux.resources.cpu`). `None` is no limit.
    pub cpu: Option<CpuLimit>,
}

/// So much processor time in every period, all threads together: a quota of half the period is half a
/// core, one of twice the period two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimit {
    /// `cpu.quota`.
    pub quota: Duration,
    /// `cpu.period`; 100 ms if only a quota is given.
    pub period: Duration,
    /// `cpu.burst`: what may be saved of a quota that was not used.
    pub burst: Duration,
}

impl Limits {
    /// Reads the limits of a spec. `origin` is the file an error names.
    ///
    /// A limit that is absent, 0 or -1 is none, as for runc.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMemoryLimit`] below -1; [`Error::InvalidCpuLimit`] for what the kernel would not
    /// take: a quota below -1 or under 1 ms, a period under 1 ms or over 1 s, a burst above the quota.
    pub fn new(resources: Option<&LinuxResources>, origin: &Path) -> Result<Self, Error> {
        let none = Self::default();
        resources.map_or(Ok(none), |resources| none.with(resources, origin))
    }

    /// These limits after an `Update` request, whose resources are `json`: a `LinuxResources` of the OCI
    /// runtime spec. What it says of other things than memory and processor time is passed over.
    ///
    /// As for runc a limit that is absent or 0 stays as it is, and -1 lifts it. A quota keeps its period
    /// and its burst unless they are given, too.
    ///
    /// # Errors
    ///
    /// [`Error::ParseResources`], and as for [`Self::new`].
    pub fn updated(&self, json: &[u8]) -> Result<Self, Error> {
        let resources = serde_json::from_slice(json).map_err(Error::ParseResources)?;
        self.with(&resources, Path::new("the update"))
    }

    fn with(&self, resources: &LinuxResources, origin: &Path) -> Result<Self, Error> {
        let memory = resources.memory().as_ref();
        let memory = memory.and_then(|memory| memory.limit());
        let cpu = match resources.cpu() {
            None => Ok(self.cpu),
            Some(cpu) => cpu_limit(cpu, self.cpu),
        };
        Ok(Self {
            memory: memory_limit(memory, self.memory, origin)?,
            cpu: cpu.map_err(|reason| Error::InvalidCpuLimit {
                origin: origin.to_owned(),
                reason,
            })?,
        })
    }
}

fn memory_limit(
    limit: Option<i64>,
    before: Option<u64>,
    origin: &Path,
) -> Result<Option<u64>, Error> {
    match limit {
        None | Some(0) => Ok(before),
        Some(-1) => Ok(None),
        Some(bytes) => match u64::try_from(bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(Error::InvalidMemoryLimit {
                origin: origin.to_owned(),
                bytes,
            }),
        },
    }
}

fn cpu_limit(cpu: &LinuxCpu, before: Option<CpuLimit>) -> Result<Option<CpuLimit>, String> {
    let period = match cpu.period() {
        None | Some(0) => before.map_or(PERIOD, |before| before.period),
        Some(microseconds) => Duration::from_micros(microseconds),
    };
    if !PERIODS.contains(&period) {
        return Err(format!("the period of {period:?} is not 1ms to 1s"));
    }
    let quota = match (cpu.quota(), before) {
        (None | Some(0), None) | (Some(-1), _) => return Ok(None),
        (None | Some(0), Some(before)) => before.quota,
        (Some(microseconds), _) => match u64::try_from(microseconds) {
            Ok(microseconds) => Duration::from_micros(microseconds),
            Err(_) => return Err(format!("the quota is {microseconds}; -1 is no limit")),
        },
    };
    if quota < LEAST_QUOTA {
        return Err(format!("the quota of {quota:?} is less than 1ms"));
    }
    let burst = match cpu.burst() {
        None => before.map_or(Duration::ZERO, |before| before.burst),
        Some(microseconds) => Duration::from_micros(microseconds),
    };
    if burst > quota {
        return Err(format!(
            "the burst of {burst:?} is more than the quota of {quota:?}"
        ));
    }
    Ok(Some(CpuLimit {
        quota,
        period,
        burst,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> Result<Limits, Error> {
        let resources = serde_json::from_str(json).unwrap();
        Limits::new(Some(&resources), Path::new("/b/config.json"))
    }

    fn update(before: Limits, json: &str) -> Result<Limits, Error> {
        before.updated(json.as_bytes())
    }

    const fn cpu(quota: u64, period: u64, burst: u64) -> Option<CpuLimit> {
        Some(CpuLimit {
            quota: Duration::from_micros(quota),
            period: Duration::from_micros(period),
            burst: Duration::from_micros(burst),
        })
    }

    #[test]
    fn a_memory_limit_is_in_bytes() {
        let limits = limits(r#"{"memory": {"limit": 134217728}}"#).unwrap();
        assert_eq!(limits.memory, Some(128 << 20));
    }

    #[test]
    fn a_cpu_limit_is_in_microseconds() {
        for (json, limit) in [
            (
                r#"{"quota": 20000, "period": 50000}"#,
                cpu(20_000, 50_000, 0),
            ),
            (r#"{"quota": 150000}"#, cpu(150_000, 100_000, 0)),
            (
                r#"{"quota": 1000, "period": 1000000, "burst": 500}"#,
                cpu(1000, 1_000_000, 500),
            ),
            (r#"{"shares": 512, "cpus": "0-1"}"#, None),
        ] {
            let limits = limits(&format!(r#"{{"cpu": {json}}}"#)).unwrap();
            assert_eq!(limits.cpu, limit, "{json}");
        }
    }

    #[test]
    fn absent_zero_and_minus_one_are_no_limit() {
        for json in [
            "{}",
            r#"{"memory": {}, "cpu": {}}"#,
            r#"{"memory": {"limit": 0}, "cpu": {"quota": 0, "period": 100000}}"#,
            r#"{"memory": {"limit": -1}, "cpu": {"quota": -1, "period": 0}}"#,
        ] {
            assert_eq!(limits(json).unwrap(), Limits::default(), "{json}");
        }
        let none = Limits::new(None, Path::new("/")).unwrap();
        assert_eq!(none, Limits::default());
    }

    #[test]
    fn an_update_changes_what_it_says_and_nothing_else() {
        let before = Limits {
            memory: Some(1 << 20),
            cpu: cpu(20_000, 50_000, 1000),
        };
        for json in [
            "{}",
            r#"{"memory": {"limit": 0}, "cpu": {"quota": 0, "shares": 2}}"#,
        ] {
            assert_eq!(update(before, json).unwrap(), before, "{json}");
        }
        let memory = update(before, r#"{"memory": {"limit": 5}}"#).unwrap();
        let less = Limits {
            memory: Some(5),
            ..before
        };
        assert_eq!(memory, less);
        let quota = update(before, r#"{"cpu": {"quota": 30000}}"#).unwrap();
        assert_eq!(quota.cpu, cpu(30_000, 50_000, 1000));
        let period = update(before, r#"{"cpu": {"period": 100000}}"#).unwrap();
        assert_eq!(period.cpu, cpu(20_000, 100_000, 1000));
        let none = r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}}"#;
        assert_eq!(update(before, none).unwrap(), Limits::default());
        let error = update(before, r#"{"cpu": {"quota": -2}}"#).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("the update limits the processor time"),
            "{text}"
        );
        let error = update(before, r#"{"memory": {"limit": "1G"}}"#).unwrap_err();
        assert!(matches!(error, Error::ParseResources(_)), "{error:?}");
    }

    #[test]
    fn what_no_kernel_would_take_is_refused() {
        for (json, text) in [
            (
                r#"{"memory": {"limit": -2}}"#,
                "the memory to -2 bytes; give a positive number, or -1 for no limit",
            ),
            (
                r#"{"cpu": {"quota": -2}}"#,
                "the processor time wrongly: the quota is -2; -1 is no limit",
            ),
            (
                r#"{"cpu": {"quota": 999}}"#,
                "the processor time wrongly: the quota of 999µs is less than 1ms",
            ),
            (
                r#"{"cpu": {"quota": 5000, "period": 1000001}}"#,
                "the processor time wrongly: the period of 1.000001s is not 1ms to 1s",
            ),
            (
                r#"{"cpu": {"quota": 5000, "burst": 5001}}"#,
                "the processor time wrongly: the burst of 5.001ms is more than the quota of 5ms",
            ),
        ] {
            let error = limits(json).unwrap_err().to_string();
            assert_eq!(error, format!("/b/config.json limits {text}"));
        }
    }
}
