//! What a bundle remembers, and `delete`, which cleans up from that.
//!
//! | file | written | says |
//! |---|---|---|
//! | `shim.json` | by `start`, in the first container's bundle | the shim's process |
//! | `pid.json` | at Create | the container's thread |
//! | `exit.json` | when the container has ended | its exit, which outlives the shim |
//! | `cgroups.json` | before they are made | cgroups to remove ([`crate::cgroup`]) |
//! | `poststop/` | at Create, and before each is run | hooks that are owed ([`crate::hooks`]) |
//!
//! Mounts and namespaces need no record: the kernel frees them with the container's thread.
//!
//! containerd runs `delete` when it has lost a shim, but also after every normal Delete, when the shim
//! may serve other containers or be sending its last events. So what is done depends on the shim:
//!
//! | the shim | `delete` |
//! |---|---|
//! | listens and answers | ends this container through it, and touches nothing else |
//! | listens and is silent | kills it |
//! | lives, its socket withdrawn | lets it leave, and kills it only if it does not |
//! | is gone | removes its socket |

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::{Message, MessageField};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::r#async::transport::Socket;
use ttrpc::context;

use crate::StartError;
use crate::events::timestamp;
use crate::flags::Flags;
use crate::lifecycle::{Exit, Signal};
use crate::socket::SocketPath;
use crate::{cgroup, hooks};

/// For a shim to answer, or to leave, which takes it less (`serve.rs`). containerd gives `delete` 5 s in
/// all.
const PATIENCE: Duration = Duration::from_secs(3);
/// For the kernel to end a shim that was killed, after that.
const REAP: Duration = Duration::from_secs(1);

