//! What a bundle remembers, and `delete`, which cleans up from that alone after a shim is gone.
//!
//! | file | written | says |
//! |---|---|---|
//! | `shim.json` | by `start`, in the first container's bundle | the shim's process |
//! | `exit.json` | when the container has ended | its exit, which outlives the shim |
//!
//! Mounts and namespaces need no record: the kernel frees them with the container's thread.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::DeleteResponse;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::{Message, MessageField};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::PidfdFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StartError;
use crate::events::timestamp;
use crate::flags::Flags;
use crate::lifecycle::Exit;
use crate::socket::SocketPath;

/// How long `delete` waits for a killed shim, in seconds. containerd gives `delete` 5 s in all.
const REAP: i64 = 3;
/// What a container that was killed with its shim exits with: 128 + SIGKILL.
const KILLED: u32 = 137;

/// The shim's process. The start time tells it from a later process with the same id.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ShimRecord {
    pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/<pid>/stat`.
    start_time: u64,
}

/// How a container ended.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ExitRecord {
    pid: u32,
    status: u32,
    /// Nanoseconds after 1970.
    at: u64,
}

impl ShimRecord {
    const FILE: &str = "shim.json";

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

    /// Kills the process if it still is the one recorded, and waits until it is gone.
    fn kill(&self) -> io::Result<()> {
        let raw = self.pid.cast_signed();
        let Some(pid) = rustix::process::Pid::from_raw(raw) else {
            return Ok(());
        };
        // The descriptor pins the process: after the comparison it cannot be another one's.
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if Self::of(self.pid).ok().as_ref() != Some(self) {
            return Ok(());
        }
        kill(Pid::from_raw(raw), Signal::SIGKILL)?;
        let mut gone = [PollFd::new(&process, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: REAP,
            tv_nsec: 0,
        };
        match rustix::event::poll(&mut gone, Some(&timeout))? {
            0 => Err(io::Error::other(format!("shim {raw} does not die"))),
            _ => Ok(()),
        }
    }
}

impl ExitRecord {
    const FILE: &str = "exit.json";

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

    fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.at)
    }
}

/// Written whole or not at all: a reader never sees half a record.
fn write(bundle: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    let temporary = bundle.join(format!(".{name}"));
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(temporary, bundle.join(name))
}

fn read<T: DeserializeOwned>(bundle: &Path, name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(bundle.join(name)).ok()?).ok()
}

/// Runs `delete`: kills what is left of the shim that `start` made for this bundle, removes its
/// socket, and returns the marshalled `DeleteResponse`. May be run any number of times.
///
/// # Errors
///
/// [`StartError`] when the shim lives on or the socket stays; what could be cleaned is cleaned.
pub fn delete(flags: &Flags) -> Result<Vec<u8>, StartError> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(StartError::io("find the working directory"))?,
    };
    let killed = read::<ShimRecord>(&bundle, ShimRecord::FILE).map_or(Ok(()), |shim| shim.kill());
    let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
    if let Some(socket) = SocketPath::from_address(&address) {
        socket
            .remove_if_dead()
            .map_err(StartError::io(format!("remove {address}")))?;
    }
    killed.map_err(StartError::io("kill the shim"))?;
    let response = match read::<ExitRecord>(&bundle, ExitRecord::FILE) {
        Some(exit) => DeleteResponse {
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at())),
            ..DeleteResponse::default()
        },
        None => DeleteResponse {
            exit_status: KILLED,
            exited_at: MessageField::some(timestamp(SystemTime::now())),
            ..DeleteResponse::default()
        },
    };
    response
        .write_to_bytes()
        .map_err(|error| StartError::io("encode the answer")(io::Error::other(error)))
}
