//! The Linux containers among the others: they share the ids, and that is all.

use std::sync::Arc;

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::task::JoinSet;
use wasi_bundles::Bundle;

use super::{Containers, Reservation, Slot};
use crate::Error;
use crate::runc::container::LinuxContainer;

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
        let container = self.linux.create(request, bundle).await?;
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
