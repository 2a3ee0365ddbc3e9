//! The containers of a shim, by id.
//!
//! An id is reserved before anything is made for it, under one lock, so that of two Creates of the same
//! id one is refused however they interleave. A reservation that is dropped is gone; one that is filled
//! is a container, or one for Linux ([`crate::runc`]): its program decides, once its files are there. The lock is never held across an await.

mod linux;
mod muted;
mod reservation;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::api::{CreateTaskRequest, Mount as RootfsMount};
use containerd_shim_protos::events::task::TaskDelete;
use containerd_shim_protos::topics;
use protobuf::MessageField;
use tokio::sync::{Notify, watch};
use wasi_bundles::{Bundle, Mount, Plan};

use self::reservation::Reservation;
use crate::Error;
use crate::allowance::Allowance;
use crate::confine::{Birth, Gate, Holder};
use crate::container::{About, Container};
use crate::content::ContentStore;
use crate::events::{Publisher, timestamp};
use crate::hooks::ContainerHooks;
use crate::lifecycle::Exit;
use crate::placement::Placement;
use crate::program::Image;
use crate::programs::Programs;
use crate::runc::{LinuxContainers, container::LinuxContainer};
use crate::stdio::{Owner, StdioPaths};

/// All containers. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Containers {
    slots: Arc<Mutex<HashMap<String, Slot>>>,
    /// How many ids are taken: the shim may go when there are none.
    count: watch::Sender<usize>,
    programs: Arc<Programs>,
    store: ContentStore,
    events: Publisher,
    placement: Placement,
    linux: LinuxContainers,
}

#[derive(Debug)]
enum Slot {
    /// A Create is under way, and is told here when it is given up.
    Reserved(Arc<Notify>),
    /// A Create is under way whose client asked to delete what it had not got yet.
    Abandoned,
    Filled(Arc<Container>),
    Linux(Arc<LinuxContainer>),
    /// A Delete is under way, and the container gone.
    Leaving,
}

/// What Create is asked for.
#[derive(Debug)]
pub struct Creation {
    /// As it was asked, for a Linux container.
    pub request: CreateTaskRequest,
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
    pub fn new(
        programs: Programs,
        store: ContentStore,
        events: Publisher,
        placement: Placement,
        linux: LinuxContainers,
    ) -> Self {
        Self {
            slots: Arc::default(),
            count: watch::Sender::new(0),
            programs: Arc::new(programs),
            store,
            events,
            placement,
            linux,
        }
    }

    /// How many there are, and every change of it.
    #[must_use]
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Makes a container and parks it before its first instruction; its pid.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the bundle, the program or the host; nothing is left of the container.
    pub async fn create(&self, mut creation: Creation) -> Result<u32, Error> {
        let reservation = self.reserve(&creation.id)?;
        let bundle = Bundle::open(Path::new(&creation.bundle))?;
        if !creation.request.checkpoint.is_empty() {
            return self.restore(&reservation, creation, &bundle).await;
        }
        let plan = match Plan::new(&bundle) {
            Ok(plan) => plan,
            Err(error) => return self.unplanned(&reservation, creation, &bundle, error).await,
        };
        let hooks = ContainerHooks::new(
            &creation.id,
            &bundle,
            plan.hooks().clone(),
            &plan.process().user,
            plan.process().capabilities.as_deref().unwrap_or_default(),
            self.placement.origin(),
        );
        hooks.owe_poststop()?;
        let (id, settled) = (creation.id.clone(), hooks.clone());
        let (request, given) = (std::mem::take(&mut creation.request), bundle.clone());
        match self.make(&reservation, creation, bundle, plan, hooks).await {
            Ok(container) => Ok(container.about().pid),
            Err(Error::LinuxProgram(error)) => {
                log::info!("container {id}: {error}: it is run as a Linux container");
                settled.disown()?;
                self.create_linux(&reservation, request, &given).await
            }
            Err(error) => {
                // While the id is still taken: the shim does not go meanwhile.
                self.placement.clear(&id).await;
                settled.poststop().await;
                Err(error)
            }
        }
    }

