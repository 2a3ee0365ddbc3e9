//! The container's thread. Everything about the container that Linux knows is an attribute of this
//! thread: its namespaces, its root, and its id, which containerd is told as the task's pid.
//!
//! It is born, walks straight through the making of the container, says that it is ready, and parks.
//! Released, it polls the guest until there is an outcome. Dropped instead, or failing on the way, it
//! ends, and the kernel frees the namespaces and mounts with it: nothing has to be undone.
//!
//! ```text
//! namespaces ─► mounts ─► hooks ─► entrypoint ─► artifact ─► link ─► root ─► user ─► parked ─► guest ─► outcome
//! └───────────────────────── Create ──────────────────────────────────────┘   └── Start ─────────┘
//! ```
//!
//! An exec has a thread of its own, which does the same but for the first steps: it joins the
//! [`Place`] that the container's made.

mod checkpoint;
mod thread;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::runtime::Runtime;
use wasi_bundles::{Entrypoint, Mount, Plan, Process};
use wasi_runtime::{Budget, Guest, Prepared};

pub use self::checkpoint::Checkpoint;
pub use self::thread::{Ended, Parked, Running};
use self::thread::{Made, deliver};
use crate::namespaces::{self, Handles};
use crate::place::Place;
use crate::programs::Programs;
use crate::rootfs::Rootfs;
use crate::stdio::GuestStdio;
use crate::{Error, credentials, guest};

/// How many file operations and name lookups of a guest run at once. One that never returns (the open
/// of a FIFO that nobody writes to) keeps its thread until the shim ends, so this bounds what a guest
/// can leave behind.
const FILES: usize = 16;

/// What a container's thread is made from.
#[derive(Debug)]
pub struct Birth {
    /// What to run, where.
    pub plan: Plan,
    /// containerd's mounts for the root file system.
    pub layers: Vec<Mount>,
    /// The guest's streams.
    pub stdio: GuestStdio,
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
        let rootfs = Rootfs::mount(&self.plan, &self.layers, || match self.checkpoint {
            None => Ok(()),
            Some(checkpoint) => checkpoint.pass(),
        })?;
        let (plan, process) = (&self.plan, self.plan.process());
        let tree = rootfs.tree().as_fd();
        let entrypoint = Entrypoint::resolve(tree, process)?;
        let (programs, budget) = (&self.programs, self.budget.clone());
        let mut guest = guest::guest(plan, process, share(tree)?, self.stdio, budget);
        guest.listeners = guest::listeners(plan)?;
        let prepared = prepare(&entrypoint, programs, guest)?;
        rootfs.enter()?;
        let capabilities = process.capabilities.iter().flatten().map(String::as_str);
        credentials::assume(&process.user, capabilities)?;
        let runtime = runtime(&self.budget)?;
        let place = Arc::new(Place {
            plan: self.plan,
            program: entrypoint.path,
            tree: rootfs.into_tree(),
            namespaces,
            programs: self.programs,
            budget: self.budget,
        });
        Ok(Made {
            place,
            prepared,
            runtime,
        })
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
        let (plan, tree) = (&place.plan, place.tree.as_fd());
        let entrypoint = Entrypoint::resolve(tree, &process)
            .map_err(|source| Error::exec(&process.args[0], source))?;
        let (programs, budget) = (&place.programs, place.budget.clone());
        let guest = guest::guest(plan, &process, share(tree)?, stdio, budget);
        let prepared = prepare(&entrypoint, programs, guest)?;
        place.join(&process)?;
        let runtime = runtime(&place.budget)?;
        Ok(Made {
            place,
            prepared,
            runtime,
        })
    }
}

/// `guest`, whose program is `entrypoint`, ready to run.
fn prepare(
    entrypoint: &Entrypoint,
    programs: &Programs,
    mut guest: Guest,
) -> Result<Prepared, Error> {
    guest.export.clone_from(&entrypoint.export);
    let artifact = programs.load(entrypoint)?;
    artifact.prepare(guest).map_err(|source| Error::Program {
        path: entrypoint.path.clone(),
        source,
    })
}

fn share(tree: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    tree.try_clone_to_owned()
        .map_err(Error::host("share the root directory"))
}

/// What polls the guest; the threads it starts are the calling one's children in all that confines it.
fn runtime(budget: &Budget) -> Result<Runtime, Error> {
    let (begins, ends) = (budget.clone(), budget.clone());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILES)
        // What the pool does for the guest is at the guest's expense.
        .on_thread_start(move || begins.thread_begins())
        .on_thread_stop(move || ends.thread_ends())
        .build()
        .map_err(Error::host("make the runtime that polls the guest"))
}
