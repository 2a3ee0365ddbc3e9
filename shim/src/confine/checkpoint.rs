//! The checkpoint of a container's thread, where hooks are run: they see its namespaces and mounts, and
//! what they add to these is the container's, too.

use std::io;

use tokio::sync::oneshot;

use super::thread::thread_id;
use crate::Error;

/// A place on the way, where the thread has its namespaces and mounts and nothing of its program: it
/// says so, with its id, and waits to be sent on. It turns back if nobody does.
#[derive(Debug)]
pub struct Checkpoint {
    /// Told the thread's id.
    pub reached: oneshot::Sender<u32>,
    /// Sends it on.
    pub passed: oneshot::Receiver<()>,
}

impl Checkpoint {
    /// On the container's thread.
    pub(super) fn pass(self) -> Result<(), Error> {
        let told = self.reached.send(thread_id()).is_ok();
        if told && self.passed.blocking_recv().is_ok() {
            return Ok(());
        }
        // Whoever did not send it on knows why, and says that instead.
        Err(Error::host("pass the hooks")(io::Error::other(
            "the creation was given up",
        )))
    }
}
