//! What a shim could leave behind on a machine: a process, a mount, a socket, a network namespace.
//!
//! Two snapshots tell what is new between them. The machine may be in use: only what can stem from a shim is
//! looked at, and what was there before is not ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};

use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::poll;
use crate::processes::Process;

/// Where shims put their sockets.
const SOCKETS: &str = "/run/containerd/s";

/// A shim that was told to end has this long to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// What there is at one moment: a stable name of each thing, and how to describe it.
#[derive(Clone, Debug)]
pub struct Leftovers {
    things: BTreeMap<String, String>,
}

impl Leftovers {
    /// Looks at the machine.
    #[must_use]
    pub fn snapshot() -> Self {
        let mut things = BTreeMap::new();
        for shim in Process::shims() {
            things.insert(format!("process {}", shim.pid), shim.command);
        }
        mounts(&mut things);
        sockets(&mut things);
        network_namespaces(&mut things);
        Self { things }
    }

    /// What is there now and was not in this snapshot, one line each.
    #[must_use]
    pub fn since(&self) -> Vec<String> {
        let now = Self::snapshot().things;
        now.iter()
            .filter(|(name, _)| !self.things.contains_key(*name))
            .map(|(name, description)| format!("{name}: {description}"))
            .collect()
    }

    /// Demands that nothing is new.
    ///
    /// # Errors
    ///
    /// When something still is after a grace period; names each thing.
    pub fn assert_none_since(&self) -> Result<()> {
        poll::until("nothing is left behind", GRACE, || match self.since() {
            new if new.is_empty() => Ok(()),
            new => Err(format!("{} left behind\n  {}", new.len(), new.join("\n  "))),
        })
        .context("leftovers")
    }
}

fn mounts(things: &mut BTreeMap<String, String>) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if let [id, _, _, root, point, ..] = fields[..] {
            let kind = line.split_once(" - ").map_or("", |(_, rest)| rest);
            things.insert(
                format!("mount {id} at {point}"),
                format!("{root} of {kind}"),
            );
        }
    }
}

fn sockets(things: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(Path::new(SOCKETS))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let listens = std::os::unix::net::UnixStream::connect(&path).is_ok();
        let state = if listens {
            "somebody listens"
        } else {
            "nobody listens"
        };
        things.insert(format!("socket {}", path.display()), state.to_owned());
    }
}

fn network_namespaces(things: &mut BTreeMap<String, String>) {
    for process in Process::all() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid));
        for task in tasks.into_iter().flatten().flatten() {
            if let Ok(namespace) = std::fs::read_link(task.path().join("ns/net")) {
                let holder = format!(
                    "held by thread {} of {}",
                    task.file_name().display(),
                    process.command
                );
                things
                    .entry(format!("network namespace {}", namespace.display()))
                    .or_insert(holder);
            }
        }
    }
}

/// Ends what tests left, through the front door, so that shims and snapshots go as they should.
pub(crate) fn end_containers(containerd: &Containerd) -> Result<()> {
    if i32::try_from(containerd.pid())
        .ok()
        .and_then(Process::look)
        .is_none()
    {
        anyhow::bail!("containerd {} is not running", containerd.version());
    }
    if containerd.is_node() {
        Cri::connect(containerd)?.remove_all()?;
    }
    let listed = containerd
        .ctr(["containers", "list", "--quiet"])
        .success()?;
    for id in listed.stdout.split_whitespace() {
        let task = containerd.task(id);
        if task.status()?.is_some() {
            // Whatever refuses is ended by signal below, and reported as a leftover if not even that helps.
            drop(
                containerd
                    .ctr(["task", "delete", "--force", id])
                    .patience(Duration::from_secs(10))
                    .output(),
            );
        }
        drop(containerd.ctr(["container", "delete", id]).output()?);
    }
    Ok(())
}

/// Removes what a private containerd has outside of its folder, and the mounts inside: runc's state of its
/// namespace, and the cgroups below `tag`.
pub(crate) fn sweep(folder: &Path, namespace: &str, tag: &str) -> Result<()> {
    unmount_below(folder)?;
    let runc = Path::new("/run/containerd/runc").join(namespace);
    // That of Kubernetes is shared with whoever runs it here; runc has left nothing of its own in it.
    if namespace == tag && runc.exists() {
        std::fs::remove_dir_all(&runc).with_context(|| format!("remove {}", runc.display()))?;
    }
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let groups = hierarchies.map(|hierarchy| hierarchy.path().join(tag));
    let groups: Vec<_> = groups.chain([root.join(tag)]).collect();
    // Those that were killed just now are in them until they are gone.
    poll::until("its cgroups are empty", GRACE, || {
        groups.iter().for_each(|group| remove_cgroups(group));
        let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    })
}

/// A cgroup with those in it: pods have their containers'.
fn remove_cgroups(group: &Path) {
    for inner in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            remove_cgroups(&inner.path());
        }
    }
    drop(std::fs::remove_dir(group));
}

/// Unmounts everything in a folder, the last mount first.
pub(crate) fn unmount_below(folder: &Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let points = table
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(folder)) {
        unmount(point, UnmountFlags::DETACH).with_context(|| format!("unmount {point}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_means_nothing_left() {
        Leftovers::snapshot().assert_none_since().unwrap();
    }
}
