//! The directories that a guest is given: the whole tree as its `/`, or those that the option `preopens`
//! lists. Each is a copy of what is mounted there, which can be read-only where the container's is not;
//! who is given no more than such a copy finds nothing above it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::OpenTreeFlags;
use wasi_bundles::Plan;

use super::attributes::Change;
use super::tree::Tree;
use super::{Rootfs, mount_error};
use crate::Error;

impl Rootfs {
    /// The guest's directories and their names. To be called before [`Rootfs::enter`].
    ///
    /// # Errors
    ///
    /// [`Error::Mount`] names a directory that is not in the container.
    pub fn preopens(&self, plan: &Plan) -> Result<Vec<(String, OwnedFd)>, Error> {
        let Some(preopens) = &plan.options().preopens else {
            let root = self.tree.0.try_clone();
            let root = root.map_err(Error::host("share the root directory"))?;
            return Ok(vec![("/".to_owned(), root)]);
        };
        let mounted = Tree::at(&self.path)?;
        let copies = preopens.iter().map(|preopen| {
            let copy = copy(&mounted, &preopen.path)
                .and_then(|copy| {
                    if preopen.readonly {
                        Change::READONLY.apply_recursively(&copy)?;
                    }
                    Ok(copy)
                })
                .map_err(mount_error("a directory for the guest", &preopen.path))?;
            Ok((preopen.name.clone(), copy))
        });
        copies.collect()
    }
}

/// A copy of what is mounted at `path` and below.
fn copy(tree: &Tree, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let directory = wasi_bundles::open_in_root(std::os::fd::AsFd::as_fd(&tree.0), path, flags)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(directory, "", flags)
}
