//! The shim's cgroup.
//!
//! A cgroup holds processes, and a shim is one process for all its containers. So the shim lives in one
//! cgroup, its *home*, where the kernel counts what the containers use and holds it under the limits of
//! the cgroups above, a pod's for example. The first container with a `linux.cgroupsPath` decides:
//!
//! | the shim's | home |
//! |---|---|
//! | only container | its cgroup |
//! | first of a pod or a group | the one beside it that has the name of the pod or group: the pause container's |
//! | `ShimCgroup` option | that, whatever containers ask for; it must exist |
//!
//! Limits are not written there: memory and processor time of each container are the engine's to bound,
//! and a limit on the process would hit the thread that answers containerd. The one thing that Linux
//! does for threads is dealing out processor time: a container with a quota has a cgroup of its own
//! below home for its threads, and so has one with shares beside others. The shares of an only
//! container are home's.
//!
//! What was made is removed: that of a container at its Delete, home when the shim ends, which moves
//! back to where it came from for that. What a killed shim leaves is listed in the bundle
//! (`cgroups.json`), before it is made, for `delete`. Folders that were there before are let be; rmdir
//! itself spares one that is in use.

mod ceiling;
mod guests;
mod hierarchy;
mod home;
mod made;
mod origin;
mod usage;

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use wasi_bundles::{Bundle, Cgroup, CgroupPath, CpuShare, Plan};

pub use self::ceiling::MemoryCeiling;
use self::hierarchy::Member;
use self::home::Home;
pub use self::made::sweep;
use self::made::{record, remove};
pub use self::origin::Origin;
pub use self::usage::usage;
use crate::Error;
use crate::daemon::group_of;
use crate::stats::CgroupVersion;

/// The cgroups of a shim. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Cgroups {
    home: Arc<Mutex<Option<Home>>>,
    origin: Origin,
    ceiling: Arc<MemoryCeiling>,
}

/// The cgroup that the first container of a shim gives it; none if it asks for none. A pure function of
/// the bundle's group, if it has one, and what it asks for.
#[must_use]
pub fn home_of(cgroup: &Cgroup, group: Option<&str>) -> Option<CgroupPath> {
    let path = cgroup.path.as_ref()?;
    Some(match group {
        None => path.clone(),
        Some(group) => path.named(group),
    })
}

impl Cgroups {
    /// Those of a shim that was put into a cgroup by its `ShimCgroup` option, and stays there.
    #[must_use]
    pub fn settled() -> Self {
        let cgroups = Self::default();
        *cgroups.lock() = Some(Home {
            shared: true,
            ..Home::default()
        });
        let hierarchies = hierarchy::mounted().unwrap_or_default().into_iter();
        let places: Vec<_> = hierarchies
            .filter_map(|hierarchy| hierarchy.place().map(|folder| (hierarchy, folder)))
            .collect();
        cgroups.ceiling.moved(&places);
        cgroups
    }

    /// Those of a shim whose first container is that of `bundle`, if that is known (the Sandbox API has none
    /// before Create): it is moved to the home that it will be given, before it has other threads. With version 1
    /// it need not wait then; version 2 moves whole processes only, and the wait is better spent beside what else
    /// Create does. What is wrong with the home [`Self::join`] will say.
    #[must_use]
    pub fn foreseen(bundle: Option<&Bundle>) -> Self {
        let cgroups = Self::default();
        let bundle = bundle.filter(|_| CgroupVersion::of_host() == CgroupVersion::V1);
        let Some((bundle, plan)) =
            bundle.and_then(|bundle| Some((bundle, Plan::new(bundle).ok()?)))
        else {
            return cgroups;
        };
        match cgroups.find(bundle, plan.cgroup()) {
            Ok(home) => {
                let foreseen = |home| Home {
                    foreseen: true,
                    ..home
                };
                *cgroups.lock() = home.map(foreseen);
            }
            Err(error) => log::debug!("not yet: {error}"),
        }
        cgroups
    }

