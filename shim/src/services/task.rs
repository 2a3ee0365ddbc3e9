//! The Task service, versions 2 and 3, which differ in name only: decode, ask the containers, encode.
//! Protobuf stops here.
//!
//! The server drops a handler's future when the request times out or its connection closes. What
//! changes a container therefore runs in a task of its own, to its end, and the handler only waits for
//! it: a Create whose client went away is complete when the client asks again.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField, MessageFull};
use tokio::sync::Notify;
use ttrpc::r#async::{Service, TtrpcContext};
use wasi_bundles::{ConsoleSize, Process};

use crate::Error;
use crate::container::Container;
use crate::containers::{Containers, Creation};
use crate::events::timestamp;
use crate::exec::Execution;
use crate::lifecycle::{Exit, PhaseKind, Signal};
use crate::pod::Pod;
use crate::services::route::route;
use crate::stats::CgroupVersion;
use crate::stdio::StdioPaths;
use crate::terminal::Console;

/// The generated code registers this name.
const V3: &str = "containerd.task.v3.Task";
/// The same methods and messages, for containerd up to 1.7 and whoever was given a bare address.
const V2: &str = "containerd.task.v2.Task";

/// How containerd names JSON of this type (typeurl's names for the structures of the runtime spec).
const LINUX_RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// The service's state. Cloning shares it.
#[derive(Debug, Clone)]
pub struct TaskService {
    containers: Containers,
    pod: Arc<OnceLock<Pod>>,
    shutdown: Arc<Notify>,
}

impl TaskService {
    /// Serves `containers`, those of `pod` if there is one; `shutdown` is notified when containerd asks the shim to go.
    #[must_use]
    pub fn new(containers: Containers, pod: Arc<OnceLock<Pod>>, shutdown: Arc<Notify>) -> Self {
        Self {
            containers,
            pod,
            shutdown,
        }
    }

    /// Both versions, for a server to register.
    #[must_use]
    pub fn services(&self) -> HashMap<String, Service> {
        let mut services = create_task(Arc::new(self.clone()));
        let mut again = create_task(Arc::new(self.clone()));
        services.extend(again.remove(V3).map(|service| (V2.to_owned(), service)));
        let routed = |(name, service)| (name, route(service, &self.containers));
        services.into_iter().map(routed).collect()
    }
}

/// Runs `work` to its end, whether or not the caller stays to see it.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.map_err(|_| Error::Panicked)?
}