    /// The part of Create that has something to undo.
    async fn make(
        &self,
        reservation: &Reservation,
        creation: Creation,
        bundle: Bundle,
        plan: Plan,
        hooks: ContainerHooks,
    ) -> Result<Arc<Container>, Error> {
        let layers = layers(&creation.rootfs, &bundle, &plan)?;
        let owner = Owner {
            namespace: self.events.namespace(),
            id: &creation.id,
        };
        let terminal = creation.terminal.then_some(plan.process().console_size);
        let allowance = Allowance::new(&plan, self.placement.ceiling())?;
        let cgroup = plan.cgroup().clone();
        let (checkpoint, hooked) = hooks.create();
        let (gate, asked) = Gate::new();
        let id = creation.id.as_str();
        let delivery = async {
            if bundle.is_sandbox() {
                let holder = Holder {
                    plan,
                    gate,
                    checkpoint,
                };
                return holder.deliver(id).await;
            }
            let birth = Birth {
                plan,
                layers,
                gate,
                programs: Arc::clone(&self.programs),
                image: Image {
                    id: id.to_owned(),
                    store: self.store.clone(),
                },
                checkpoint,
                budget: allowance.budget().clone(),
            };
            birth.deliver(id).await
        };
        let settle = async {
            // Who has not asked has an error.
            let Ok(give) = asked.await else {
                return Ok(None);
            };
            let (holds, stdio) = creation.stdio.open(owner, terminal).await?;
            drop(give.send(stdio));
            self.placement.join(&bundle, &cgroup).await?;
            Ok(Some(holds))
        };
        let (settled, thread, hooked) = tokio::join!(settle, delivery, async {
            tokio::select! {
                hooked = hooked => hooked,
                () = reservation.given_up.notified() => Ok(()),
            }
        });
        // A hook that failed is why there is no thread.
        let (holds, thread) = match (hooked, settled, thread) {
            (Ok(()), Ok(Some(holds)), Ok(thread)) => (holds, thread),
            (hooked, settled, thread) => {
                let thread = match thread {
                    Ok(thread) => {
                        thread.discard().await;
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                if reservation.is_abandoned() {
                    return Err(Error::Abandoned { id: creation.id });
                }
                return hooked
                    .and(settled.map(drop))
                    .and(thread)
                    .and(Err(Error::Panicked));
            }
        };
        if reservation.is_abandoned() {
            thread.discard().await;
            return Err(Error::Abandoned { id: creation.id });
        }
        self.placement
            .admit(&bundle, &creation.id, thread.threads(), cgroup.cpu)
            .await;
        let about = About {
            namespace: self.events.namespace().to_owned(),
            id: creation.id,
            bundle: bundle.dir().to_owned(),
            stdio: creation.stdio,
            pid: thread.pid(),
            rootfs: creation.rootfs,
            hooks,
        };
        let (events, placement) = (self.events.clone(), self.placement.clone());
        let container = Container::drive(about, allowance, holds, thread, events, placement).await;
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
            Some(Slot::Reserved(_) | Slot::Abandoned | Slot::Linux(_) | Slot::Leaving) | None => {
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
        if let Some(slot) = self.slots().get_mut(id)
            && let Slot::Reserved(given_up) = slot
        {
            given_up.notify_one();
            *slot = Slot::Abandoned;
        }
        let container = self.get(id)?;
        let pid = container.about().pid;
        let deleted = container.delete(None).await;
        if deleted.is_ok() {
            // Nobody reaches it any more, and the shim does not go before all is done.
            self.slots().insert(id.to_owned(), Slot::Leaving);
            self.placement.clear(id).await;
            container.about().hooks.poststop().await;
            self.slots().remove(id);
            self.recount();
        }
        if let Err(Error::NotFound { .. }) = deleted {
            // Its driver is gone without a word, which only a bug can do: the id is free. Not that of a
            // container made since.
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
        let given_up = Arc::<Notify>::default();
        match self.slots().entry(id.to_owned()) {
            Entry::Occupied(_) => return Err(Error::AlreadyExists { id: id.to_owned() }),
            Entry::Vacant(slot) => slot.insert(Slot::Reserved(Arc::clone(&given_up))),
        };
        self.recount();
        Ok(Reservation {
            containers: self.clone(),
            id: id.to_owned(),
            given_up,
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
            Slot::Reserved(_) | Slot::Abandoned | Slot::Linux(_) | Slot::Leaving => None,
        });
        filled.collect()
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
