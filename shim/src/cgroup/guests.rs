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

/// The kernel's, in microseconds.
const PERIOD: u64 = 100_000;

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

/// Makes `folder` with its share of the processors, and puts threads there.
pub(super) fn admit(
    hierarchy: &Hierarchy,
    home: &Path,
    folder: &Path,
    threads: &[u32],
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
    apportion(hierarchy, folder, cpu)?;
    threads
        .iter()
        .try_for_each(|thread| enlist(hierarchy, folder, *thread))
}

/// Writes a container's share and quota to its `folder`.
pub(super) fn apportion(hierarchy: &Hierarchy, folder: &Path, cpu: CpuShare) -> io::Result<()> {
    let settings = shares(hierarchy.version(), cpu).into_iter();
    let settings: Vec<_> = settings.chain(quota(hierarchy.version(), cpu)).collect();
    // The kernel checks a period and a quota one by one against those above: the one that makes the share
    // less has to come first.
    let given = give(hierarchy, folder, settings.iter());
    given.or_else(|_| give(hierarchy, folder, settings.iter().rev()))
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
pub(super) fn weigh(hierarchy: &Hierarchy, folder: &Path, cpu: CpuShare) -> io::Result<()> {
    give(hierarchy, folder, shares(hierarchy.version(), cpu).iter())
}

/// Writes to the files that deal out processor time, where there are any.
fn give<'a>(
    hierarchy: &Hierarchy,
    folder: &Path,
    mut settings: impl Iterator<Item = &'a (&'static str, String)>,
) -> io::Result<()> {
    if hierarchy.version() == CgroupVersion::V1 && !hierarchy.has("cpu") {
        return Ok(());
    }
    settings.try_for_each(|(file, value)| write(&folder.join(file), value))
}

/// The file that says the share of the processors beside others, and what is written to it. A pure function.
fn shares(version: CgroupVersion, cpu: CpuShare) -> Option<(&'static str, String)> {
    let shares = cpu.shares?;
    Some(match version {
        CgroupVersion::V1 => ("cpu.shares", shares.to_string()),
        CgroupVersion::V2 => ("cpu.weight", weight(shares).to_string()),
    })
}

/// The files that bound the processor time, and what is written to each. A pure function.
fn quota(version: CgroupVersion, cpu: CpuShare) -> Vec<(&'static str, String)> {
    let period = cpu.period.unwrap_or(PERIOD).to_string();
    let quota = cpu.quota.map(|quota| quota.to_string());
    match version {
        CgroupVersion::V1 => vec![
            ("cpu.cfs_period_us", period),
            ("cpu.cfs_quota_us", quota.unwrap_or_else(|| "-1".to_owned())),
        ],
        CgroupVersion::V2 => {
            let quota = quota.unwrap_or_else(|| "max".to_owned());
            vec![("cpu.max", format!("{quota} {period}"))]
        }
    }
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
        let told = |version, cpu| {
            let told = shares(version, cpu).into_iter().chain(quota(version, cpu));
            let told = told.map(|(file, value)| format!("{file} {value}"));
            told.collect::<Vec<_>>()
        };
        let v1 = [
            "cpu.shares 1024",
            "cpu.cfs_period_us 200000",
            "cpu.cfs_quota_us 50000",
        ];
        assert_eq!(told(CgroupVersion::V1, cpu), v1);
        let v2 = ["cpu.weight 39", "cpu.max 50000 200000"];
        assert_eq!(told(CgroupVersion::V2, cpu), v2);
        let none = CpuShare::default();
        let v1 = ["cpu.cfs_period_us 100000", "cpu.cfs_quota_us -1"];
        assert_eq!(told(CgroupVersion::V1, none), v1);
        assert_eq!(told(CgroupVersion::V2, none), ["cpu.max max 100000"]);
    }

    #[test]
    fn weights_are_in_range() {
        assert_eq!(
            [0, 2, 1024, 262_144, u64::MAX].map(weight),
            [1, 1, 39, 10_000, 10_000]
        );
    }
}
