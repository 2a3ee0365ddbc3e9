//! Containers that containerd does not hear of as containers: the sandbox of its Sandbox API.

use super::Containers;

impl Containers {
    /// The same ones; what is created and deleted through this has no events.
    #[must_use]
    pub fn muted(&self) -> Self {
        let events = self.events.muted();
        Self {
            events,
            ..self.clone()
        }
    }
}
