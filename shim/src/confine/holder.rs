//! The sandbox of a pod, which elsewhere is a process that does nothing: here it is a thread. It has the
//! namespaces that the pod's containers join, their host name and their kernel parameters, and its id is
//! the pid whose `/proc/<pid>/ns/*` CRI, CNI and NRI look at. It mounts nothing and runs nothing.

use super::thread::{Made, Parked, deliver};
use super::{Checkpoint, Gate};
use crate::{Error, namespaces};
use wasi_bundles::Plan;

/// What a sandbox's thread is made from.
#[derive(Debug)]
pub struct Holder {
    /// Which namespaces, and what is set in them.
    pub plan: Plan,
    /// Where it says that it is on its way.
    pub gate: Gate,
    /// Where it waits for its hooks; not at all if it has none.
    pub checkpoint: Option<Checkpoint>,
}

impl Holder {
    /// Makes the thread and waits until it is parked.
    ///
    /// # Errors
    ///
    /// What stood in the way; the thread is gone then, and with it all it had made.
    pub async fn deliver(self, id: &str) -> Result<Parked, Error> {
        deliver(id, move || {
            namespaces::hold(&self.plan)?;
            // It has nothing to say on streams.
            drop(self.gate.pass()?);
            match self.checkpoint {
                None => {}
                Some(checkpoint) => checkpoint.pass()?,
            }
            Ok(Made::holder())
        })
        .await
    }
}
