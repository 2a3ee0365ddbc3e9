//! The place of a container: what a thread needs in order to be in it, with the same files, the same
//! network and the same host name as its first.
//!
//! The first thread makes the place on its way in ([`Birth`](crate::confine::Birth)); the threads of
//! execs join it. It is held open by descriptors, not by the number of a thread, which may mean another
//! one a moment later. Whoever holds a place keeps the container's mounts and namespaces alive, so the
//! container lets go of it at its end.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use wasi_bundles::{Plan, Process, open_in_root};
use wasi_runtime::Budget;

use crate::namespaces::Handles;
use crate::programs::Programs;
use crate::{Error, credentials};

/// A container, to the threads that are in it.
#[derive(Debug)]
pub struct Place {
    /// What the container was made from.
    pub plan: Plan,
    /// The path of its own program, inside.
    pub program: String,
    /// Its root directory, with every mount in place.
    pub tree: OwnedFd,
    /// Its namespaces.
    pub namespaces: Handles,
    /// Where its code comes from.
    pub programs: Arc<Programs>,
    /// What its guests may use, all together.
    pub budget: Budget,
}

impl Place {
    /// Moves the calling thread in, to act there for the user of `process`.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] names what the kernel refused.
    pub fn join(&self, process: &Process) -> Result<(), Error> {
        self.namespaces.join()?;
        let own = process.capabilities.as_ref();
        let given = own.or(self.plan.process().capabilities.as_ref());
        let capabilities = given.into_iter().flatten().map(String::as_str);
        credentials::assume(&process.user, capabilities)
    }

    /// The process that an exec asks for, its program being named in full: `#export` alone means the
    /// container's own program.
    #[must_use]
    pub fn complete(&self, mut process: Process) -> Process {
        if let Some(program) = process.args.first_mut()
            && program.starts_with('#')
        {
            program.insert_str(0, &self.program);
        }
        process
    }

    /// Makes sure that the working directory of `process` is there, as runc does.
    ///
    /// # Errors
    ///
    /// [`Error::WorkingDirectory`].
    pub fn require_directory(&self, process: &Process) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        open_in_root(self.tree.as_fd(), Path::new(&process.cwd), flags)
            .map(drop)
            .map_err(|errno| Error::WorkingDirectory {
                path: process.cwd.clone(),
                source: errno.into(),
            })
    }

    /// Lets go of it. Off the control thread: who is last unmounts the container's files.
    pub async fn leave(self: Arc<Self>) {
        // An error is the runtime shutting down.
        drop(tokio::task::spawn_blocking(move || drop(self)).await);
    }
}
