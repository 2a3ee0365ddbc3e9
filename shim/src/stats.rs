//! What a container uses, told in the messages that containerd reads of a cgroup.
//!
//! A wasm container has no cgroup of its own, so the numbers come from what is the container: the
//! processor time of its threads (guest code, and file operations that were handed to the pool), and the
//! engine's count of its memories and tables. The messages are those of
//! the host's cgroup version, in its units: containerd takes no others (containerd
//! `core/metrics/cgroups`), and CRI's list of a whole node fails on a wrong type.

use std::time::Duration;

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use protobuf::well_known_types::any::Any;
use protobuf::{MessageDyn, MessageField};
use wasi_runtime::Throttling;

/// What cgroup v1 says where there is no limit: the largest page-aligned `i64`, in bytes.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;
/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2: i64 = 0x6367_7270;

/// What a container has used, and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Consumption {
    /// Processor time since it was started.
    pub cpu: Duration,
    /// What its CPU quota did.
    pub throttling: Throttling,
    /// Memories and tables now, in bytes.
    pub memory: u64,
    /// The most they were.
    pub peak: u64,
    /// Their limit, if there is one.
    pub limit: Option<u64>,
    /// Threads of the container: 1, or 0 when it has ended.
    pub threads: u64,
    /// How many of its guests the memory limit has ended.
    pub oom_kills: u64,
}

/// The cgroup version of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Legacy or hybrid.
    V1,
    /// Unified.
    V2,
}

impl CgroupVersion {
    /// This host's, decided as containerd decides it (`cgroups.Mode`): by what is at `/sys/fs/cgroup`.
    #[must_use]
    pub fn of_host() -> Self {
        match rustix::fs::statfs("/sys/fs/cgroup") {
            Ok(found) if found.f_type == CGROUP2 => Self::V2,
            Ok(_) | Err(_) => Self::V1,
        }
    }
}

impl Consumption {
    /// Both together, as those of a pod. The limits of its containers are none of the pod's.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            throttling: Throttling {
                periods: self.throttling.periods + other.throttling.periods,
                throttled: self.throttling.throttled + other.throttling.throttled,
                time: self.throttling.time + other.throttling.time,
            },
            memory: self.memory + other.memory,
            // At most: nobody knows whether they were there at the same time.
            peak: self.peak + other.peak,
            limit: None,
            threads: self.threads + other.threads,
            oom_kills: self.oom_kills + other.oom_kills,
        }
    }

    /// The message, as containerd unmarshals it by its type URL.
    ///
    /// # Errors
    ///
    /// Never for these messages; protobuf's signature has one.
    pub fn metrics(&self, version: CgroupVersion) -> protobuf::Result<Any> {
        match version {
            CgroupVersion::V1 => named(&self.v1()),
            CgroupVersion::V2 => named(&self.v2()),
        }
    }

    fn v1(&self) -> v1::Metrics {
        let cpu = nanoseconds(self.cpu);
        let limit = self.limit.unwrap_or(V1_UNLIMITED);
        v1::Metrics {
            cpu: MessageField::some(v1::CPUStat {
                usage: MessageField::some(v1::CPUUsage {
                    total: cpu,
                    user: cpu,
                    ..v1::CPUUsage::default()
                }),
                throttling: MessageField::some(v1::Throttle {
                    periods: self.throttling.periods,
                    throttled_periods: self.throttling.throttled,
                    throttled_time: nanoseconds(self.throttling.time),
                    ..v1::Throttle::default()
                }),
                ..v1::CPUStat::default()
            }),
            memory: MessageField::some(v1::MemoryStat {
                rss: self.memory,
                total_rss: self.memory,
                hierarchical_memory_limit: limit,
                usage: MessageField::some(v1::MemoryEntry {
                    limit,
                    usage: self.memory,
                    max: self.peak,
                    failcnt: self.oom_kills,
                    ..v1::MemoryEntry::default()
                }),
                ..v1::MemoryStat::default()
            }),
            pids: MessageField::some(v1::PidsStat {
                current: self.threads,
                ..v1::PidsStat::default()
            }),
            memory_oom_control: MessageField::some(v1::MemoryOomControl {
                oom_kill: self.oom_kills,
                ..v1::MemoryOomControl::default()
            }),
            ..v1::Metrics::default()
        }
    }

    fn v2(&self) -> v2::Metrics {
        let cpu = microseconds(self.cpu);
        v2::Metrics {
            cpu: MessageField::some(v2::CPUStat {
                usage_usec: cpu,
                user_usec: cpu,
                nr_periods: self.throttling.periods,
                nr_throttled: self.throttling.throttled,
                throttled_usec: microseconds(self.throttling.time),
                ..v2::CPUStat::default()
            }),
            memory: MessageField::some(v2::MemoryStat {
                anon: self.memory,
                usage: self.memory,
                usage_limit: self.limit.unwrap_or(u64::MAX),
                max_usage: self.peak,
                ..v2::MemoryStat::default()
            }),
            pids: MessageField::some(v2::PidsStat {
                current: self.threads,
                ..v2::PidsStat::default()
            }),
            memory_events: MessageField::some(v2::MemoryEvents {
                oom: self.oom_kills,
                oom_kill: self.oom_kills,
                ..v2::MemoryEvents::default()
            }),
            ..v2::Metrics::default()
        }
    }
}

/// A message with its name, as containerd unmarshals it.
///
/// # Errors
///
/// Never for messages without required fields; protobuf's signature has one.
pub fn named(message: &dyn MessageDyn) -> protobuf::Result<Any> {
    Ok(Any {
        type_url: message.descriptor_dyn().full_name().to_owned(),
        value: message.write_to_bytes_dyn()?,
        ..Any::default()
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::*;

    const SOME: Consumption = Consumption {
        cpu: Duration::from_micros(1_234_567),
        memory: 3 << 20,
        peak: 5 << 20,
        limit: Some(8 << 20),
        threads: 1,
        oom_kills: 1,
        throttling: Throttling {
            periods: 7,
            throttled: 5,
            time: Duration::from_micros(2_000_001),
        },
    };

    #[test]
    fn v1_counts_in_nanoseconds() {
        let any = SOME.metrics(CgroupVersion::V1).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.cpu.usage.total, 1_234_567_000);
        let memory = &metrics.memory.usage;
        assert_eq!(
            (memory.usage, memory.max, memory.limit),
            (3 << 20, 5 << 20, 8 << 20)
        );
        assert_eq!(metrics.memory_oom_control.oom_kill, 1);
        let throttling = &metrics.cpu.throttling;
        let counted = (throttling.periods, throttling.throttled_periods);
        assert_eq!(
            (counted, throttling.throttled_time),
            ((7, 5), 2_000_001_000)
        );
    }

    #[test]
    fn v2_counts_in_microseconds() {
        let any = SOME.metrics(CgroupVersion::V2).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.cpu.usage_usec, 1_234_567);
        assert_eq!(
            (metrics.memory.usage, metrics.memory.usage_limit),
            (3 << 20, 8 << 20)
        );
        assert_eq!(metrics.memory_events.oom_kill, 1);
        let cpu = &metrics.cpu;
        let counted = (cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec);
        assert_eq!(counted, (7, 5, 2_000_001));
    }

    #[test]
    fn no_limit_is_what_the_kernel_says() {
        let unlimited = Consumption {
            limit: None,
            ..SOME
        };
        assert_eq!(unlimited.v1().memory.usage.limit, V1_UNLIMITED);
        assert_eq!(unlimited.v2().memory.usage_limit, u64::MAX);
    }
}
