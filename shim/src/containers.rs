//! The containers of a shim, by id.
//!
//! An id is reserved before anything is made for it, under one lock, so that of two Creates of the same
//! id one is refused however they interleave. A reservation that is dropped is gone; one that is filled
//! is a container. The lock is never held across an await.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::api::Mount as RootfsMount;
use containerd_shim_protos::events::task::TaskDelete;
use containerd_shim_protos::topics;
use protobuf::MessageField;
use tokio::sync::watch;
use wasi_bundles::{Bundle, Mount, Plan};

use crate::Error;
use crate::allowance::Allowance;
use crate::confine::Birth;
use crate::container::{About, Container};
use crate::events::{Publisher, timestamp};
use crate::lifecycle::Exit;
use crate::programs::Programs;
use crate::stdio::{Owner, StdioPaths};

/// All containers. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Containers {
    slots: Arc<Mutex<HashMap<String, Slot>>>,
    /// How many ids are taken: the shim may go when there are none.
    count: watch::Sender<usize>,
    programs: Arc<Programs>,
    events: Publisher,
}

#[derive(Debug)]
enum Slot {
    /// A Create is under way.
    Reserved,
    /// A Create is under way whose client has given up: it asked to delete what it had not got yet.
    Abandoned,
    Filled(Arc<Container>),
}

/// What Create is asked for.
#[derive(Debug)]
pub struct Creation {
    /// The id.
    pub id: String,
    /// The bundle's path.
    pub bundle: String,
    /// Mounts that make the root file system.
    pub rootfs: Vec<RootfsMount>,
    /// The streams.
    pub stdio: StdioPaths,
    /// Whether stdio is a terminal.
    pub terminal: bool,
}

impl Containers {
    /// No containers yet.
    #[must_use]
    pub fn new(programs: Programs, events: Publisher) -> Self {
        Self {
            slots: Arc::default(),
            count: watch::Sender::new(0),
            programs: Arc::new(programs),
            events,
        }
    }

    /// How many there are, and every change of it.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Makes a container and parks it before its first instruction.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the bundle, the program or the host; nothing is left of the container.
    pub async fn create(&self, creation: Creation) -> Result<Arc<Container>, Error> {
        let reservation = self.reserve(&creation.id)?;
        let bundle = Bundle::open(Path::new(&creation.bundle))?;
        let plan = Plan::new(&bundle)?;
        let layers = layers(&creation.rootfs, &bundle, &plan)?;
        let owner = Owner {
            namespace: self.events.namespace(),
            id: &creation.id,
        };
        let terminal = creation.terminal.then_some(plan.process().console_size);
        let (holds, stdio) = creation.stdio.open(owner, terminal).await?;
        let allowance = Allowance::new(*plan.limits())?;
        let birth = Birth {
            plan,
            layers,
            stdio,
            programs: Arc::clone(&self.programs),
            budget: allowance.budget().clone(),
        };
        let thread = birth.deliver(&creation.id).await?;
        if reservation.is_abandoned() {
            thread.discard().await;
            return Err(Error::Abandoned { id: creation.id });
        }
        let about = About {
            namespace: self.events.namespace().to_owned(),
            id: creation.id,
            bundle: bundle.dir().to_owned(),
            stdio: creation.stdio,
            pid: thread.pid(),
        };
        let container =
            Container::drive(about, allowance, holds, thread, self.events.clone()).await;
        let id = container.about().id.clone();
        let (container, wanted) = reservation.fill(container);
        if !wanted {
            // Given up after it was announced: its end is announced, too.
            self.delete(&id).await?;
            return Err(Error::Abandoned { id });
        }
        Ok(container)
    }

    /// The container of that id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also while it is being created.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, Error> {
        match self.slots().get(id) {
            Some(Slot::Filled(container)) => Ok(Arc::clone(container)),
            Some(Slot::Reserved | Slot::Abandoned) | None => {
                Err(Error::NotFound { id: id.to_owned() })
            }
        }
    }

    /// Forgets a container that has ended, or ends one that was never started.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for the second of two, and while it is being created, which is given up
    /// then; [`Error::Refused`] while it runs.
    pub async fn delete(&self, id: &str) -> Result<(u32, Exit), Error> {
        if let Some(slot @ Slot::Reserved) = self.slots().get_mut(id) {
            *slot = Slot::Abandoned;
        }
        let container = self.get(id)?;
        let pid = container.about().pid;
        let deleted = container.delete(None).await;
        if let Ok(_) | Err(Error::NotFound { .. }) = deleted {
            // Also when its driver is gone without a word, which only a bug can do: the id is free. Not
            // that of a container made since.
            let mut slots = self.slots();
            if matches!(slots.get(id), Some(Slot::Filled(filled)) if Arc::ptr_eq(filled, &container))
            {
                slots.remove(id);
            }
            drop(slots);
            self.recount();
        }
        let exit = deleted?;
        let deleted = TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskDelete::default()
        };
        self.events
            .publish(topics::TASK_DELETE_EVENT_TOPIC, &deleted)
            .await;
        Ok((pid, exit))
    }

    fn reserve(&self, id: &str) -> Result<Reservation, Error> {
        match self.slots().entry(id.to_owned()) {
            Entry::Occupied(_) => return Err(Error::AlreadyExists { id: id.to_owned() }),
            Entry::Vacant(slot) => slot.insert(Slot::Reserved),
        };
        self.recount();
        Ok(Reservation {
            containers: self.clone(),
            id: id.to_owned(),
        })
    }

    fn recount(&self) {
        let count = self.slots().len();
        self.count.send_replace(count);
    }

    /// A panic elsewhere cannot tear a map operation, so a poisoned lock is as good as any.
    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that are created and not deleted.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Container>> {
        let slots = self.slots();
        let filled = slots.values().filter_map(|slot| match slot {
            Slot::Filled(container) => Some(Arc::clone(container)),
            Slot::Reserved | Slot::Abandoned => None,
        });
        filled.collect()
    }
}

/// An id that is taken, until this is dropped or filled.
struct Reservation {
    containers: Containers,
    id: String,
}

impl Reservation {
    fn is_abandoned(&self) -> bool {
        matches!(self.containers.slots().get(&self.id), Some(Slot::Abandoned))
    }

    /// Puts the container into its place; whether anybody still wants it.
    fn fill(self, container: Container) -> (Arc<Container>, bool) {
        let container = Arc::new(container);
        let filled = Slot::Filled(Arc::clone(&container));
        let before = self.containers.slots().insert(self.id.clone(), filled);
        (container, matches!(before, Some(Slot::Reserved)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut slots = self.containers.slots();
        if let Some(Slot::Reserved | Slot::Abandoned) = slots.get(&self.id) {
            slots.remove(&self.id);
        }
        drop(slots);
        self.containers.recount();
    }
}

/// containerd's mounts for the root file system, at their places on the host.
fn layers(mounts: &[RootfsMount], bundle: &Bundle, plan: &Plan) -> Result<Vec<Mount>, Error> {
    let rootfs = &plan.rootfs().path;
    mounts
        .iter()
        .map(|mount| {
            // A target is relative to the rootfs, and few mounts have one (containerd 1.7 mount.go).
            let target = rootfs.join(mount.target.trim_start_matches('/'));
            Mount::from_options(
                &mount.type_,
                &mount.source,
                &target,
                &mount.options,
                bundle.dir(),
            )
        })
        .collect::<Result<_, _>>()
        .map_err(Error::Bundle)
}
