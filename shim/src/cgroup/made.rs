//! Cgroups that the shim has made, and how they are removed: by itself, or by the `delete` that finds
//! them listed in the bundle after the shim was killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The record in the bundle.
const RECORD: &str = "cgroups.json";
/// The kernel takes a moment to take a thread that has ended out of its cgroup, and a process that moves.
const LEAVE: Duration = Duration::from_millis(500);

/// Writes down, for [`sweep`], what is about to be made.
pub(super) fn record(bundle: &Path, made: &[PathBuf]) -> io::Result<()> {
    let temporary = bundle.join(format!(".{RECORD}"));
    fs::write(&temporary, serde_json::to_vec(made)?)?;
    fs::rename(temporary, bundle.join(RECORD))
}

/// Removes what the shim of `bundle`, which is gone, has made. What is in use stays; a hook that the shim was
/// starting when it was killed is about to leave.
pub fn sweep(bundle: &Path) {
    // All together: version 1 has a dozen hierarchies, and containerd waits 5 s (`cleanupTimeout`).
    sweep_until(bundle, Instant::now() + LEAVE);
}

fn sweep_until(bundle: &Path, until: Instant) {
    let Ok(text) = fs::read(bundle.join(RECORD)) else {
        return;
    };
    let made: Vec<PathBuf> = serde_json::from_slice(&text).unwrap_or_default();
    for folder in made.iter().rev() {
        remove_until(folder, until);
    }
}

/// Removes an empty cgroup. One that others use stays.
pub(super) fn remove(folder: &Path) {
    remove_until(folder, Instant::now() + LEAVE);
}

fn remove_until(folder: &Path, until: Instant) {
    while let Err(error) = fs::remove_dir(folder) {
        let busy = error.kind() == io::ErrorKind::ResourceBusy;
        // Threads that are about to go are seen to be gone by its becoming unpopulated.
        if !busy || !is_own(folder) || Instant::now() > until {
            return;
        }
        std::thread::yield_now();
    }
}

/// Whether a cgroup has no child: one with children is in use by others.
fn is_own(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    !entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, UnmountFlags};

    use super::*;

    #[test]
    fn what_is_swept_is_what_was_recorded_and_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "a/b", "a/used", "other"] {
            fs::create_dir(path(name)).unwrap();
        }
        sweep(folder.path());
        record(folder.path(), &[path("a"), path("a/b"), path("never-made")]).unwrap();
        sweep(folder.path());
        assert!(!path("a/b").exists());
        assert!(path("a/used").exists() && path("other").exists());
        fs::remove_dir(path("a/used")).unwrap();
        sweep(folder.path());
        assert!(!path("a").exists());
    }

    /// Needs root. What is mounted on makes a folder as busy as a process makes a cgroup.
    #[test]
    fn what_is_about_to_be_left_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["busy", "empty"] {
            fs::create_dir(path(name)).unwrap();
        }
        record(folder.path(), &[path("busy"), path("empty")]).unwrap();
        rustix::mount::mount("none", path("busy"), "tmpfs", MountFlags::empty(), None).unwrap();
        // Only a hang takes it.
        let until = Instant::now() + Duration::from_secs(30);
        let waited = std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| sweep_until(folder.path(), until));
            // The last of them comes first.
            while path("empty").exists() && Instant::now() < until {
                std::thread::yield_now();
            }
            for _ in 0..1_000 {
                std::thread::yield_now();
            }
            let waits = !sweeping.is_finished();
            // A sweep that has it open keeps it in use.
            rustix::mount::unmount(path("busy"), UnmountFlags::DETACH).unwrap();
            waits
        });
        assert!(waited, "it did not wait");
        assert!(!path("busy").exists());
    }
}
