//! What the kernel has counted in a cgroup and those below it, in the message that containerd reads of one.
//!
//! containerd asks a shim for that of a pod (`SandboxMetrics`), where it takes a pod's statistics from whoever
//! made the sandbox (containerd 2.4, `cri: route sandbox stats through Controller.Metrics`). The pod's cgroup,
//! which the kubelet makes, holds the shim with all wasm containers, and the Linux containers. The numbers are those
//! that containerd's own controller reads there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use protobuf::{MessageDyn, MessageField};

use super::hierarchy::{Hierarchy, mounted};
use crate::stats::CgroupVersion;

/// What is counted in `cgroup`, a path from the root of the hierarchies. A controller that this host does not have
/// counts nothing.
///
/// # Errors
///
/// When no hierarchy has that cgroup.
pub fn usage(cgroup: &Path) -> io::Result<Box<dyn MessageDyn>> {
    let folders = mounted()?.into_iter().filter_map(|hierarchy| {
        let folder = hierarchy.mount().join(cgroup);
        folder.is_dir().then_some((hierarchy, folder))
    });
    let folders: Vec<_> = folders.collect();
    let Some((first, folder)) = folders.first() else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no hierarchy has the cgroup /{}", cgroup.display()),
        ));
    };
    Ok(match first.version() {
        CgroupVersion::V1 => Box::new(of_version_1(&folders)),
        CgroupVersion::V2 => Box::new(of_version_2(folder)),
    })
}

fn of_version_1(folders: &[(Hierarchy, PathBuf)]) -> v1::Metrics {
    let file = |controller: &str, name: &str| {
        let mut having = folders.iter();
        let (_, folder) = having.find(|(hierarchy, _)| hierarchy.has(controller))?;
        Some(folder.join(name))
    };
    let one = |controller, name| number(file(controller, name).as_deref());
    let memory = table(file("memory", "memory.stat").as_deref());
    let cpu = table(file("cpu", "cpu.stat").as_deref());
    let oom = table(file("memory", "memory.oom_control").as_deref());
    v1::Metrics {
        cpu: MessageField::some(v1::CPUStat {
            usage: MessageField::some(v1::CPUUsage {
                total: one("cpuacct", "cpuacct.usage"),
                user: one("cpuacct", "cpuacct.usage_user"),
                kernel: one("cpuacct", "cpuacct.usage_sys"),
                ..v1::CPUUsage::default()
            }),
            throttling: MessageField::some(v1::Throttle {
                periods: cpu.of("nr_periods"),
                throttled_periods: cpu.of("nr_throttled"),
                throttled_time: cpu.of("throttled_time"),
                ..v1::Throttle::default()
            }),
            ..v1::CPUStat::default()
        }),
        memory: MessageField::some(v1::MemoryStat {
            rss: memory.of("rss"),
            cache: memory.of("cache"),
            hierarchical_memory_limit: memory.of("hierarchical_memory_limit"),
            total_rss: memory.of("total_rss"),
            total_cache: memory.of("total_cache"),
            total_mapped_file: memory.of("total_mapped_file"),
            total_pg_fault: memory.of("total_pgfault"),
            total_pg_maj_fault: memory.of("total_pgmajfault"),
            total_inactive_file: memory.of("total_inactive_file"),
            total_active_file: memory.of("total_active_file"),
            usage: MessageField::some(v1::MemoryEntry {
                limit: one("memory", "memory.limit_in_bytes"),
                usage: one("memory", "memory.usage_in_bytes"),
                max: one("memory", "memory.max_usage_in_bytes"),
                failcnt: one("memory", "memory.failcnt"),
                ..v1::MemoryEntry::default()
            }),
            ..v1::MemoryStat::default()
        }),
        pids: MessageField::some(v1::PidsStat {
            current: one("pids", "pids.current"),
            limit: one("pids", "pids.max"),
            ..v1::PidsStat::default()
        }),
        memory_oom_control: MessageField::some(v1::MemoryOomControl {
            under_oom: oom.of("under_oom"),
            oom_kill: oom.of("oom_kill"),
            oom_kill_disable: oom.of("oom_kill_disable"),
            ..v1::MemoryOomControl::default()
        }),
        ..v1::Metrics::default()
    }
}