/// The shim's process. The start time tells it from a later process with the same id.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ShimRecord {
    pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/<pid>/stat`.
    start_time: u64,
}

/// The container's thread, whose id its exit is reported with.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PidRecord {
    pid: u32,
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

    /// The process, if it still is the one recorded.
    fn find(&self) -> io::Result<Option<OwnedFd>> {
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
    const FILE: &str = "pid.json";

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

/// How a shim failed to end a container.
enum Failure {
    /// It does not answer, or not any more.
    Silent,
    /// It answers that it cannot.
    Refused(ttrpc::Error),
}

/// Ends what is left of the container `id` in the shim that listens at `socket`.
/// `answered` tells, also when this is given up, whether there was any answer.
async fn end_through(socket: &SocketPath, id: &str, answered: &Cell<bool>) -> ttrpc::Result<()> {
    let stream = socket.connect().and_then(UnixStream::from_std);
    let stream = stream.map_err(|error| ttrpc::Error::Others(error.to_string()))?;
    let tasks = TaskClient::new(Client::new(Socket::from(stream)));
    let id = || id.to_owned();
    let kill = api::KillRequest {
        id: id(),
        signal: Signal::KILL.0,
        ..Default::default()
    };
    let wait = api::WaitRequest {
        id: id(),
        ..Default::default()
    };
    let delete = api::DeleteRequest {
        id: id(),
        ..Default::default()
    };
    let shutdown = api::ShutdownRequest {
        id: id(),
        ..Default::default()
    };
    done(tasks.kill(context::Context::default(), &kill).await)?;
    answered.set(true);
    done(tasks.wait(context::Context::default(), &wait).await)?;
    done(tasks.delete(context::Context::default(), &delete).await)?;
    // containerd may not have said it if it took the shim for dead. With containers left it is no end.
    done(tasks.shutdown(context::Context::default(), &shutdown).await)
}

/// A container that is not there, or not any more, needs no ending.
fn done<T>(answer: ttrpc::Result<T>) -> ttrpc::Result<()> {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::NOT_FOUND => Ok(()),
        answer => answer.map(drop),
    }
}

/// [`end_through`], within `limit`.
fn end_within(socket: &SocketPath, id: &str, limit: Duration) -> io::Result<Result<(), Failure>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answered = Cell::new(false);
    let ended =
        runtime.block_on(async { timeout(limit, end_through(socket, id, &answered)).await });
    Ok(match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ ttrpc::Error::RpcStatus(_))) => Err(Failure::Refused(error)),
        Err(_) if answered.get() => Err(Failure::Refused(ttrpc::Error::Others(format!(
            "the shim answers, but its container {id} has not ended within {limit:?}"
        )))),
        Ok(Err(_)) | Err(_) => Err(Failure::Silent),
    })
}

/// Ends the container `id`, by the table above.
fn clean(bundle: &Path, id: &str, socket: Option<&SocketPath>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    if let Some(socket) = socket.filter(|socket| socket.is_served()) {
        match end_within(socket, id, PATIENCE)? {
            Ok(()) => return Ok(()),
            // It serves others: to kill it for one container is not for `delete` to decide.
            Err(Failure::Refused(error)) => return Err(io::Error::other(error)),
            // It hangs, or has begun to leave: the time that is left tells.
            Err(Failure::Silent) => {}
        }
    }
    if let Some(shim) = read::<ShimRecord>(bundle, ShimRecord::FILE)
        && let Some(process) = shim.find()?
    {
        end(&process, deadline)?;
    }
    // The record is in the bundle of the group's first container: only its `delete` ends the shim.
    if socket.is_some_and(SocketPath::is_served) {
        return Err(io::Error::other("its shim does not answer"));
    }
    Ok(())
}

/// Runs `delete`: ends what is left of the container, removes a socket that nobody serves, and returns
/// the marshalled `DeleteResponse`. May be run any number of times.
///
/// # Errors
///
/// [`StartError`] when something lives on or the socket stays; what could be cleaned is cleaned.
pub fn delete(flags: &Flags) -> Result<Vec<u8>, StartError> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(StartError::io("find the working directory"))?,
    };
    let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
    let socket = SocketPath::from_address(&address);
    let cleaned = clean(&bundle, &flags.id, socket.as_ref());
    if let Some(socket) = socket {
        socket
            .remove_if_dead()
            .map_err(StartError::io(format!("remove {address}")))?;
    }
    cleaned.map_err(StartError::io("end what is left of the container"))?;
    cgroup::sweep(&bundle);
    for complaint in hooks::settle(&bundle, &flags.id) {
        // containerd logs what `delete` says there.
        drop(writeln!(
            io::stderr(),
            "containerd-shim-wasi-v1: {complaint}"
        ));
    }
    let exit = read::<ExitRecord>(&bundle, ExitRecord::FILE).unwrap_or_else(|| {
        // It was killed together with its shim.
        let exit = Exit::unborn(Signal::KILL);
        let pid = read::<PidRecord>(&bundle, PidRecord::FILE).map_or(0, |record| record.pid);
        ExitRecord::new(pid, &exit)
    });
    let response = api::DeleteResponse {
        pid: exit.pid,
        exit_status: exit.status,
        exited_at: MessageField::some(timestamp(exit.at())),
        ..Default::default()
    };
    response
        .write_to_bytes()
        .map_err(|error| StartError::io("encode the answer")(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_means_one_process_for_ever() {
        let own = ShimRecord::of(std::process::id()).unwrap();
        assert!(own.find().unwrap().is_some());
        let earlier = ShimRecord {
            start_time: own.start_time - 1,
            ..own
        };
        assert!(earlier.find().unwrap().is_none());
    }

    #[test]
    fn a_container_that_died_with_its_shim_has_its_pid() {
        let bundle = tempfile::tempdir().unwrap();
        let flags = ["-id", "a", "-namespace", "n", "-bundle"].map(str::to_owned);
        let path = bundle.path().display().to_string();
        let arguments = flags.into_iter().chain([path, "delete".to_owned()]);
        let flags = Flags::parse(arguments).unwrap();
        let answer = || api::DeleteResponse::parse_from_bytes(&delete(&flags).unwrap()).unwrap();
        assert_eq!((answer().pid, answer().exit_status), (0, 137));
        PidRecord::new(42).write(bundle.path()).unwrap();
        assert_eq!((answer().pid, answer().exit_status), (42, 137));
        let exit = Exit {
            status: 7,
            at: SystemTime::now(),
            ..Exit::unborn(Signal::KILL)
        };
        ExitRecord::new(43, &exit).write(bundle.path()).unwrap();
        assert_eq!((answer().pid, answer().exit_status), (43, 7));
    }
}
