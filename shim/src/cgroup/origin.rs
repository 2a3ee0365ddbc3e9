//! Where the shim came from: the cgroup of containerd, or of what started that.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use super::hierarchy::Hierarchy;

/// Where the shim came from: opened `cgroup.procs`, to move back by.
#[derive(Debug, Clone, Default)]
pub struct Origin(Arc<OnceLock<Vec<File>>>);

impl Origin {
    /// Remembers where this process is, the first time.
    pub(super) fn remember(&self, hierarchies: &[Hierarchy]) {
        self.0
            .get_or_init(|| hierarchies.iter().filter_map(Hierarchy::own).collect());
    }

    /// Moves this process back.
    pub(super) fn go_back(&self) {
        for file in self.0.get().into_iter().flatten() {
            if let Err(error) = rustix::io::write(file, b"0") {
                log::warn!("cannot go back to where the shim came from: {error}");
            }
        }
    }

    /// Lets a process that is to be started run there. It belongs to no container, and what it leaves
    /// running must not keep a container's cgroup in use.
    #[allow(
        unsafe_code,
        reason = "only the child itself can move before its program runs"
    )]
    pub(crate) fn apply_to(&self, command: &mut Command) {
        let origin = Arc::clone(&self.0);
        let leave = move || -> io::Result<()> {
            for file in origin.get().into_iter().flatten() {
                // A cgroup that is gone is no reason not to run it.
                let _ = rustix::io::write(file, b"0");
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe functions may be called. `leave` reads
        // memory that was written before the fork and calls write(2); it allocates nothing, takes no
        // lock, and drops nothing.
        unsafe { command.pre_exec(leave) };
    }
}
