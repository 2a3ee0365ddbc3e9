//! An id, from when a Create has it to when there is a container, or none after all.

use std::sync::Arc;

use tokio::sync::Notify;

use super::{Containers, Slot};
use crate::container::Container;

/// An id that is taken, until this is dropped or filled.
pub(super) struct Reservation {
    pub(super) containers: Containers,
    pub(super) id: String,
    /// Told when a client asks to delete what is not there yet.
    pub(super) given_up: Arc<Notify>,
}

impl Reservation {
    /// Whether a client has asked to delete it.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.containers.slots().get(&self.id), Some(Slot::Abandoned))
    }

    /// Puts the container into its place; whether anybody still wants it.
    pub(super) fn fill(&self, container: Container) -> (Arc<Container>, bool) {
        let container = Arc::new(container);
        let filled = Slot::Filled(Arc::clone(&container));
        let before = self.containers.slots().insert(self.id.clone(), filled);
        (container, matches!(before, Some(Slot::Reserved(_))))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut slots = self.containers.slots();
        if let Some(Slot::Reserved(_) | Slot::Abandoned) = slots.get(&self.id) {
            slots.remove(&self.id);
        }
        drop(slots);
        self.containers.recount();
    }
}
