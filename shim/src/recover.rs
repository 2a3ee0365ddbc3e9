//! What a bundle remembers, and `delete`, which cleans up from that.
//!
//! | file | written | says |
//! |---|---|---|
//! | `shim.json` | by `start`, in the first container's bundle | the shim's process |
//! | `pid.json` | at Create | the container's thread |
//! | `exit.json` | when the container has ended | its exit, which outlives the shim |
//! | `cgroups.json` | before they are made | cgroups to remove ([`crate::cgroup`]) |
//! | `runc-shim/` | when the first Linux container comes | the shim of those, and what ends them ([`crate::runc`]) |
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

mod records;

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::{Message, MessageField};
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::r#async::transport::Socket;
use ttrpc::context;

use self::records::read;
pub use self::records::{ExitRecord, PidRecord, ShimRecord};
use crate::StartError;
use crate::events::timestamp;
use crate::flags::Flags;
use crate::lifecycle::{Exit, Signal};
use crate::runc::{child, container, kept, pause};
use crate::socket::SocketPath;
use crate::{cgroup, hooks};

/// For a shim to answer, or to leave, which takes it less (`serve.rs`). containerd gives `delete` 5 s in
/// all.
const PATIENCE: Duration = Duration::from_secs(3);

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

/// Ends the container `id`, by the table above. Whether the shim is there, or leaves by itself.
fn clean(bundle: &Path, id: &str, socket: Option<&SocketPath>) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    if let Some(socket) = socket.filter(|socket| socket.is_served()) {
        match end_within(socket, id, PATIENCE)? {
            Ok(()) => return Ok(true),
            // It serves others: to kill it for one container is not for `delete` to decide.
            Err(Failure::Refused(error)) => return Err(io::Error::other(error)),
            // It hangs, or has begun to leave: the time that is left tells.
            Err(Failure::Silent) => {}
        }
    }
    if let Some(shim) = ShimRecord::read(bundle) {
        shim.end(deadline)?;
    }
    // The record is in the bundle of the group's first container: only its `delete` ends the shim.
    if socket.is_some_and(SocketPath::is_served) {
        return Err(io::Error::other("its shim does not answer"));
    }
    Ok(false)
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
    let lives = cleaned.map_err(StartError::io("end what is left of the container"))?;
    for complaint in hooks::settle(&bundle, &flags.id) {
        complain(&complaint);
    }
    if !lives {
        end_orphans(flags, &bundle);
    }
    // What was ended above may have been in them.
    cgroup::sweep(&bundle);
    let known = linux_exit(flags, &bundle).or_else(|| read(&bundle, ExitRecord::FILE));
    let exit = known.unwrap_or_else(|| {
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

/// Ends what a dead shim has left of Linux containers, if it was that of this bundle.
fn end_orphans(flags: &Flags, bundle: &Path) {
    if let Err(error) = child::end_orphan(bundle) {
        complain(&format!("cannot end the shim of Linux containers: {error}"));
    }
    if let Err(error) = kept::end_orphans(&flags.into(), bundle) {
        complain(&format!("cannot end a Linux container of the pod: {error}"));
    }
    if let Err(error) = pause::end_orphan(&flags.into(), &flags.id, bundle) {
        complain(&format!("cannot end the pause container: {error}"));
    }
}

/// containerd logs what `delete` says there.
fn complain(complaint: &str) {
    drop(writeln!(
        io::stderr(),
        "containerd-shim-wasi-v1: {complaint}"
    ));
}

/// The exit of a Linux container, which the shim of those has left a file of in the bundle. It cleans up
/// what there is of it.
fn linux_exit(flags: &Flags, bundle: &Path) -> Option<ExitRecord> {
    let pid = fs::read_to_string(bundle.join("init.pid")).ok()?;
    match container::delete(&flags.into(), &flags.id, bundle) {
        Ok(exit) => Some(ExitRecord::new(
            pid.trim().parse().unwrap_or_default(),
            &exit,
        )),
        Err(error) => {
            complain(&error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

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
