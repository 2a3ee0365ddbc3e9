//! The Task service, versions 2 and 3, which differ in name only: decode, ask the containers, encode.
//! Protobuf stops here.
//!
//! The server drops a handler's future when the request times out or its connection closes. What
//! changes a container therefore runs in a task of its own, to its end, and the handler only waits for
//! it: a Create whose client went away is complete when the client asks again.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::{Task, create_task};
use protobuf::MessageField;
use tokio::sync::Notify;
use ttrpc::r#async::{Service, TtrpcContext};
use wasi_bundles::ConsoleSize;

use crate::Error;
use crate::containers::{Containers, Creation};
use crate::events::timestamp;
use crate::lifecycle::{PhaseKind, Signal};
use crate::stats::CgroupVersion;
use crate::stdio::StdioPaths;
use crate::terminal::Console;

/// The generated code registers this name.
const V3: &str = "containerd.task.v3.Task";
/// The same methods and messages, for containerd up to 1.7 and whoever was given a bare address.
const V2: &str = "containerd.task.v2.Task";

/// The service's state. Cloning shares it.
#[derive(Debug, Clone)]
pub struct TaskService {
    containers: Containers,
    shutdown: Arc<Notify>,
}

impl TaskService {
    /// Serves `containers`; `shutdown` is notified when containerd asks the shim to go.
    #[must_use]
    pub fn new(containers: Containers, shutdown: Arc<Notify>) -> Self {
        Self {
            containers,
            shutdown,
        }
    }

    /// Both versions, for a server to register.
    #[must_use]
    pub fn services(&self) -> HashMap<String, Service> {
        let mut services = create_task(Arc::new(self.clone()));
        let mut again = create_task(Arc::new(self.clone()));
        services.extend(again.remove(V3).map(|service| (V2.to_owned(), service)));
        services
    }
}

/// Runs `work` to its end, whether or not the caller stays to see it.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(|_| Error::Panicked)?
}

/// There are no execs, so whatever is asked of one is asked of nothing.
fn no_exec(id: &str, exec_id: &str) -> Result<(), Error> {
    if exec_id.is_empty() {
        return Ok(());
    }
    Err(Error::NotFound {
        id: format!("{id}, exec {exec_id}"),
    })
}

/// As runc's shim has it: what has no terminal, or none any more, needs no size.
fn resize(terminal: Option<&Console>, request: &ResizePtyRequest) -> Result<(), Error> {
    let Some(terminal) = terminal else {
        return Ok(());
    };
    let size = ConsoleSize::new(request.height.into(), request.width.into()).ok_or(
        Error::ConsoleSize {
            rows: request.height,
            columns: request.width,
        },
    )?;
    terminal
        .resize(size)
        .map_err(Error::host("resize the terminal"))
}

fn unimplemented<T>(what: &str) -> ttrpc::Result<T> {
    Err(Error::Unimplemented(what.to_owned()).into())
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return unimplemented("restoring a checkpoint");
        }
        let creation = Creation {
            id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            },
            terminal: request.terminal,
        };
        let containers = self.containers.clone();
        let container = detached(async move { containers.create(creation).await }).await?;
        Ok(CreateTaskResponse {
            pid: container.about().pid,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        no_exec(&request.id, &request.exec_id)?;
        let container = self.containers.get(&request.id)?;
        let pid = container.about().pid;
        detached(async move { container.start().await }).await?;
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        no_exec(&request.id, &request.exec_id)?;
        let container = self.containers.get(&request.id)?;
        let (about, now) = (container.about(), container.snapshot());
        let status = match now.phase {
            PhaseKind::Created => Status::CREATED,
            PhaseKind::Running => Status::RUNNING,
            PhaseKind::Paused => Status::PAUSED,
            PhaseKind::Stopped => Status::STOPPED,
        };
        Ok(StateResponse {
            id: about.id.clone(),
            bundle: about.bundle.display().to_string(),
            pid: about.pid,
            status: status.into(),
            stdin: about.stdio.stdin.clone(),
            stdout: about.stdio.stdout.clone(),
            stderr: about.stdio.stderr.clone(),
            terminal: about.terminal.is_some(),
            exit_status: now.exit.map_or(0, |exit| exit.status),
            exited_at: now.exit.map(|exit| timestamp(exit.at)).into(),
            ..StateResponse::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        no_exec(&request.id, &request.exec_id)?;
        let exit = self.containers.get(&request.id)?.exited().await?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..WaitResponse::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        no_exec(&request.id, &request.exec_id)?;
        let container = self.containers.get(&request.id)?;
        detached(async move { container.kill(Signal(request.signal)).await }).await?;
        Ok(Empty::new())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        no_exec(&request.id, &request.exec_id)?;
        let containers = self.containers.clone();
        let (pid, exit) = detached(async move { containers.delete(&request.id).await }).await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..DeleteResponse::default()
        })
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        no_exec(&request.id, &request.exec_id)?;
        if request.stdin {
            self.containers.get(&request.id)?.close_stdin().await?;
        }
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.containers.get(&request.id)?;
        // Not empty for a stopped one either: containerd deletes a task without pids when it restarts.
        let process = ProcessInfo {
            pid: container.about().pid,
            ..ProcessInfo::default()
        };
        Ok(PidsResponse {
            processes: vec![process],
            ..PidsResponse::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        // An unknown id is no error: containerd would take the shim for dead (contract §1.7).
        let container = self.containers.get(&request.id).ok();
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: container.map_or(0, |container| container.about().pid),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.shutdown.notify_one();
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> ttrpc::Result<Empty> {
        unimplemented("exec")
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        no_exec(&request.id, &request.exec_id)?;
        let container = self.containers.get(&request.id)?;
        resize(container.about().terminal.as_ref(), &request)?;
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        detached(async move { container.pause(true).await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        detached(async move { container.pause(false).await }).await?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, _: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        unimplemented("updating resources")
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let consumption = self.containers.get(&request.id)?.consumption();
        let metrics = consumption
            .metrics(CgroupVersion::of_host())
            .map_err(|error| Error::host("encode the statistics")(std::io::Error::other(error)))?;
        Ok(StatsResponse {
            stats: MessageField::some(metrics),
            ..StatsResponse::default()
        })
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        unimplemented("checkpointing")
    }
}