    /// Where the shim came from, for processes that it starts.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin.clone()
    }

    /// What the kernel leaves to the shim where it lives.
    #[must_use]
    pub fn ceiling(&self) -> Arc<MemoryCeiling> {
        Arc::clone(&self.ceiling)
    }

    /// Whether nobody has asked for the home yet. Never waits: while it is being decided somebody has.
    #[must_use]
    pub fn is_foreseen(&self) -> bool {
        let home = self.home.try_lock();
        home.is_ok_and(|home| home.as_ref().is_some_and(|home| home.foreseen))
    }

    /// Goes back from a home that was foreseen: the first container is a Linux one, whose cgroup that is.
    /// Blocks for some milliseconds.
    pub fn vacate(&self) {
        let mut home = self.lock();
        if let Some(foreseen) = home.take_if(|home| home.foreseen) {
            self.abandon(&foreseen);
            self.ceiling.moved(&[]);
        }
    }

    /// Moves the shim to the home that the container of `bundle` gives it, unless it has one. Blocks for
    /// some milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::Cgroup`]; nothing that was made is left then.
    pub fn join(&self, bundle: &Bundle, cgroup: &Cgroup) -> Result<(), Error> {
        let mut home = self.lock();
        let Some(home) = &mut *home else {
            *home = self.find(bundle, cgroup)?;
            return Ok(());
        };
        home.foreseen = false;
        if home.missing.is_empty() {
            return Ok(());
        }
        // For the `delete` of this one, which may be the last.
        record(bundle.dir(), &home.missing).map_err(Error::host("record the cgroups"))
    }

    /// Moves the shim to the home that the container of `bundle` gives it, if it asks for one.
    fn find(&self, bundle: &Bundle, cgroup: &Cgroup) -> Result<Option<Home>, Error> {
        let Some(path) = home_of(cgroup, group_of(bundle)) else {
            return Ok(None);
        };
        let failed = |source| Error::Cgroup {
            path: path.to_string(),
            source,
        };
        let hierarchies = hierarchy::mounted().map_err(failed)?;
        self.origin.remember(&hierarchies);
        let mut home = Home::new(hierarchies, &path.folder());
        if let Err(error) = home.enter(bundle.dir()) {
            self.abandon(&home);
            return Err(failed(error));
        }
        home.shared = group_of(bundle).is_some();
        if !home.shared {
            home.weigh(cgroup.cpu);
        }
        self.ceiling.moved(&home.folders);
        log::info!("the shim lives in the cgroup {path}");
        Ok(Some(home))
    }

    /// Whether there is a home to have cgroups below. Never waits: while it is being made there is.
    #[must_use]
    pub fn divides(&self) -> bool {
        let divides = |home: &Home| !home.folders.is_empty();
        let home = self.home.try_lock();
        home.map_or(true, |home| home.as_ref().is_some_and(divides))
    }

    /// Gives the threads of a container their own cgroup, by its first ones. Where that is not possible,
    /// that is logged: the engine's own limits hold.
    pub fn admit(&self, id: &str, bundle: &Path, threads: &[u32], cpu: CpuShare) {
        let home = self.lock();
        let Some(home) = &*home else { return };
        let cpu = home.share_below(cpu);
        if cpu.shares.is_none() && cpu.quota.is_none() {
            return;
        }
        let places = home.folders.iter().filter_map(|(hierarchy, folder)| {
            Some((hierarchy, folder, guests::folder(hierarchy, folder, id)?))
        });
        let places: Vec<_> = places.collect();
        let mut made = home.missing.clone();
        made.extend(places.iter().map(|(_, _, guests)| guests.clone()));
        if let Err(error) = record(bundle, &made) {
            log::warn!("no share of the processors for container {id}: {error}");
            return;
        }
        for (hierarchy, folder, guests) in places {
            if let Err(error) = guests::admit(hierarchy, folder, &guests, threads, cpu) {
                drop(fs::remove_dir(&guests));
                log::warn!("no share of the processors for container {id}: {error}");
            }
        }
    }

    /// Gives a container other shares and another quota, after an `Update`. The threads that have no cgroup
    /// of their own, because no share was asked for when they were made, are not given one: the engine's
    /// quota holds for these alone.
    pub fn reapportion(&self, id: &str, cpu: CpuShare) {
        let home = self.lock();
        let Some(home) = &*home else { return };
        if !home.shared {
            home.weigh(cpu);
        }
        let cpu = home.share_below(cpu);
        for (hierarchy, guests) in home.guests(id) {
            if let Err(error) = guests::apportion(hierarchy, &guests, cpu) {
                log::warn!("container {id} keeps its old share of the processors: {error}");
            }
        }
    }

    /// Puts another thread of a container into the cgroup that [`Self::admit`] made, if it made one: a
    /// thread is born where the one is that started it, and an exec's was started by none of the
    /// container's.
    pub fn enlist(&self, id: &str, thread: u32) {
        let home = self.lock();
        for (hierarchy, guests) in home.iter().flat_map(|home| home.guests(id)) {
            if let Err(error) = guests::enlist(hierarchy, &guests, thread) {
                log::warn!("an exec of container {id} does not share its processor time: {error}");
            }
        }
    }

    /// Removes what [`Self::admit`] made, when the threads are gone.
    pub fn dismiss(&self, id: &str) {
        let home = self.lock();
        for (_, guests) in home.iter().flat_map(|home| home.guests(id)) {
            remove(&guests);
        }
    }

    /// Leaves home, for good, and removes what was made of it.
    pub fn leave(&self) {
        if let Some(home) = self.lock().take()
            && !home.missing.is_empty()
        {
            self.abandon(&home);
        }
    }

    fn abandon(&self, home: &Home) {
        self.origin.go_back();
        home.remove();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Home>> {
        // It is set in one piece.
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a process into a cgroup that exists, in each hierarchy that has it.
///
/// # Errors
///
/// When none has it, or it cannot be joined.
pub fn place(process: u32, path: &str) -> io::Result<()> {
    let relative = Path::new(path.trim_start_matches('/'));
    let mut placed = false;
    for hierarchy in hierarchy::mounted()? {
        let folder = hierarchy.mount().join(relative);
        if folder.is_dir() {
            hierarchy.join(&folder, Member::Process(process))?;
            placed = true;
        }
    }
    if placed {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no hierarchy has it; make it first",
        ))
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| {
        let told = format!("write {text} to {}: {error}", file.display());
        io::Error::new(error.kind(), told)
    };
    let mut options = OpenOptions::new();
    let opened = options.write(true).open(file).map_err(named)?;
    io::Write::write_all(&mut &opened, text.as_bytes()).map_err(named)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn home(path: &str, group: Option<&str>) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs" },
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/app.wasm"] },
            "linux": { "cgroupsPath": path },
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        let plan = wasi_bundles::Plan::new(&bundle).unwrap();
        home_of(plan.cgroup(), group).map(|path| path.to_string())
    }

    #[test]
    fn a_container_of_its_own_decides_for_the_shim() {
        assert_eq!(home("/default/web", None).unwrap(), "/default/web");
        assert_eq!(home("", None), None);
    }

    #[test]
    fn who_was_put_somewhere_makes_way_for_nobody() {
        let cgroups = Cgroups::settled();
        assert!(!cgroups.is_foreseen());
        cgroups.vacate();
        assert!(cgroups.lock().is_some());
    }

    #[test]
    fn a_pods_shim_lives_where_its_pause_container_would() {
        let pod = Some("pod7");
        assert_eq!(
            home("/kubepods/podX/web", pod).unwrap(),
            "/kubepods/podX/pod7"
        );
        // The sandbox itself, whose id is the pod's.
        assert_eq!(
            home("/kubepods/podX/pod7", pod).unwrap(),
            "/kubepods/podX/pod7"
        );
        assert_eq!(
            home("kubepods-podX.slice:cri-containerd:web", pod).unwrap(),
            "/kubepods.slice/kubepods-podX.slice/cri-containerd-pod7.scope"
        );
        assert_eq!(home("", pod), None);
    }
}
