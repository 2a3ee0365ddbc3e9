//! Where the shim came from: the cgroup of containerd, or of what started that.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use super::hierarchy::{Hierarchy, Member};

/// Where the shim came from: opened files of its cgroups, to move back by.
#[derive(Debug, Clone, Default)]
pub struct Origin(Arc<OnceLock<Way>>);

/// For who writes `0`, of each hierarchy.
#[derive(Debug)]
struct Way {
    /// A process with several threads.
    processes: Vec<File>,
    /// One that has one thread.
    alone: Vec<File>,
}

impl Origin {
    /// Remembers where this process is, the first time.
    pub(super) fn remember(&self, hierarchies: &[Hierarchy]) {
        self.0.get_or_init(|| {
            let table = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let files = |member| {
                let files = hierarchies.iter();
                files
                    .filter_map(|hierarchy| hierarchy.members(&table, member))
                    .collect()
            };
            Way {
                processes: files(Member::Process(0)),
                alone: files(Member::Alone),
            }
        });
    }

    /// Moves this process back.
    pub(super) fn go_back(&self) {
        let Some(way) = self.0.get() else { return };
        let files = match Member::this_process() {
            Member::Alone => &way.alone,
            Member::Process(_) => &way.processes,
        };
        for file in files {
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
            for file in origin.get().iter().flat_map(|way| &way.alone) {
                // A child of fork(2) has one thread. A cgroup that is gone is no reason not to run it.
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
