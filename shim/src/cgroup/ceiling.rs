//! How much memory the kernel leaves this shim: what the limits of its cgroup, and of those above, allow
//! beside what all in them use: guests, the shim itself, a pod's Linux containers.
//!
//! At such a limit the kernel ends a process, and here that is all containers of the shim. So a guest that
//! grows is measured against it first, and ends alone (137, TaskOOM). What a guest has grown by and not yet
//! written to nobody has counted; guests that grow far beyond what they use can still bring the kernel's
//! end about.
//!
//! The kernel is asked again when half of what it has left is spent, or after a while, so that a guest which
//! grows a page at a time costs a look now and then.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasi_runtime::Ceiling;

use super::hierarchy::Hierarchy;
use crate::stats::CgroupVersion;

/// How long an answer of the kernel's holds: others use memory, too.
const FRESH: Duration = Duration::from_millis(10);
/// What guests leave to the shim, in bytes: it has to answer, and to end them. Of a small limit it is
/// [`PART`].
const MARGIN: u64 = 4 << 20;
const PART: u64 = 8;

/// The memory that the kernel leaves.
#[derive(Debug, Default)]
pub struct MemoryCeiling(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The cgroups that may have a limit, the shim's own first.
    levels: Vec<Level>,
    seen: Option<Seen>,
}

/// What was left when the kernel was asked.
#[derive(Debug)]
struct Seen {
    left: u64,
    spent: u64,
    at: Instant,
}

/// The files of one cgroup.
#[derive(Debug)]
struct Level {
    version: CgroupVersion,
    limit: File,
    used: File,
    stat: File,
}

