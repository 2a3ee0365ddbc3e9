//! The cgroup of one container's threads, below the shim's home.
//!
//! Only a few controllers take threads. Processor time is one: in version 1 a thread's id can be written
//! to `tasks`, in version 2 to `cgroup.threads` of a *threaded* cgroup, which shares home's memory and
//! lets no memory controller in (kernel, cgroup-v2.rst, "Threads"). Threads that the container's starts
//! are born there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wasi_bundles::CpuShare;

use super::hierarchy::Hierarchy;
use super::write;
use crate::stats::CgroupVersion;

/// Where the threads of the container `id` are, below `home`. None in a hierarchy that has nothing for
/// threads.
pub(super) fn folder(hierarchy: &Hierarchy, home: &Path, id: &str) -> Option<PathBuf> {
    let takes_threads = match hierarchy.version() {
        CgroupVersion::V1 => hierarchy.has("cpu") || hierarchy.has("cpuacct"),
        CgroupVersion::V2 => true,
    };
    // The prefix keeps an id from being the name of a file of the cgroup.
    takes_threads.then(|| home.join(format!("wasi-{id}")))
}

/// Makes `folder` with its share of the processors, and puts a thread there.
pub(super) fn admit(
    hierarchy: &Hierarchy,
    home: &Path,
    folder: &Path,
    thread: u32,
    cpu: CpuShare,
) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if hierarchy.version() == CgroupVersion::V2 {
        write(&folder.join("cgroup.type"), "threaded")?;
        write(&home.join("cgroup.subtree_control"), "+cpu")?;
    }
    if hierarchy.version() == CgroupVersion::V2 || hierarchy.has("cpu") {
        for (file, value) in settings(hierarchy.version(), cpu) {
            write(&folder.join(file), &value)?;
        }
    }
    enlist(hierarchy, folder, thread)
}

/// Puts a thread into `folder`, which was made by [`admit`].
pub(super) fn enlist(hierarchy: &Hierarchy, folder: &Path, thread: u32) -> io::Result<()> {
    let members = match hierarchy.version() {
        CgroupVersion::V1 => "tasks",
        CgroupVersion::V2 => "cgroup.threads",
    };
    write(&folder.join(members), &thread.to_string())
}

/// Gives a cgroup its shares of the processors, if there are any to give.
pub(super) fn weigh(hierarchy: &Hierarchy, folder: &Path, shares: Option<u64>) -> io::Result<()> {
    let cpu = CpuShare {
        shares,
        ..CpuShare::default()
    };
    if hierarchy.version() == CgroupVersion::V1 && !hierarchy.has("cpu") {
        return Ok(());
    }
    for (file, value) in settings(hierarchy.version(), cpu) {
        write(&folder.join(file), &value)?;
    }
    Ok(())
}

/// The files that give a share of the processors, and what is written to each. A pure function.
fn settings(version: CgroupVersion, cpu: CpuShare) -> Vec<(&'static str, String)> {
    let mut settings = Vec::new();
    match version {
        CgroupVersion::V1 => {
            if let Some(shares) = cpu.shares {
                settings.push(("cpu.shares", shares.to_string()));
            }
            // First: a quota is checked against the period.
            if let Some(period) = cpu.period {
                settings.push(("cpu.cfs_period_us", period.to_string()));
            }
            if let Some(quota) = cpu.quota {
                settings.push(("cpu.cfs_quota_us", quota.to_string()));
            }
        }
        CgroupVersion::V2 => {
            if let Some(shares) = cpu.shares {
                settings.push(("cpu.weight", weight(shares).to_string()));
            }
            if let Some(quota) = cpu.quota {
                let period = cpu.period.unwrap_or(100_000);
                settings.push(("cpu.max", format!("{quota} {period}")));
            }
        }
    }
    settings
}

/// Shares of version 1 (2 to 262144) as a weight of version 2 (1 to 10000): in proportion, as the OCI
/// runtimes do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same_in_their_own_words() {
        let cpu = CpuShare {
            shares: Some(1024),
            quota: Some(50_000),
            period: Some(200_000),
        };
        let v1 = settings(CgroupVersion::V1, cpu);
        let wanted = [
            ("cpu.shares", "1024"),
            ("cpu.cfs_period_us", "200000"),
            ("cpu.cfs_quota_us", "50000"),
        ];
        assert_eq!(v1, wanted.map(|(file, value)| (file, value.to_owned())));
        let v2 = settings(CgroupVersion::V2, cpu);
        let wanted = [("cpu.weight", "39"), ("cpu.max", "50000 200000")];
        assert_eq!(v2, wanted.map(|(file, value)| (file, value.to_owned())));
        let default = CpuShare {
            period: None,
            shares: None,
            ..cpu
        };
        let wanted = [("cpu.max", "50000 100000".to_owned())];
        assert_eq!(settings(CgroupVersion::V2, default), wanted);
    }

    #[test]
    fn weights_are_in_range() {
        assert_eq!(
            [0, 2, 1024, 262_144, u64::MAX].map(weight),
            [1, 1, 39, 10_000, 10_000]
        );
    }
}
