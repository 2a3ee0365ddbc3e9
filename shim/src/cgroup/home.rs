//! The cgroup that the shim lives in, and its way there.
//!
//! Who moves a process has the kernel wait until no thread of it is about to be born or to go, which
//! takes some milliseconds (`cgroup_threadgroup_rwsem`, a period of RCU). A process that has one thread
//! is spared that where it may move as a thread (cgroup version 1, `tasks`; Linux 5.5).

use std::io;
use std::path::{Path, PathBuf};

use wasi_bundles::CpuShare;

use super::guests;
use super::hierarchy::{Hierarchy, Member};
use super::made::{record, remove};

/// Where the shim lives now.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// Its folders, one for each hierarchy; none if it is none of ours to divide.
    pub(super) folders: Vec<(Hierarchy, PathBuf)>,
    /// Which of them, and of those above, were not there, and are made.
    pub(super) missing: Vec<PathBuf>,
    /// Whether it is that of several containers.
    pub(super) shared: bool,
    /// Whether no container has asked for it yet.
    pub(super) foreseen: bool,
}

impl Home {
    /// The cgroup `path`, in every hierarchy.
    pub(super) fn new(hierarchies: Vec<Hierarchy>, path: &Path) -> Self {
        let folders: Vec<_> = hierarchies
            .into_iter()
            .map(|hierarchy| {
                let folder = hierarchy.mount().join(path);
                (hierarchy, folder)
            })
            .collect();
        let missing = folders.iter().flat_map(|(hierarchy, folder)| {
            let above = folder.ancestors().take_while(|up| *up != hierarchy.mount());
            let mut missing: Vec<PathBuf> = above
                .filter(|up| !up.exists())
                .map(Path::to_owned)
                .collect();
            missing.reverse();
            missing
        });
        let missing = missing.collect();
        Self {
            folders,
            missing,
            shared: false,
            foreseen: false,
        }
    }

    /// Makes what is missing, and moves this process there. After an error it is to be left as after none.
    pub(super) fn enter(&self, bundle: &Path) -> io::Result<()> {
        if !self.missing.is_empty() {
            record(bundle, &self.missing)?;
        }
        let member = Member::this_process();
        let mut folders = self.folders.iter();
        folders.try_for_each(|(hierarchy, folder)| hierarchy.join(folder, member))
    }

    /// Removes what was made, when nobody is in it.
    pub(super) fn remove(&self) {
        self.missing.iter().rev().for_each(|folder| remove(folder));
    }

    /// The cgroups that [`Cgroups::admit`] made for the threads of a container.
    pub(super) fn guests<'a>(&'a self, id: &str) -> impl Iterator<Item = (&'a Hierarchy, PathBuf)> {
        let folders = self.folders.iter().filter_map(move |(hierarchy, folder)| {
            Some((hierarchy, guests::folder(hierarchy, folder, id)?))
        });
        folders.filter(|(_, guests)| guests.is_dir())
    }

    /// What a container's threads are given of what it asks for. The shares of one that has home for itself are
    /// home's: they are relative to other shims.
    pub(super) fn share_below(&self, cpu: CpuShare) -> CpuShare {
        let shares = cpu.shares.filter(|_| self.shared);
        CpuShare { shares, ..cpu }
    }

    /// Gives a home that was made its shares of the processors.
    pub(super) fn weigh(&self, cpu: CpuShare) {
        for (hierarchy, folder) in &self.folders {
            if !self.missing.contains(folder) {
                continue;
            }
            if let Err(error) = guests::weigh(hierarchy, folder, cpu) {
                log::warn!("no shares of the processors: {error}");
            }
        }
    }
}
