//! The container's thread. Everything about the container that Linux knows is an attribute of this
//! thread: its namespaces, its root, and its id, which containerd is told as the task's pid.
//!
//! It is born, walks straight through the making of the container, says that it is ready, and parks.
//! Released, it polls the guest until there is an outcome. Dropped instead, or failing on the way, it
//! ends, and the kernel frees the namespaces and mounts with it: nothing has to be undone.
//!
//! ```text
//! namespaces ─► mounts ─► gate ─► hooks ─► entrypoint ─► artifact ─► link ─► root ─► user ─► parked ─► guest ─► outcome
//! └───────────────────────── Create ──────────────────────────────────────┘   └── Start ─────────┘
//! ```
//!
//! The sandbox of a pod has one, too, with nothing to run on it ([`Holder`]).
//!
//! An exec has a thread of its own, which does the same but for the first steps: it joins the
//! [`Place`] that the container's made.

mod checkpoint;
mod crew;
mod holder;
mod probe;
mod thread;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tokio::runtime::Runtime;
use wasi_bundles::{Entrypoint, Found, Mount, Plan, Process};
use wasi_runtime::Budget;

pub use self::checkpoint::{Asked, Checkpoint, Gate};
use self::crew::Crew;
pub use self::holder::Holder;
pub use self::probe::Probe;
#[cfg(test)]
pub(crate) use self::thread::idle;
use self::thread::{Made, deliver};
pub use self::thread::{Parked, Running};
use crate::namespaces::{self, Handles};
use crate::place::{Directories, Place};
use crate::pool::Pool;
use crate::program::{Image, Program};
use crate::programs::Programs;
use crate::rootfs::Rootfs;
use crate::stdio::GuestStdio;
use crate::{Error, credentials, guest};

/// How many file operations and name lookups of a guest run at once. One that no signal ends keeps its
/// thread until the shim ends, so this bounds what a guest can leave behind.
const FILES: usize = 16;

/// What a container's thread is made from.
#[derive(Debug)]
pub struct Birth {
    /// What to run, where.
    pub plan: Plan,
    /// containerd's mounts for the root file system.
    pub layers: Vec<Mount>,
    /// Where it gets the guest's streams.
    pub gate: Gate,
    /// Where its program is if none of its files is.
    pub image: Image,
    /// Where its code comes from.
    pub programs: Arc<Programs>,
    /// Where it waits for its hooks; not at all if it has none.
    pub checkpoint: Option<Checkpoint>,
    /// What its guest may use.
    pub budget: Budget,
}

/// What the thread of an exec is made from.
#[derive(Debug)]
pub struct Joining {
    /// The container.
    pub place: Arc<Place>,
    /// What to run in it.
    pub process: Process,
    /// The guest's streams.
    pub stdio: GuestStdio,
}

impl Birth {
    /// Makes the thread and waits until it is parked.
    ///
    /// # Errors
    ///
    /// What stood in the way of the container; the thread is gone then, and with it all it had made.
    pub async fn deliver(self, id: &str) -> Result<Parked, Error> {
        deliver(id, || self.make()).await
    }

    /// On the new thread: from the host's world into the container's.
    fn make(self) -> Result<Made, Error> {
        namespaces::enter(&self.plan)?;
        let namespaces = Handles::of_this_thread()?;
        let (plan, process) = (&self.plan, self.plan.process());
        let mut stdio = None;
        let rootfs = Rootfs::mount(plan, &self.layers, |tree| {
            unless_for_linux(tree, plan)?;
            stdio = Some(self.gate.pass()?);
            match self.checkpoint {
                None => Ok(()),
                Some(checkpoint) => checkpoint.pass(),
            }
        })?;
        let stdio = stdio.expect("who mounts calls back");
        // Once more: hooks have mounted and written since, and masked paths are masked.
        let found = Entrypoint::resolve(rootfs.tree().as_fd(), process);
        let program = Program::find(found, process, &self.image)?;
        let directories = Directories(rootfs.preopens(plan)?);
        let (given, budget) = (directories.share()?, self.budget.clone());
        let mut guest = guest::guest(plan, process, rootfs.tree().as_fd(), given, stdio, budget);
        guest.listeners = guest::listeners(plan)?;
        let (mut artifact, layer) = program.load(&self.programs, plan)?;
        let root = rootfs.tree().as_fd();
        guest.http = guest::service(plan, root, &artifact, program.export())?;
        if let Some(service) = &guest.http {
            artifact = self.programs.pooled(artifact, service.requests)?;
        }
        let mut prepared = program.prepare(&artifact, guest)?;
        rootfs.enter()?;
        let capabilities = process.capabilities.iter().flatten().map(String::as_str);
        credentials::assume(&process.user, capabilities)?;
        let (runtime, pool) = runtime(&self.budget)?;
        let crew = Crew::new(prepared.workers(), &self.budget)?;
        let place = Arc::new(Place {
            plan: self.plan,
            program: program.path().to_owned(),
            layer,
            tree: rootfs.into_tree(),
            directories,
            namespaces,
            programs: self.programs,
            budget: self.budget,
        });
        Ok(Made::guest(place, prepared, runtime, pool, crew))
    }
}

impl Joining {
    /// Makes the thread and waits until it is parked. When this is given up meanwhile, the thread ends.
    ///
    /// # Errors
    ///
    /// What stood in the way of the exec; the thread is gone then.
    pub async fn deliver(self, id: &str) -> Result<Parked, Error> {
        deliver(id, || self.make()).await
    }

    /// On the new thread. What takes long, to load the program, comes before it joins the namespaces.
    fn make(self) -> Result<Made, Error> {
        let Self { place, stdio, .. } = self;
        let process = place.complete(self.process);
        place.require_directory(&process)?;
        let (plan, given) = (&place.plan, place.directories.share()?);
        let program = Program::find_again(&place, place.tree.as_fd(), &process)?;
        let guest = guest::guest(
            plan,
            &process,
            place.tree.as_fd(),
            given,
            stdio,
            place.budget.clone(),
        );
        let (artifact, _) = program.load(&place.programs, plan)?;
        let prepared = program.prepare(&artifact, guest)?;
        place.join(&process)?;
        let (runtime, pool) = runtime(&place.budget)?;
        let crew = Crew::default();
        Ok(Made::guest(place, prepared, runtime, pool, crew))
    }
}

/// Before anything is done for it: a Linux container is the business of another shim. Whatever else is
/// wrong with the program is found when it is loaded; a hook may bring it.
fn unless_for_linux(tree: BorrowedFd<'_>, plan: &Plan) -> Result<(), Error> {
    match Entrypoint::find(tree, plan.process(), plan.claim()) {
        Ok(Found::Linux { path, why: what }) => {
            Err(Error::LinuxProgram(wasi_bundles::Error::NotWasm {
                path,
                what,
            }))
        }
        Ok(Found::Wasm(_)) | Err(_) => Ok(()),
    }
}

/// What polls the guest; the threads it starts are the calling one's children in all that confines it.
fn runtime(budget: &Budget) -> Result<(Runtime, Pool), Error> {
    let pool = Pool::default();
    let runtime = pool
        .runtime(FILES, budget)
        .map_err(Error::host("make the runtime that polls the guest"))?;
    Ok((runtime, pool))
}
