//! A container's directory tree, in which every path means what it means to the container: a symlink
//! in an image cannot put a mount elsewhere.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use wasi_bundles::open_in_root;

use crate::Error;

/// The root directory. Mounts made over it later are not seen through it, those below are.
#[derive(Debug)]
pub(super) struct Tree(pub(super) OwnedFd);

/// What to mount on: a mount of a directory needs a directory, one of a file a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Directory,
    File,
}

impl Tree {
    /// The tree at a path of the host, with what is mounted there now.
    pub(super) fn at(path: &Path) -> Result<Self, Error> {
        File::open(path)
            .map(|root| Self(root.into()))
            .map_err(Error::host(format!("open {}", path.display())))
    }

    /// Opens what is at `path`, without using it.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.open_with(path, OFlags::PATH)
            .map_err(Error::host(format!(
                "open {} in the container",
                path.display()
            )))
    }

    /// The same, for what may be missing.
    pub(super) fn find(&self, path: &Path) -> Result<Option<OwnedFd>, Error> {
        match self.open_with(path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Ok(found) => Ok(Some(found)),
            Err(errno) => Err(Error::host(format!(
                "open {} in the container",
                path.display()
            ))(errno)),
        }
    }

    /// Opens what is at `path`, made empty with its parents if it is missing, as runc does. Follows
    /// symlinks to where nothing is yet, too, and makes it there.
    pub(super) fn ensure(&self, path: &Path, place: Place) -> Result<OwnedFd, Error> {
        let failed = || Error::host(format!("make {} in the container", path.display()));
        let open = || match place {
            Place::Directory => self.open_with(path, OFlags::PATH | OFlags::DIRECTORY),
            Place::File => self.open_with(path, OFlags::PATH),
        };
        match open() {
            Err(Errno::NOENT) => {}
            found => return found.map_err(failed()),
        }
        let parent = path.parent().ok_or(Errno::NOENT).map_err(failed())?;
        let directory = self.ensure(parent, Place::Directory)?;
        // Without a name it ends in `..`, whose own parent exists now.
        if let Some(name) = path.file_name() {
            match rustix::fs::readlinkat(&directory, name, []) {
                Ok(target) => {
                    let target = std::ffi::OsStr::from_bytes(target.to_bytes());
                    return self.ensure(&parent.join(target), place);
                }
                Err(_) => match place {
                    Place::Directory => {
                        rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755))
                    }
                    Place::File => {
                        let mode = Mode::from_raw_mode(0o644);
                        rustix::fs::mknodat(&directory, name, FileType::RegularFile, mode, 0)
                    }
                }
                .map_err(failed())?,
            }
        }
        open().map_err(failed())
    }

    fn open_with(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in_root(self.0.as_fd(), path, flags)
    }
}

/// A path to what is open, for calls that take no descriptor.
pub(super) fn descriptor_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}
