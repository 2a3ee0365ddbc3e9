//! Where a container's thread waits on its way.
//!
//! At the [`Gate`] it has its files, and has seen that its program is WebAssembly: nothing was opened or
//! joined for the container before, which may have been one for Linux. At the [`Checkpoint`] hooks are
//! run: they see its namespaces and mounts, and what they add to these is the container's, too.

use std::io;

use tokio::sync::oneshot;

use super::thread::thread_id;
use crate::Error;
use crate::stdio::GuestStdio;

const GIVEN_UP: &str = "the creation was given up";

/// What is asked there, and where the answer goes.
pub type Asked = oneshot::Receiver<oneshot::Sender<GuestStdio>>;

/// A place on the way, where the thread asks for its streams.
#[derive(Debug)]
pub struct Gate(oneshot::Sender<oneshot::Sender<GuestStdio>>);

impl Gate {
    /// A gate, and what is asked there.
    #[must_use]
    pub fn new() -> (Self, Asked) {
        let (ask, asked) = oneshot::channel();
        (Self(ask), asked)
    }

    /// On the container's thread.
    pub(super) fn pass(self) -> Result<GuestStdio, Error> {
        let (give, given) = oneshot::channel();
        let asked = self.0.send(give).ok();
        let given = asked.and_then(|()| given.blocking_recv().ok());
        // Whoever did not give them knows why, and says that instead.
        given.ok_or_else(|| Error::host("get its streams")(io::Error::other(GIVEN_UP)))
    }
}

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
        Err(Error::host("pass the hooks")(io::Error::other(GIVEN_UP)))
    }
}
