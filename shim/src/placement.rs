//! Where the kernel has the containers: in which cgroups, and with what score when memory runs out.
//!
//! Both are about processes, and the shim is one for all its containers: [`crate::cgroup`] and
//! [`crate::oom_score`] say what that means. What blocks of it is done beside the control
//! thread, and only where there is something to do: a thread of the pool stays for 10 s.

use std::sync::Arc;

use tokio::task::spawn_blocking;
use wasi_bundles::{Bundle, Cgroup, CpuShare};

use crate::Error;
use crate::cgroup::{Cgroups, MemoryCeiling, Origin};
use crate::oom_score::OomScore;

/// Places containers. Cloning shares what it knows.
#[derive(Debug, Clone)]
pub struct Placement {
    cgroups: Cgroups,
    oom_score: OomScore,
}

impl Placement {
    /// Of no containers yet.
    #[must_use]
    pub fn new(cgroups: Cgroups, oom_score: OomScore) -> Self {
        Self { cgroups, oom_score }
    }

    /// Where the shim came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.cgroups.origin()
    }

    /// The memory that the kernel leaves to containers.
    #[must_use]
    pub fn ceiling(&self) -> Arc<MemoryCeiling> {
        self.cgroups.ceiling()
    }

    /// Moves the shim to where a container belongs, as [`Cgroups::join`] has it.
    ///
    /// # Errors
    ///
    /// [`Error::Cgroup`].
    pub async fn join(&self, bundle: &Bundle, cgroup: &Cgroup) -> Result<(), Error> {
        if cgroup.path.is_none() {
            return Ok(());
        }
        let (cgroups, bundle, cgroup) = (self.cgroups.clone(), bundle.clone(), cgroup.clone());
        let joined = spawn_blocking(move || cgroups.join(&bundle, &cgroup)).await;
        joined.unwrap_or(Err(Error::Panicked))
    }

    /// Makes way for a Linux container, as [`Cgroups::vacate`] has it.
    pub async fn vacate(&self) {
        if !self.cgroups.is_foreseen() {
            return;
        }
        let cgroups = self.cgroups.clone();
        drop(spawn_blocking(move || cgroups.vacate()).await);
    }

    /// Gives a container, by its first threads, its share of the processors, and the shim its score.
    pub async fn admit(&self, bundle: &Bundle, id: &str, threads: Vec<u32>, cpu: CpuShare) {
        let process = bundle.spec().process().as_ref();
        if let Some(score) = process.and_then(|process| process.oom_score_adj())
            && let Err(error) = self.oom_score.ask(id, score)
        {
            log::warn!("cannot set the oom_score_adj {score} of container {id}: {error}");
        }
        if !self.cgroups.divides() {
            return;
        }
        let (cgroups, id, bundle) = (self.cgroups.clone(), id.to_owned(), bundle.dir().to_owned());
        // A panic was logged by its hook.
        drop(spawn_blocking(move || cgroups.admit(&id, &bundle, &threads, cpu)).await);
    }

    /// Gives a container another share. Of two changes the second has to wait for the first.
    pub async fn reapportion(&self, id: &str, cpu: CpuShare) {
        if !self.cgroups.divides() {
            return;
        }
        let (cgroups, id) = (self.cgroups.clone(), id.to_owned());
        drop(spawn_blocking(move || cgroups.reapportion(&id, cpu)).await);
    }

    /// Gives another thread of a container its part of that share.
    pub async fn enlist(&self, id: &str, thread: u32) {
        if !self.cgroups.divides() {
            return;
        }
        let (cgroups, id) = (self.cgroups.clone(), id.to_owned());
        drop(spawn_blocking(move || cgroups.enlist(&id, thread)).await);
    }

    /// Undoes [`Self::admit`], when the container's threads are gone.
    pub async fn clear(&self, id: &str) {
        if let Err(error) = self.oom_score.forget(id) {
            log::warn!("cannot lower the oom_score_adj after container {id}: {error}");
        }
        if !self.cgroups.divides() {
            return;
        }
        let (cgroups, id) = (self.cgroups.clone(), id.to_owned());
        drop(spawn_blocking(move || cgroups.dismiss(&id)).await);
    }
}
