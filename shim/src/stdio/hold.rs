//! The shim's hold on a fifo that a guest writes to, and when it may let go.
//!
//! A client opens its reading end in its own time: containerd does it on a thread of its own while it asks
//! for the container already (its package `fifo`). What is in a fifo that nobody has open any more is lost,
//! and who opens the reading end after that waits for ever. A guest that ends within a millisecond can be
//! faster than that thread. runc's shim opens the writing end in the way that waits for a reader; here no
//! request waits, and the end of the guest does, if need be: a hold that was taken before there was a reader
//! is kept until there is one. One that was there and has gone, as `ctr run --detach`, is not waited for.
//!
//! It may come back, as a containerd that is restarted does. So what it has not read stays in the fifo as
//! [`Unread`] until it does, or the container is deleted. The end of the stream comes with it: a client reads to that
//! *before* it sends Delete.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// In bytes. It opens a file.
const STACK: usize = 64 << 10;

/// A fifo that is open for both directions.
#[derive(Debug)]
pub(super) struct Hold {
    both: File,
    path: PathBuf,
    /// It had no reader before: one is still to come.
    awaited: bool,
}

/// Output of a guest that has ended, in a fifo without a reader. Let go of when one has come; dropping it
/// throws the output away.
#[derive(Debug)]
pub(super) struct Unread {
    kept: Weak<Kept>,
}

/// What keeps a fifo's content. A thread has it while it waits for a reader.
#[derive(Debug)]
struct Kept {
    /// No reader itself.
    writer: File,
    /// A reader that is none, for the thread to find, however late it looks.
    given_up: OnceLock<File>,
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
            awaited: writer.is_err_and(|error| missing(&error)),
        })
    }

    /// Whether it is one on the fifo `path`. A second one would be taken for a reader by the first.
    pub(super) fn is_of(&self, path: &Path) -> bool {
        self.path == path
    }

    /// Lets go, when there is, or has been, a reader: at once, or within `limit`. Returns what nobody has read.
    pub(super) async fn release(self, limit: Duration) -> Option<Unread> {
        let Self {
            both,
            path,
            awaited,
        } = self;
        // An error is taken for output: what is kept in vain costs little.
        let empty = rustix::io::ioctl_fionread(&both).is_ok_and(|bytes| bytes == 0);
        if empty && !awaited {
            return None;
        }
        let writer = write(&path).ok()?;
        drop(both);
        if !write(&path).is_err_and(|error| missing(&error)) {
            return None;
        }
        let shown = path.display().to_string();
        let (kept, read) = Unread::keep(writer, path)
            .inspect_err(|error| log::warn!("the rest of {shown} is lost: {error}"))
            .ok()?;
        // An error is the sender dropped, which is what is waited for.
        if awaited && timeout(limit, read).await.is_ok() {
            return None;
        }
        if awaited {
            log::warn!(
                "nobody has opened {shown} to read within {limit:?}: the exit does not wait longer"
            );
        }
        Some(kept)
    }
}

impl Unread {
    /// Keeps what `writer`, an end of `path`, is open for. The receiver is told when there is a reader.
    fn keep(writer: File, path: PathBuf) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let kept = Arc::new(Kept {
            writer,
            given_up: OnceLock::new(),
        });
        let unread = Self {
            kept: Arc::downgrade(&kept),
        };
        let (came, read) = oneshot::channel();
        std::thread::Builder::new()
            .name("unread".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Returns when there is a reader (fifo(7)), or the path is gone.
                drop(OpenOptions::new().write(true).open(path));
                drop((kept, came));
            })?;
        Ok((unread, read))
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(kept) = self.kept.upgrade() else {
            return;
        };
        // By the descriptor, which is there also when the path is gone.
        let again = format!("/proc/self/fd/{}", kept.writer.as_raw_fd());
        if let Ok(reader) = both(Path::new(&again)) {
            // Nobody else sets it.
            drop(kept.given_up.set(reader));
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
    use tokio::task::spawn_blocking;

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
        assert!(hold.release(LONG).await.is_none());
        assert_eq!(reader.await.unwrap(), "the last words");
    }

    /// A reader that was there, and has left before the last words.
    fn deserted(folder: &tempfile::TempDir) -> (Hold, PathBuf) {
        let path = fifo(folder);
        let early = both(&path).unwrap();
        let mut hold = Hold::take(&path).unwrap();
        drop(early);
        hold.both.write_all(b"the last words").unwrap();
        (hold, path)
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_gets_the_rest_and_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (hold, path) = deserted(&folder);
        let unread = hold.release(LONG).await.unwrap();
        let read = || {
            let mut text = String::new();
            File::open(&path)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            text
        };
        assert_eq!(read(), "the last words");
        drop(unread);
    }

    #[tokio::test]
    async fn what_nobody_comes_back_for_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let (hold, path) = deserted(&folder);
        let unread = hold.release(LONG).await.unwrap();
        let kept = unread.kept.clone();
        drop(unread);
        // The thread is gone when nobody has it.
        while kept.strong_count() > 0 {
            std::thread::yield_now();
        }
        let mut reader = both(&path).unwrap();
        let read = reader.read(&mut [0]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_reader_that_was_there_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(&folder);
        let early = both(&path).unwrap();
        let hold = Hold::take(&path).unwrap();
        drop(early);
        assert!(hold.release(LONG).await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_never_comes_is_given_up() {
        for removed in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let path = fifo(&folder);
            let hold = Hold::take(&path).unwrap();
            if removed {
                std::fs::remove_file(path).unwrap();
            }
            let unread = hold.release(Duration::ZERO).await;
            assert_eq!(unread.is_none(), removed);
        }
    }
}
