//! The cache's folder: its files by name, the right to write one, and the bound on all.
//!
//! | name | is | written by |
//! |---|---|---|
//! | `NAME.cwasm` | an entry, whole | nobody: it is renamed here, and unlinked at last |
//! | `NAME.tmp` | an entry that is being made | who holds the lock of `NAME` |
//! | `NAME.lock` | the lock of `NAME`, by `flock` | nobody |
//! | the folder | the lock of those who evict, by `flock` | |
//!
//! An entry's time of modification is when it was last used, give or take [`REFRESH`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::Error;

/// How old the note of an entry's last use may become: writing it costs a disk write.
const REFRESH: Duration = Duration::from_secs(3600);

/// An open folder that nobody else can write to.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

/// The right to write one entry.
pub(crate) struct Lock {
    path: String,
    /// Holds the lock, until it is closed.
    _file: File,
}

/// An entry, as eviction sees it. Sorted by last use.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    used: (i64, u64),
    path: String,
    size: u64,
}

impl Folder {
    pub(crate) fn new(directory: OwnedFd) -> Result<Self, Error> {
        let stat = rustix::fs::fstat(&directory)
            .map_err(|error| Error::cache("look at its folder")(error.into()))?;
        let wanted = rustix::process::geteuid().as_raw();
        let mode = stat.st_mode & 0o7777;
        if stat.st_uid != wanted || mode & 0o077 != 0 {
            return Err(Error::CacheOpen {
                uid: stat.st_uid,
                mode,
                wanted,
            });
        }
        Ok(Self(directory))
    }

    pub(crate) fn open(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.0, path, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Gives `from` the name `to`, in whose place it comes.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, path: &str) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.0, path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::cache(format!("remove {path}"))(error.into())),
        }
    }

    /// Waits until this caller is the only one that writes the entry `name`; `busy` is called first
    /// if somebody else does.
    pub(crate) fn lock(&self, name: &str, busy: impl FnOnce()) -> Result<Lock, Error> {
        if let Some(lock) = self.try_lock(name, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(lock);
        }
        busy();
        loop {
            if let Some(lock) = self.try_lock(name, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Nothing, if another holds the lock or has just let go of it.
    fn try_lock(&self, name: &str, operation: FlockOperation) -> Result<Option<Lock>, Error> {
        let path = format!("{name}.lock");
        let lock = || -> io::Result<Option<File>> {
            let file = self.open(&path, OFlags::RDWR | OFlags::CREATE)?;
            match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
                // The holder before unlinks the file: what was locked then is no lock any more.
                Ok(()) => Ok((rustix::fs::fstat(&file)?.st_nlink > 0).then_some(file)),
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        match lock() {
            Ok(locked) => Ok(locked.map(|file| Lock { path, _file: file })),
            Err(error) => Err(Error::cache(format!("lock {path}"))(error)),
        }
    }

    /// Ends the exclusion: the file goes first, so that who waits for it starts anew.
    pub(crate) fn unlock(&self, lock: Lock) -> Result<(), Error> {
        let removed = self.remove(&lock.path);
        drop(lock);
        removed
    }

    /// Removes the entries that were not used for the longest time until the others have at most
    /// `limit` bytes, and what dead processes left. The entry at `kept` stays.
    ///
    /// Who loads one of them at the same time has it open, and who comes later compiles it again.
    pub(crate) fn evict(&self, limit: u64, kept: &str) -> Result<(), Error> {
        let listed = self.list().map_err(Error::cache("list its entries"))?;
        let (mut entries, unfinished, _lock) = listed;
        for name in unfinished {
            if let Some(lock) = self.try_lock(&name, FlockOperation::NonBlockingLockExclusive)? {
                self.remove(&format!("{name}.tmp"))?;
                self.unlock(lock)?;
            }
        }
        entries.sort_unstable();
        let mut total: u64 = entries.iter().map(|entry| entry.size).sum();
        for entry in entries.iter().filter(|entry| entry.path != kept) {
            if total <= limit {
                break;
            }
            self.remove(&entry.path)?;
            total -= entry.size;
        }
        Ok(())
    }

    /// The entries, the names of those being made, and the lock that others wait for who evict.
    fn list(&self) -> io::Result<(Vec<Entry>, BTreeSet<String>, OwnedFd)> {
        // Opened anew, as threads that share a descriptor share its lock.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.0, ".", flags, Mode::empty())?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&folder, FlockOperation::LockExclusive))?;
        let (mut entries, mut unfinished) = (vec![], BTreeSet::new());
        for file in Dir::read_from(&folder)? {
            let file = file?;
            // Names of ours are ASCII; others are none of our business.
            let Ok(path) = file.file_name().to_str() else {
                continue;
            };
            let name = path.strip_suffix(".tmp");
            // Who died with the lock may not have begun, or have finished.
            if let Some(name) = name.or_else(|| path.strip_suffix(".lock")) {
                unfinished.insert(name.to_owned());
            } else if path.ends_with(".cwasm") {
                match rustix::fs::statat(&folder, path, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => entries.push(Entry::new(path, &stat)),
                    // Gone meanwhile.
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok((entries, unfinished, folder))
    }
}

impl Entry {
    fn new(path: &str, stat: &Stat) -> Self {
        Self {
            used: (stat.st_mtime, stat.st_mtime_nsec),
            path: path.to_owned(),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
        }
    }
}

/// Notes that an entry is used now, if that was not noted lately.
pub(crate) fn touch(entry: &File) -> io::Result<()> {
    let (noted, now) = (entry.metadata()?.modified()?, SystemTime::now());
    let age = now
        .duration_since(noted)
        // The clock was turned back; such an entry would be the youngest for ever.
        .unwrap_or_else(|ahead| ahead.duration());
    if age > REFRESH {
        entry.set_modified(now)?;
    }
    Ok(())
}
