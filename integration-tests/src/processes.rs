//! What `/proc` says about the processes of this machine.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// One process, at the moment it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its command line, or its name where it has none.
    pub command: String,
}

impl Process {
    /// Every process.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Self::look)
            .collect()
    }

    /// Every containerd shim, ours and others'.
    #[must_use]
    pub fn shims() -> Vec<Self> {
        Self::all().into_iter().filter(Self::is_shim).collect()
    }

    /// The process with this id, unless it has ended (a zombie has).
    #[must_use]
    pub fn look(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // The name is in parentheses and may contain anything; the state follows the last one.
        let (head, tail) = stat.rsplit_once(')')?;
        if tail.trim_start().starts_with(['Z', 'X']) {
            return None;
        }
        let name = head.split_once('(')?.1.to_owned();
        let arguments = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments)
            .replace('\0', " ")
            .trim()
            .to_owned();
        let command = if arguments.is_empty() {
            format!("[{name}]")
        } else {
            arguments
        };
        Some(Self { pid, command })
    }

    /// Whether the process works for whoever owns `folder`: it was told about it by an argument, in its
    /// environment, is in it, or writes into it.
    #[must_use]
    pub fn is_about(&self, folder: &Path) -> bool {
        let needle = folder.to_string_lossy();
        let proc = PathBuf::from(format!("/proc/{}", self.pid));
        let environment = std::fs::read(proc.join("environ")).unwrap_or_default();
        self.command.contains(&*needle)
            // The compile child is told nothing: it writes into a file there.
            || std::fs::read_link(proc.join("fd/1")).is_ok_and(|stdout| stdout.starts_with(folder))
            || String::from_utf8_lossy(&environment).contains(&*needle)
            || std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    }

    /// Whether this process has started it, and it still has its parent.
    #[must_use]
    pub fn is_child(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let parent = after
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok());
        parent == Some(std::process::id())
    }

    /// Whether one of its cgroups is below `/<namespace>/`, where `ctr` puts containers.
    #[must_use]
    pub fn is_in_cgroup(&self, namespace: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid))
            .is_ok_and(|cgroups| cgroups.contains(&format!("/{namespace}/")))
    }

    /// Sends a signal; a process that has ended needs none.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may have ended since it was looked at.
            kill_process(pid, signal).ok();
        }
    }

    fn is_shim(&self) -> bool {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.starts_with("containerd-shim")
            || exe.is_ok_and(|exe| {
                exe.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("containerd-shim-"))
            })
    }
}