impl MemoryCeiling {
    /// To be called when the shim has come into these folders, on a thread that sees the host's files.
    pub(super) fn moved(&self, places: &[(Hierarchy, PathBuf)]) {
        let counts = places
            .iter()
            .find(|(hierarchy, _)| match hierarchy.version() {
                CgroupVersion::V1 => hierarchy.has("memory"),
                CgroupVersion::V2 => true,
            });
        let levels = counts.into_iter().flat_map(|(hierarchy, own)| {
            let above = own.ancestors();
            above
                .take_while(|folder| folder.starts_with(hierarchy.mount()))
                // The root of version 2 has none.
                .filter_map(|folder| Level::open(hierarchy.version(), folder))
        });
        *self.lock() = State {
            levels: levels.collect(),
            seen: None,
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // What a panic leaves of it is looked for again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ceiling for MemoryCeiling {
    fn passed_by(&self, more: u64) -> Option<u64> {
        let mut state = self.lock();
        let State { levels, seen } = &mut *state;
        if let Some(seen) = seen
            && seen.at.elapsed() < FRESH
            && seen.spent.saturating_add(more) <= seen.left / 2
        {
            seen.spent += more;
            return None;
        }
        let looks = levels.iter().map(|level| level.look(more));
        let (left, limit) = looks.min().unwrap_or((u64::MAX, u64::MAX));
        *seen = Some(Seen {
            left,
            spent: more,
            at: Instant::now(),
        });
        (more > left).then_some(limit)
    }
}

impl Level {
    fn open(version: CgroupVersion, folder: &Path) -> Option<Self> {
        let (limit, used) = match version {
            CgroupVersion::V1 => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            CgroupVersion::V2 => ("memory.max", "memory.current"),
        };
        let open = |name| File::open(folder.join(name)).ok();
        Some(Self {
            version,
            limit: open(limit)?,
            used: open(used)?,
            stat: open("memory.stat")?,
        })
    }

    /// What is left here, and the limit, in bytes. The cache of files is looked at only where `more` needs it to
    /// give way: that takes the kernel longer.
    fn look(&self, more: u64) -> (u64, u64) {
        let number = |file| read(file).trim().parse().ok();
        // `max`, or the cgroup is gone.
        let Some(limit) = number(&self.limit) else {
            return (u64::MAX, u64::MAX);
        };
        let used = number(&self.used).unwrap_or(0);
        let all = left(limit, used, 0);
        if more <= all {
            return (all, limit);
        }
        (
            left(limit, used, cached(self.version, &read(&self.stat))),
            limit,
        )
    }
}

fn read(file: &File) -> String {
    let mut bytes = [0; 8192];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

/// What guests may still take of a limit. A pure function, in bytes.
fn left(limit: u64, used: u64, cached: u64) -> u64 {
    limit
        .saturating_sub(used.saturating_sub(cached))
        .saturating_sub(MARGIN.min(limit / PART))
}

/// The cache of files in a `memory.stat`, which the kernel drops before it ends anyone, in bytes.
fn cached(version: CgroupVersion, stat: &str) -> u64 {
    let names = match version {
        // With the cgroups below it, as its usage.
        CgroupVersion::V1 => ["total_inactive_file", "total_active_file"],
        CgroupVersion::V2 => ["inactive_file", "active_file"],
    };
    let fields = stat.lines().filter_map(|line| line.split_once(' '));
    let files = fields.filter(|(name, _)| names.contains(name));
    files
        .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A cgroup as the kernel shows it.
    fn shown(folder: &Path, limit: &str, used: u64, cached: u64) {
        let put = |name, text: String| fs::write(folder.join(name), text).unwrap();
        put("memory.max", format!("{limit}\n"));
        put("memory.current", format!("{used}\n"));
        put(
            "memory.stat",
            format!("anon 5\ninactive_file {cached}\nactive_file 0\n"),
        );
    }

    fn ceiling(folders: &[&Path]) -> MemoryCeiling {
        let levels = folders
            .iter()
            .map(|folder| Level::open(CgroupVersion::V2, folder).unwrap());
        MemoryCeiling(Mutex::new(State {
            levels: levels.collect(),
            seen: None,
        }))
    }

    #[test]
    fn the_cgroup_with_the_least_left_decides() {
        let (own, pod) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        shown(own.path(), "max", 90 * MIB, 0);
        shown(pod.path(), "134217728", 100 * MIB, 0);
        let ceiling = ceiling(&[own.path(), pod.path()]);
        assert_eq!(ceiling.passed_by(24 * MIB), None);
        assert_eq!(ceiling.passed_by(24 * MIB + 1), Some(128 * MIB));
        // The kernel would drop them.
        shown(pod.path(), "134217728", 100 * MIB, 50 * MIB);
        assert_eq!(ceiling.passed_by(74 * MIB), None);
        assert_eq!(ceiling.passed_by(75 * MIB), Some(128 * MIB));
        shown(pod.path(), "max", 100 * MIB, 0);
        assert_eq!(ceiling.passed_by(1 << 40), None);
    }

    #[test]
    fn the_kernel_is_asked_again_before_all_is_spent() {
        let pod = tempfile::tempdir().unwrap();
        shown(pod.path(), "134217728", 24 * MIB, 0);
        let ceiling = ceiling(&[pod.path()]);
        assert_eq!(ceiling.passed_by(MIB), None);
        shown(pod.path(), "134217728", 128 * MIB, 0);
        assert_eq!(ceiling.passed_by(50 * MIB), Some(128 * MIB));
    }

    #[test]
    fn nothing_is_left_above_the_limit_and_little_of_a_small_one_is_the_shims() {
        assert_eq!(left(100, 200, 0), 0);
        assert_eq!(left(16 * MIB, 0, 0), 14 * MIB);
        assert_eq!(left(1 << 30, 0, 0), (1 << 30) - MARGIN);
        // A cache that is larger than the usage was read later.
        assert_eq!(left(800, 100, 200), 700);
    }

    #[test]
    fn version_1_counts_what_is_below() {
        let stat = "inactive_file 1\ntotal_inactive_file 20\ntotal_active_file 300\n";
        assert_eq!(cached(CgroupVersion::V1, stat), 320);
    }

    #[test]
    fn those_above_count_up_to_what_is_mounted() {
        let host = tempfile::tempdir().unwrap();
        let mount = host.path().join("cgroup");
        let own = mount.join("pod/shim");
        fs::create_dir_all(&own).unwrap();
        shown(host.path(), "1", 0, 0);
        shown(&mount.join("pod"), "1048576", 0, 0);
        shown(&own, "max", 0, 0);
        let hierarchy = Hierarchy::unified(&mount);
        let ceiling = MemoryCeiling::default();
        assert_eq!(ceiling.passed_by(1 << 40), None);
        ceiling.moved(&[(hierarchy, own)]);
        assert_eq!(ceiling.passed_by(1), None);
        assert_eq!(ceiling.passed_by(MIB), Some(MIB));
    }
}
