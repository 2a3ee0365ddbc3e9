//! The Linux containers among the others: they share the ids, and that is all.

use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::task::JoinSet;
use wasi_bundles::{Bundle, Plan};

use super::reservation::Reservation;
use super::{Containers, Creation, Slot, layers};
use crate::Error;
use crate::confine::Probe;
use crate::runc::container::LinuxContainer;
use crate::runc::{pause, process_namespace_of};

impl Containers {
    /// The Linux container of that id.
    #[must_use]
    pub fn linux(&self, id: &str) -> Option<Arc<LinuxContainer>> {
        match self.slots().get(id) {
            Some(Slot::Linux(container)) => Some(Arc::clone(container)),
            Some(Slot::Reserved(_) | Slot::Abandoned | Slot::Filled(_) | Slot::Leaving) | None => {
                None
            }
        }
    }

    /// The pid of the container of that id, whoever runs it.
    #[must_use]
    pub fn pid(&self, id: &str) -> Option<u32> {
        match self.linux(id) {
            Some(container) => Some(container.pid()),
            None => Some(self.get(id).ok()?.about().pid),
        }
    }

    /// Creates one; the pid of its process.
    pub(super) async fn create_linux(
        &self,
        reservation: &Reservation,
        request: CreateTaskRequest,
        bundle: &Bundle,
    ) -> Result<u32, Error> {
        self.placement.vacate().await;
        let shared = self.share_processes(bundle, &request.options).await?;
        let container = self
            .linux
            .create(request, shared.as_ref().unwrap_or(bundle));
        let container = container.await?;
        self.linux.keep(&container, bundle).await;
        let id = container.id().to_owned();
        let filled = Slot::Linux(Arc::clone(&container));
        let before = self.slots().insert(id.clone(), filled);
        if !matches!(before, Some(Slot::Reserved(_))) {
            // Given up meanwhile.
            container.discard().await;
            self.forget_linux(&container).await;
            return Err(Error::Abandoned { id });
        }
        debug_assert_eq!(reservation.id, id, "what is filled was reserved");
        Ok(container.pid())
    }

    /// Creates what no wasm container can be, if it is not meant to be one: a sandbox whose users are its own,
    /// which takes a process, or a Linux program. Otherwise that stays `wrong`.
    pub(super) async fn unplanned(
        &self,
        reservation: &Reservation,
        creation: Creation,
        bundle: &Bundle,
        wrong: wasi_bundles::Error,
    ) -> Result<u32, Error> {
        let for_linux = if bundle.is_sandbox() {
            bundle.has_users()
        } else {
            self.is_for_linux(&creation, bundle).await
        };
        if !for_linux {
            return Err(wrong.into());
        }
        let id = &creation.id;
        log::info!("container {id}: {wrong}: it is run as a Linux container");
        self.create_linux(reservation, creation.request, bundle)
            .await
    }

    /// Creates one from a checkpoint, which no wasm container has.
    pub(super) async fn restore(
        &self,
        reservation: &Reservation,
        creation: Creation,
        bundle: &Bundle,
    ) -> Result<u32, Error> {
        if bundle.is_sandbox() || !self.is_for_linux(&creation, bundle).await {
            return Err(Error::Unimplemented(
                "restoring a wasm container from a checkpoint".to_owned(),
            ));
        }
        self.create_linux(reservation, creation.request, bundle)
            .await
    }

    async fn is_for_linux(&self, creation: &Creation, bundle: &Bundle) -> bool {
        let bundle = bundle.reduced();
        let planned = Plan::new(&bundle).map_err(Error::from);
        let planned =
            planned.and_then(|plan| Ok((layers(&creation.rootfs, &bundle, &plan)?, plan)));
        let Ok((layers, plan)) = planned else {
            return false;
        };
        Probe { plan, layers }.is_for_linux(&creation.id).await
    }

    /// Gives a container that joins the processes of its pod a namespace of processes; its new bundle.
    async fn share_processes(
        &self,
        bundle: &Bundle,
        options: &MessageField<Any>,
    ) -> Result<Option<Bundle>, Error> {
        let pod = bundle.annotation("io.kubernetes.cri.sandbox-id");
        let sandbox = pod.and_then(|pod| self.get(pod).ok());
        let Some(sandbox) =
            sandbox.filter(|sandbox| process_namespace_of(bundle) == Some(sandbox.about().pid))
        else {
            return Ok(None);
        };
        let about = sandbox.about();
        let pause = pause::Sandbox {
            id: &about.id,
            bundle: &about.bundle,
            rootfs: &about.rootfs,
            thread: about.pid,
            options,
        };
        let pid = self.linux.pause(&pause).await?;
        let (init, linux) = (Arc::clone(sandbox.init()), self.linux.clone());
        tokio::spawn(async move {
            // However it ends.
            drop(init.exited().await);
            linux.end_pause().await;
        });
        pause::share(bundle.dir(), pid).map_err(Error::host("join the processes of the pod"))?;
        Ok(Some(Bundle::open(bundle.dir())?))
    }

    /// Frees the id of one that is deleted.
    pub async fn forget_linux(&self, container: &LinuxContainer) {
        // While its id is taken: the shim does not go meanwhile.
        self.linux.forget(container).await;
        self.slots().remove(container.id());
        self.recount();
    }

    /// Ends all of them, and the shim that they are in.
    pub async fn end_linux(&self) {
        let mut ends = JoinSet::new();
        for slot in self.slots().values() {
            if let Slot::Linux(container) = slot {
                let container = Arc::clone(container);
                ends.spawn(async move { container.end().await });
            }
        }
        ends.join_all().await;
        self.linux.end().await;
    }
}
