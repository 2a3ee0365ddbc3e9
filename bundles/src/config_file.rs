//! The file that middleware is configured with: one of the container, of its image or of a mount such as the
//! volume of a ConfigMap, whose links mean what they mean to the container.
//!
//! It is read once, whole. Reading it is the one thing here that is to be done with the rights of the container's
//! user: who may set annotations of a container is not thereby root in its volumes.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno};

use crate::{Error, entrypoint::irregular, open_in_root};

/// The most that it may have, in bytes: as much as a ConfigMap.
const LIMIT: u64 = 1 << 20;

/// What the file at `path` inside of `root` has.
///
/// # Errors
///
/// [`Error::ConfigFile`].
pub(crate) fn read(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, Error> {
    contents(root, Path::new(path)).map_err(|reason| Error::ConfigFile {
        path: path.to_owned(),
        reason,
    })
}

/// The same; why not.
fn contents(root: BorrowedFd<'_>, path: &Path) -> Result<Vec<u8>, String> {
    // As for the entrypoint: to open what is no file can do things, or hang.
    open_regular(root, path, OFlags::PATH)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open_regular(root, path, flags)?);
    let mut bytes = Vec::new();
    // What it says of its length it need not keep.
    let read = file.take(LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("it has more than {LIMIT} bytes"));
    }
    Ok(bytes)
}

fn open_regular(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, String> {
    let opened = open_in_root(root, path, flags).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => {
            "the container has no such file; mount it, or name another".to_owned()
        }
        Errno::ACCESS | Errno::PERM => {
            "the container's user may not read it; let the user, or a group of it".to_owned()
        }
        errno => io::Error::from(errno).to_string(),
    })?;
    match irregular(&opened) {
        Ok(None) => Ok(opened),
        Ok(Some(what)) => Err(format!("it is {what}, and no file")),
        Err(errno) => Err(io::Error::from(errno).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read_in(root: &Path, path: &str) -> Result<Vec<u8>, String> {
        let root = File::open(root).unwrap();
        read(root.as_fd(), path).map_err(|error| error.to_string())
    }

    #[test]
    fn links_mean_what_they_mean_to_the_container() {
        let folder = tempfile::tempdir().unwrap();
        // As the kubelet writes the volume of a ConfigMap.
        let volume = folder.path().join("etc/rules");
        fs::create_dir_all(volume.join("..2026")).unwrap();
        fs::write(volume.join("..2026/rules.json"), b"\0rules\n").unwrap();
        symlink("..2026", volume.join("..data")).unwrap();
        symlink("..data/rules.json", volume.join("rules.json")).unwrap();
        symlink("/etc/rules/rules.json", folder.path().join("absolute")).unwrap();
        for path in ["/etc/rules/rules.json", "/absolute", "/../../absolute"] {
            // Every byte of it, and no other.
            assert_eq!(
                read_in(folder.path(), path).unwrap(),
                b"\0rules\n",
                "{path}"
            );
        }
        symlink("/../../../../../etc/passwd", folder.path().join("out")).unwrap();
        let error = read_in(folder.path(), "/out").unwrap_err();
        assert!(error.contains("no such file"), "{error}");
    }

    #[test]
    fn what_is_no_file_or_too_much_of_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), mode).unwrap();
        let limit = usize::try_from(LIMIT).unwrap();
        fs::write(at("most"), vec![b'x'; limit]).unwrap();
        fs::write(at("more"), vec![b'x'; limit + 1]).unwrap();
        fs::write(at("nothing"), "").unwrap();
        symlink("loop", at("loop")).unwrap();
        assert_eq!(read_in(folder.path(), "/most").unwrap().len(), limit);
        assert_eq!(read_in(folder.path(), "/nothing").unwrap(), b"");
        for (path, reason) in [
            ("/missing", "no such file"),
            ("/most/below", "no such file"),
            ("/folder", "it is a directory"),
            // Nobody writes to it: to wait for that would be for ever.
            ("/fifo", "it is a FIFO"),
            ("/more", "it has more than 1048576 bytes"),
            ("/loop", "symbolic link"),
        ] {
            let error = read_in(folder.path(), path).unwrap_err();
            assert!(error.contains(reason), "{path}: {error}");
            assert!(error.contains(path), "{path}: {error}");
        }
    }
}