/// Requests name the init by an empty exec id.
fn exec(exec_id: String) -> Option<String> {
    (!exec_id.is_empty()).then_some(exec_id)
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

/// There is no event for it.
async fn delete_exec(container: &Container, exec: String) -> Result<(u32, Exit), Error> {
    let pid = container.process(Some(&exec))?.pid;
    Ok((pid, container.delete(Some(exec)).await?))
}

/// What containerd's clients know an exec's pid by.
fn exec_info(pid: u32, exec_id: &str) -> Result<ProcessInfo, Error> {
    let details = ProcessDetails {
        exec_id: exec_id.to_owned(),
        ..ProcessDetails::default()
    };
    let value = details.write_to_bytes();
    let info = Any {
        type_url: ProcessDetails::descriptor().full_name().to_owned(),
        value: value.map_err(|error| Error::host("list the execs")(io::Error::other(error)))?,
        ..Any::default()
    };
    Ok(ProcessInfo {
        pid,
        info: MessageField::some(info),
        ..ProcessInfo::default()
    })
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> ttrpc::Result<CreateTaskResponse> {
        let creation = Creation {
            request: request.clone(),
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
        let pod = Arc::clone(&self.pod);
        let pid = detached(async move {
            if let Some(pod) = pod.get() {
                pod.furnish(Path::new(&creation.bundle))?;
            }
            containers.create(creation).await
        })
        .await?;
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        let container = self.containers.get(&request.id)?;
        let exec = exec(request.exec_id);
        let pid = container.process(exec.as_deref())?.pid;
        detached(async move { container.start(exec).await }).await?;
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        let container = self.containers.get(&request.id)?;
        let process = container.process(exec(request.exec_id.clone()).as_deref())?;
        let now = process.snapshot();
        let status = match now.phase {
            PhaseKind::Created => Status::CREATED,
            // Until its exit is told.
            PhaseKind::Running | PhaseKind::Ending => Status::RUNNING,
            PhaseKind::Paused => Status::PAUSED,
            PhaseKind::Stopped => Status::STOPPED,
        };
        Ok(StateResponse {
            // An exec's own, as containerd's shim has it.
            id: process.id.clone(),
            exec_id: request.exec_id,
            bundle: container.about().bundle.display().to_string(),
            pid: process.pid,
            status: status.into(),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.terminal.is_some(),
            exit_status: now.exit.map_or(0, |exit| exit.status),
            exited_at: now.exit.map(|exit| timestamp(exit.at)).into(),
            ..StateResponse::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let container = self.containers.get(&request.id)?;
        let process = container.process(exec(request.exec_id).as_deref())?;
        let exit = process.exited().await?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..WaitResponse::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        let signal = Signal(request.signal);
        let exec = exec(request.exec_id);
        detached(async move {
            // As for runc's shim: of an exec there is nothing but itself.
            if request.all && exec.is_none() {
                container.kill_all(signal).await
            } else {
                container.kill(exec, signal).await
            }
        })
        .await?;
        Ok(Empty::new())
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: DeleteRequest,
    ) -> ttrpc::Result<DeleteResponse> {
        let containers = self.containers.clone();
        let (pid, exit) = detached(async move {
            match exec(request.exec_id) {
                None => containers.delete(&request.id).await,
                Some(exec) => delete_exec(&*containers.get(&request.id)?, exec).await,
            }
        })
        .await?;
        Ok(DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..DeleteResponse::default()
        })
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        if request.stdin {
            container.close_stdin(exec(request.exec_id)).await?;
        }
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let container = self.containers.get(&request.id)?;
        // Not empty for a stopped one either: containerd deletes a task without pids when it restarts.
        let mut processes = vec![ProcessInfo {
            pid: container.about().pid,
            ..ProcessInfo::default()
        }];
        for exec in container.execs() {
            if exec.snapshot().exit.is_none() {
                processes.push(exec_info(exec.pid, &exec.id)?);
            }
        }
        Ok(PidsResponse {
            processes,
            ..PidsResponse::default()
        })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: ConnectRequest,
    ) -> ttrpc::Result<ConnectResponse> {
        // An unknown id is no error: containerd would take the shim for dead (contract §1.7).
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.containers.pid(&request.id).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
        self.shutdown.notify_one();
        Ok(Empty::new())
    }

    /// Not detached: an exec whose client went away is nobody's. Exec ids are not asked for again, and
    /// containerd deletes an exec only after it was added.
    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        if request.exec_id.is_empty() {
            return Err(Error::NoExecId.into());
        }
        let origin = format!("the request for exec {}", request.exec_id);
        let process = Process::parse(&request.spec.value, Path::new(&origin));
        let execution = Execution {
            id: request.exec_id,
            process: process.map_err(Error::Bundle)?,
            stdio: StdioPaths {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            },
            terminal: request.terminal,
        };
        container.exec(execution).await?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        let process = container.process(exec(request.exec_id.clone()).as_deref())?;
        resize(process.terminal.as_ref(), &request)?;
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

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let container = self.containers.get(&request.id)?;
        let resources = request.resources.into_option().unwrap_or_default();
        if resources.type_url != LINUX_RESOURCES {
            return Err(Error::Resources {
                found: resources.type_url,
            }
            .into());
        }
        container.update(&resources.value).await?;
        Ok(Empty::new())
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
