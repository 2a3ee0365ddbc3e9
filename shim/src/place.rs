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
use wasi_runtime::{Artifact, Budget};

use crate::namespaces::Handles;
use crate::programs::Programs;
use crate::{Error, credentials};

/// A container, to the threads that are in it.
#[derive(Debug)]
pub struct Place {
    /// What the container was made from.
    pub plan: Plan,
    /// The path of its own program, inside, or the name of its layer.
    pub program: String,
    /// The code of that layer, if it is one.
    pub layer: Option<Artifact>,
    /// Its root directory, with every mount in place.
    pub tree: OwnedFd,
    /// What its guests are given of it.
    pub directories: Directories,
    /// Its namespaces.
    pub namespaces: Handles,
    /// Where its code comes from.
    pub programs: Arc<Programs>,
    /// What its guests may use, all together.
    pub budget: Budget,
}

/// The directories that every guest of a container is given, and their names.
#[derive(Debug)]
pub struct Directories(pub Vec<(String, OwnedFd)>);

impl Directories {
    /// For one more guest: descriptors of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Host`]: the shim has no descriptors left.
    pub fn share(&self) -> Result<Vec<(String, OwnedFd)>, Error> {
        let Self(directories) = self;
        let share = |(name, directory): &(String, OwnedFd)| {
            let directory = directory
                .try_clone()
                .map_err(Error::host(format!("share the directory {name}")))?;
            Ok((name.clone(), directory))
        };
        directories.iter().map(share).collect()
    }
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
    /// container's own program, and no umask the one of the container's process.
    #[must_use]
    pub fn complete(&self, mut process: Process) -> Process {
        if let Some(program) = process.args.first_mut()
            && program.starts_with('#')
        {
            program.insert_str(0, &self.program);
        }
        let umask = self.plan.process().user.umask;
        process.user.umask = process.user.umask.or(umask);
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
