//! The records in a bundle: who the shim is, who the container is, how it ended.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::lifecycle::Exit;

/// For the kernel to end a shim that was killed, after that.
const REAP: Duration = Duration::from_secs(1);

/// The shim's process. The start time tells it from a later process with the same id.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct ShimRecord {
    pub(super) pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/<pid>/stat`.
    pub(super) start_time: u64,
}

/// The container's thread, whose id its exit is reported with.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PidRecord {
    pub(super) pid: u32,
}

/// How a container ended.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ExitRecord {
    pub(super) pid: u32,
    pub(super) status: u32,
    /// Nanoseconds after 1970.
    at: u64,
}

impl ShimRecord {
    pub(super) const FILE: &str = "shim.json";

    /// The record of a running process.
    ///
    /// # Errors
    ///
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the program's name in parentheses, which may contain anything.
        let start_time = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_whitespace().nth(19)?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("cannot read /proc/{pid}/stat")))?;
        Ok(Self { pid, start_time })
    }

    /// Writes it into `bundle`.
    ///
    /// # Errors
    ///
    /// Whatever the file system says.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        write(bundle, Self::FILE, self)
    }

    /// The record in `bundle`, if there is one.
    #[must_use]
    pub fn read(bundle: &Path) -> Option<Self> {
        read(bundle, Self::FILE)
    }

    /// Waits for the process until `deadline`, then kills it.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn end(&self, deadline: Instant) -> io::Result<()> {
        self.find()?
            .map_or(Ok(()), |process| end(&process, deadline))
    }

    /// The process, if it still is the one recorded.
    pub(super) fn find(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid.cast_signed()) else {
            return Ok(None);
        };
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Compared after it was opened: if the id has the recorded process now, it had it then, too.
        // From here on only the descriptor is used, which never means another process.
        let same = Self::of(self.pid).is_ok_and(|now| now == *self);
        Ok(same.then_some(process))
    }
}

/// Waits until a process has ended, and returns whether it has.
fn ends_within(process: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    let events = rustix::io::retry_on_intr(|| rustix::event::poll(&mut ended, Some(&limit)))?;
    Ok(events > 0)
}

/// Waits for a process until `deadline`, then kills it.
fn end(process: &OwnedFd, deadline: Instant) -> io::Result<()> {
    if ends_within(process, deadline.saturating_duration_since(Instant::now()))? {
        return Ok(());
    }
    match rustix::process::pidfd_send_signal(process.as_fd(), rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    if ends_within(process, REAP)? {
        Ok(())
    } else {
        Err(io::Error::other("it does not die"))
    }
}

impl PidRecord {
    pub(super) const FILE: &str = "pid.json";

    /// The record of the container whose thread has the id `pid`.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Writes it into `bundle`.
    ///
    /// # Errors
    ///
    /// Whatever the file system says.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        write(bundle, Self::FILE, self)
    }
}

impl ExitRecord {
    pub(super) const FILE: &str = "exit.json";

    /// The record of the exit of the container whose thread had the id `pid`.
    #[must_use]
    pub fn new(pid: u32, exit: &Exit) -> Self {
        let at = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            pid,
            status: exit.status,
            at: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Writes it into `bundle`.
    ///
    /// # Errors
    ///
    /// Whatever the file system says.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        write(bundle, Self::FILE, self)
    }

    pub(super) fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.at)
    }
}

/// Written whole or not at all: a reader never sees half a record.
fn write(bundle: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    let temporary = bundle.join(format!(".{name}"));
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(temporary, bundle.join(name))
}

pub(super) fn read<T: DeserializeOwned>(bundle: &Path, name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(bundle.join(name)).ok()?).ok()
}
