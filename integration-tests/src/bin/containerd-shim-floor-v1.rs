//! A shim that does nothing, as fast as it can: what `ctr run` costs before any container is run.
//!
//! It answers what containerd 1.6 to 2.2 ask (task API v2, bare address), mounts nothing, publishes nothing, and
//! reports its own pid. A task ends with status 0 as soon as it is started. The benchmark subtracts it.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, KillRequest, PidsRequest, PidsResponse, ProcessInfo,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, Status, WaitRequest,
    WaitResponse,
};
use containerd_shim_protos::{Task, create_task};
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message as _, MessageField};
use sha2::{Digest as _, Sha256};
use ttrpc::{MethodHandler, Server, TtrpcContext};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.last().map(String::as_str) {
        Some("start") => start(&args),
        Some("serve") => serve(&args),
        Some("delete") => {
            let gone = DeleteResponse {
                exit_status: 137,
                exited_at: now(),
                ..Default::default()
            };
            std::io::stdout()
                .write_all(&gone.write_to_bytes()?)
                .context("answer delete")
        }
        // The answer to `-info` may be empty: an empty message.
        Some("-info" | "-v") => Ok(()),
        other => bail!("start, serve or delete, not {other:?}"),
    }
}

/// Binds the socket, leaves a server behind, and says where.
fn start(args: &[String]) -> Result<()> {
    let socket = socket(args)?;
    let folder = socket.parent().context("the sockets' folder")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .context("make the sockets' folder")?;
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("bind {}", socket.display()))?;
    Command::new(std::env::current_exe().context("find myself")?)
        .args(&args[..args.len() - 1])
        .arg("serve")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("leave a server behind")?;
    let address = format!("unix://{}", socket.display());
    std::fs::write("address", &address).context("write the address file")?;
    std::io::stdout()
        .write_all(address.as_bytes())
        .context("answer start")
}

/// Serves on the listener that is fd 0, until Shutdown.
fn serve(args: &[String]) -> Result<()> {
    let (done, shutdown) = mpsc::channel();
    let service = Arc::new(Floor {
        state: Mutex::default(),
        changed: Condvar::new(),
        done,
    });
    let methods: HashMap<String, Box<dyn MethodHandler + Send + Sync>> = create_task(service)
        .into_iter()
        .map(|(name, method)| {
            (
                name.replace("containerd.task.v3", "containerd.task.v2"),
                method,
            )
        })
        .collect();
    let mut server = Server::new()
        .add_listener(0)
        .context("take the listener")?
        .register_service(methods);
    server.start().context("serve")?;
    shutdown.recv().context("wait for Shutdown")?;
    std::fs::remove_file(socket(args)?).context("remove the socket")?;
    server.shutdown();
    Ok(())
}

fn socket(args: &[String]) -> Result<PathBuf> {
    let value = |flag: &str| {
        let at = args
            .iter()
            .position(|arg| arg == flag)
            .with_context(|| format!("no {flag}"))?;
        args.get(at + 1)
            .with_context(|| format!("no value of {flag}"))
    };
    let key = format!(
        "floor/{}/{}/{}",
        value("-address")?,
        value("-namespace")?,
        value("-id")?
    );
    Ok(PathBuf::from(format!(
        "/run/containerd/s/{:x}",
        Sha256::digest(key)
    )))
}

#[derive(Default)]
struct State {
    stdio: Vec<String>,
    started: bool,
}

struct Floor {
    state: Mutex<State>,
    changed: Condvar,
    done: Sender<()>,
}

impl Task for Floor {
    fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stdio = vec![request.stdout, request.stderr];
        Ok(CreateTaskResponse {
            pid: std::process::id(),
            ..Default::default()
        })
    }

    fn start(&self, _: &TtrpcContext, _: StartRequest) -> ttrpc::Result<StartResponse> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for fifo in state.stdio.iter().filter(|path| !path.is_empty()) {
            // Opened and closed: the client sees the end of the stream. Without a client there is nobody to see it.
            let nonblocking =
                i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
            OpenOptions::new()
                .write(true)
                .custom_flags(nonblocking)
                .open(fifo)
                .ok();
        }
        state.started = true;
        self.changed.notify_all();
        Ok(StartResponse {
            pid: std::process::id(),
            ..Default::default()
        })
    }

    fn wait(&self, _: &TtrpcContext, _: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(state, |state| !state.started));
        Ok(WaitResponse {
            exited_at: now(),
            ..Default::default()
        })
    }

    fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let started = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .started;
        let status = if started {
            Status::STOPPED
        } else {
            Status::CREATED
        };
        let pid = std::process::id();
        Ok(StateResponse {
            id: request.id,
            pid,
            status: status.into(),
            exited_at: now(),
            ..Default::default()
        })
    }

    fn pids(&self, _: &TtrpcContext, _: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let own = ProcessInfo {
            pid: std::process::id(),
            ..Default::default()
        };
        Ok(PidsResponse {
            processes: vec![own],
            ..Default::default()
        })
    }

    fn kill(&self, _: &TtrpcContext, _: KillRequest) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }

    fn close_io(&self, _: &TtrpcContext, _: CloseIORequest) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }

    fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        let pid = std::process::id();
        Ok(ConnectResponse {
            shim_pid: pid,
            task_pid: pid,
            ..Default::default()
        })
    }

    fn delete(&self, _: &TtrpcContext, _: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        Ok(DeleteResponse {
            pid: std::process::id(),
            exited_at: now(),
            ..Default::default()
        })
    }

    fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        // A second Shutdown finds the server ending already.
        self.done.send(()).ok();
        Ok(Empty::new())
    }
}

fn now() -> MessageField<Timestamp> {
    Some(Timestamp::now()).into()
}
