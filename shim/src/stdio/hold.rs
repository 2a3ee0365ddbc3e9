//! The shim's hold on a fifo that a guest writes to, and when it may let go.
//!
//! A client opens its reading end in its own time: containerd does it on a thread of its own while it asks
//! for the container already (its package `fifo`). What is in a fifo that nobody has open any more is lost,
//! and who opens the reading end after that waits for ever. A guest that ends within a millisecond can be
//! faster than that thread. runc's shim opens the writing end in the way that waits for a reader; here no
//! request waits, and the end of the guest does, if need be: a hold that was taken before there was a reader
//! is kept until there is one. One that was there and has gone, as `ctr run --detach`, is not waited for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// A fifo that is open for both directions.
#[derive(Debug)]
pub(super) struct Hold {
    both: File,
    path: PathBuf,
    /// It had no reader before.
    unread: bool,
}

impl Hold {
    /// Takes hold of the fifo `path`, without waiting for anybody.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        let writer = write(path);
        // The writer stays until this is open: a reader that it wakes shall not find the end.
        let both = both(path)?;
        Ok(Self {
            both,
            path: path.to_owned(),
            unread: writer.is_err_and(|error| missing(&error)),
        })
    }

    /// Whether it is one on the fifo `path`. A second one would be taken for a reader by the first.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.path == path
    }

    /// Lets go, when there is, or has been, a reader: at once, or within `limit`.
    pub(super) async fn release(self, limit: Duration) {
        let Self { both, path, unread } = self;
        if !unread {
            return;
        }
        // Holds what was written, and is no reader itself.
        let Ok(kept) = write(&path) else { return };
        drop(both);
        if !write(&path).is_err_and(|error| missing(&error)) {
            return;
        }
        let shown = path.display().to_string();
        let opening = spawn_blocking(move || OpenOptions::new().write(true).open(path));
        if timeout(limit, opening).await.is_err() {
            log::warn!("{shown} is let go of: nobody has opened it to read within {limit:?}");
            // Wakes the thread that waits, also when the path is gone meanwhile.
            let again = format!("/proc/self/fd/{}", kept.as_raw_fd());
            drop(self::both(Path::new(&again)));
        }
    }
}

/// Whether there is no reader (fifo(7)).
fn missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

/// Open for both directions.
pub(super) fn both(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true);
    options.custom_flags(libc::O_NONBLOCK).open(path)
}

/// The writing end; `ENXIO` without a reader (fifo(7)).
fn write(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_NONBLOCK);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(600);

    fn fifo(folder: &tempfile::TempDir) -> PathBuf {
        let path = folder.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        path
    }

    #[tokio::test]
    async fn a_reader_that_comes_late_gets_all_and_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder);
        let mut hold = Hold::take(&path).unwrap();
        hold.both.write_all(b"the last words").unwrap();
        let reader = spawn_blocking(move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        hold.release(LONG).await;
        assert_eq!(reader.await.unwrap(), "the last words");
    }

    #[tokio::test]
    async fn a_reader_that_was_there_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder);
        let early = both(&path).unwrap();
        let hold = Hold::take(&path).unwrap();
        drop(early);
        hold.release(LONG).await;
    }

    #[tokio::test]
    async fn a_reader_that_never_comes_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let hold = Hold::take(&fifo(&folder)).unwrap();
        // The folder goes, and the thread that waits must go all the same: the runtime's end waits for it.
        let removed = folder.close();
        hold.release(Duration::ZERO).await;
        removed.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let hold = Hold::take(&fifo(&folder)).unwrap();
        hold.release(Duration::ZERO).await;
    }
}
