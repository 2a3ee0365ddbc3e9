//! What the `delete` of a sandbox has to know of the pod's Linux containers.
//!
//! When the shim of a Sandbox API pod is killed, containerd 1.7 removes the bundles of the pod's containers
//! and runs `delete` for the sandbox alone. The processes run on, and what ends them was in those bundles. So
//! the few files that runc's shim has left there are kept in the bundle that goes last, in the folder of the
//! child.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::call::Call;
use super::child::Origin;
use super::container::delete;

/// What the `delete` of runc's shim reads (containerd `cmd/containerd-shim-runc-v2/manager`): the runtime, its
/// options, and the first process.
const FILES: [&str; 3] = ["runtime", "options.json", "init.pid"];

/// Keeps what there is to know of the container `id`, whose bundle is `container`, in that of the shim's first.
///
/// # Errors
///
/// When a file cannot be copied.
pub fn keep(bundle: &Path, id: &str, container: &Path) -> io::Result<()> {
    let folder = folder(bundle).join(id);
    fs::create_dir_all(&folder)?;
    for file in FILES {
        match fs::copy(container.join(file), folder.join(file)) {
            // Which options there are depends on the version.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Forgets a container that is deleted.
///
/// # Errors
///
/// When the files cannot be removed.
pub fn forget(bundle: &Path, id: &str) -> io::Result<()> {
    match fs::remove_dir_all(folder(bundle).join(id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Ends what a dead shim has left of its Linux containers.
///
/// # Errors
///
/// The first `delete` that fails; the others are run all the same.
pub fn end_orphans(call: &Call, bundle: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder(bundle)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let ended = entries.map(|entry| {
        let entry = entry?;
        let id = entry.file_name().into_string();
        let id = id.map_err(|name| io::Error::other(format!("{name:?} is no id")))?;
        delete(call, &id, &entry.path())?;
        forget(bundle, &id)
    });
    let ended: Vec<_> = ended.collect();
    ended.into_iter().collect()
}

/// The `delete` of runc's shim looks for a folder of the container's name.
fn folder(bundle: &Path) -> PathBuf {
    Origin::folder(bundle).join("containers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_when_its_bundle_is_gone() {
        let (shim, container) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(container.path().join("runtime"), "runc").unwrap();
        fs::write(container.path().join("init.pid"), "42").unwrap();
        fs::write(container.path().join("config.json"), "{}").unwrap();
        keep(shim.path(), "web", container.path()).unwrap();
        drop(container);
        let kept = folder(shim.path()).join("web");
        assert_eq!(fs::read_to_string(kept.join("init.pid")).unwrap(), "42");
        assert!(kept.join("runtime").exists() && !kept.join("config.json").exists());
        forget(shim.path(), "web").unwrap();
        assert!(!kept.exists());
        forget(shim.path(), "web").unwrap();
    }

    #[test]
    fn one_that_cannot_be_ended_is_told_of_and_kept() {
        let (shim, container) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // A program of a shim that fails.
        let publisher = shim.path().join("containerd");
        std::os::unix::fs::symlink("/bin/false", shim.path().join("containerd-shim-runc-v2"))
            .unwrap();
        let call = Call {
            publisher,
            ..Call::default()
        };
        end_orphans(&call, shim.path()).unwrap();
        keep(shim.path(), "web", container.path()).unwrap();
        let error = end_orphans(&call, shim.path()).unwrap_err().to_string();
        assert!(error.contains("containerd-shim-runc-v2 delete"), "{error}");
        assert!(folder(shim.path()).join("web").exists());
    }
}
