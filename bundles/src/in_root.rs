//! Opening what a path means to a container: the kernel resolves it with the container's root as the
//! root of everything (`openat2`, `RESOLVE_IN_ROOT`).

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// How often the kernel may be asked again whether `..` stayed inside of the root: it gives up when
/// anything on the host is renamed or mounted meanwhile.
const ATTEMPTS: usize = 128;

/// Opens `path` inside of `root`. Absolute symlinks and `..` mean what they mean to the container and
/// never leave it; links of procfs that are no paths are not followed.
///
/// # Errors
///
/// What the kernel says; `EAGAIN` only if it said so for a long time.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts > 0 => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::fd::AsFd,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn renames_elsewhere_do_not_get_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/a/b")).unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        let root = File::open(dir.path().join("root")).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::rename(dir.path().join("x"), dir.path().join("y")).unwrap();
                    fs::rename(dir.path().join("y"), dir.path().join("x")).unwrap();
                }
            });
            let path = Path::new("/a/b/../../../../a/b/..");
            let opened = (0..2000)
                .map(|_| open_in_root(root.as_fd(), path, OFlags::PATH))
                .find_map(Result::err);
            done.store(true, Ordering::Relaxed);
            assert_eq!(opened, None);
        });
    }
}