fn of_version_2(folder: &Path) -> v2::Metrics {
    let one = |name| number(Some(&folder.join(name)));
    let all = |name| table(Some(&folder.join(name)));
    let (cpu, memory, events) = (all("cpu.stat"), all("memory.stat"), all("memory.events"));
    v2::Metrics {
        cpu: MessageField::some(v2::CPUStat {
            usage_usec: cpu.of("usage_usec"),
            user_usec: cpu.of("user_usec"),
            system_usec: cpu.of("system_usec"),
            nr_periods: cpu.of("nr_periods"),
            nr_throttled: cpu.of("nr_throttled"),
            throttled_usec: cpu.of("throttled_usec"),
            ..v2::CPUStat::default()
        }),
        memory: MessageField::some(v2::MemoryStat {
            anon: memory.of("anon"),
            file: memory.of("file"),
            file_mapped: memory.of("file_mapped"),
            inactive_file: memory.of("inactive_file"),
            active_file: memory.of("active_file"),
            pgfault: memory.of("pgfault"),
            pgmajfault: memory.of("pgmajfault"),
            usage: one("memory.current"),
            usage_limit: one("memory.max"),
            max_usage: one("memory.peak"),
            ..v2::MemoryStat::default()
        }),
        pids: MessageField::some(v2::PidsStat {
            current: one("pids.current"),
            limit: one("pids.max"),
            ..v2::PidsStat::default()
        }),
        memory_events: MessageField::some(v2::MemoryEvents {
            low: events.of("low"),
            high: events.of("high"),
            max: events.of("max"),
            oom: events.of("oom"),
            oom_kill: events.of("oom_kill"),
            ..v2::MemoryEvents::default()
        }),
        ..v2::Metrics::default()
    }
}

/// The number that a file has. `max` is as much as there can be, as containerd has it; 0 without such a file.
fn number(file: Option<&Path>) -> u64 {
    let text = file.and_then(|file| fs::read_to_string(file).ok());
    text.map_or(0, |text| parsed(text.trim()))
}

fn parsed(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// A file of lines with a name and a number.
struct Table(String);

fn table(file: Option<&Path>) -> Table {
    let text = file.and_then(|file| fs::read_to_string(file).ok());
    Table(text.unwrap_or_default())
}

impl Table {
    /// The number of that name; 0 without.
    fn of(&self, name: &str) -> u64 {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(found, _)| *found == name);
        found.map_or(0, |(_, number)| parsed(number.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_read_as_the_kernel_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("cpu.stat", "usage_usec 70\nuser_usec 50\nsystem_usec 20\n");
        put("memory.current", "4096\n");
        put("memory.max", "max\n");
        put("memory.stat", "anon 1024\nfile 3072\ninactive_file 512\n");
        put("memory.events", "low 0\noom 2\noom_kill 1\n");
        put("pids.current", "7\n");
        let counted = of_version_2(folder.path());
        assert_eq!(counted.cpu.usage_usec, 70);
        let memory = &counted.memory;
        assert_eq!((memory.usage, memory.usage_limit), (4096, u64::MAX));
        assert_eq!((memory.anon, memory.inactive_file), (1024, 512));
        assert_eq!(counted.memory_events.oom_kill, 1);
        // Without pids.max, as where the controller is not given on.
        assert_eq!((counted.pids.current, counted.pids.limit), (7, 0));
    }

    #[test]
    fn a_cgroup_that_is_nowhere_is_named() {
        let error = usage(Path::new("wasi-test-of-nobody")).unwrap_err();
        assert!(error.to_string().contains("/wasi-test-of-nobody"));
    }
}
