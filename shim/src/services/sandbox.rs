//! The Sandbox service, by which containerd has pods without a pause container (`sandboxer = "shim"` in CRI's
//! table of runtimes): decode, ask the pod and the containers, encode.
//!
//! The sandbox is a container that holds namespaces ([`crate::confine::Holder`]) under the id of the sandbox,
//! so whoever looks after containers, looks after it: `delete`, statistics, cgroups, the shim's end. Only its
//! events are not told, because containerd publishes its own of a sandbox.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use containerd_shim_protos::sandbox_async::{Sandbox, create_sandbox};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::json;
use tokio::sync::Notify;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::proto::{Code, Request, Response, ResponseInit};

use crate::Error;
use crate::cgroup::usage;
use crate::container::Container;
use crate::containers::{Containers, Creation};
use crate::content::messages::cri::PodSandboxConfig;
use crate::events::timestamp;
use crate::lifecycle::{PhaseKind, Refusal, Signal};
use crate::pod::Pod;
use crate::services::task::detached;
use crate::stats::{CgroupVersion, Consumption, named};
use crate::stdio::StdioPaths;

/// What CRI asks of a pod, by the name of its message.
const CONFIG: &str = "PodSandboxConfig";
/// Methods of newer containerds, which fall back on what they did before when they hear that.
const NEWER: [&str; 2] = ["PortForward", "UpdateSandbox"];

/// The service's state. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SandboxService {
    containers: Containers,
    pod: Arc<OnceLock<Pod>>,
    over: Arc<Notify>,
}

impl SandboxService {
    /// Serves one sandbox among `containers`, whose pod will be in `pod`; `over` is notified when the shim is to
    /// go whatever else there is.
    #[must_use]
    pub fn new(containers: &Containers, pod: Arc<OnceLock<Pod>>, over: Arc<Notify>) -> Self {
        Self {
            containers: containers.muted(),
            pod,
            over,
        }
    }

    /// For a server to register.
    #[must_use]
    pub fn services(&self) -> HashMap<String, Service> {
        let mut services = create_sandbox(Arc::new(self.clone()));
        for service in services.values_mut() {
            for method in NEWER {
                let newer: Box<dyn MethodHandler + Send + Sync> = Box::new(Newer);
                service.methods.insert(method.to_owned(), newer);
            }
        }
        services
    }

    /// The sandbox of that id.
    fn sandbox(&self, id: &str) -> Result<(&Pod, Arc<Container>), Error> {
        match self.pod.get() {
            Some(pod) if pod.id() == id => Ok((pod, self.containers.get(id)?)),
            Some(_) | None => Err(Error::NotFound { id: id.to_owned() }),
        }
    }

    async fn make(self, request: CreateSandboxRequest) -> Result<(), Error> {
        let id = request.sandbox_id;
        if self.pod.get().is_some() {
            return Err(Error::AlreadyExists { id });
        }
        let options = request.options.into_option().unwrap_or_default();
        let name = options.type_url.rsplit(['/', '.']).next();
        if name != Some(CONFIG) {
            return Err(Error::Pod(format!(
                "its options are {:?}, and not CRI's {CONFIG}",
                options.type_url
            )));
        }
        let config = PodSandboxConfig::parse_from_bytes(&options.value)
            .map_err(|error| Error::Pod(format!("its options are no {CONFIG}: {error}")))?;
        let bundle = PathBuf::from(&request.bundle_path);
        let pod = Pod::make(&id, &bundle, Path::new(&request.netns_path), &config)?;
        let creation = Creation {
            request: CreateTaskRequest::default(),
            id,
            bundle: request.bundle_path,
            // A holder has no use for files.
            rootfs: vec![],
            stdio: StdioPaths {
                stdin: String::new(),
                stdout: String::new(),
                stderr: String::new(),
            },
            terminal: false,
        };
        self.containers.create(creation).await?;
        self.pod.set(pod).map_err(|pod| Error::AlreadyExists {
            id: pod.id().to_owned(),
        })
    }

    /// What the pod uses: what the kernel has counted in its cgroup, as containerd's own controller tells it. Without
    /// one, what its wasm containers use together; Linux containers are counted by nobody then.
    async fn usage(&self, id: &str) -> Result<Any, Error> {
        let (pod, _) = self.sandbox(id)?;
        let encoded = match pod.cgroup()? {
            Some(cgroup) => {
                let read = tokio::task::spawn_blocking(move || usage(&cgroup));
                let counted = read.await.map_err(io::Error::other).flatten();
                let counted = counted.map_err(Error::host("read the statistics of the pod"))?;
                named(&*counted)
            }
            None => {
                let containers = self.containers.all();
                let uses = containers.iter().map(|container| container.consumption());
                let all = uses.fold(Consumption::default(), Consumption::and);
                all.metrics(CgroupVersion::of_host())
            }
        };
        encoded
            .map_err(io::Error::other)
            .map_err(Error::host("encode the statistics"))
    }

    /// Ends it, and lets go of all it has.
    async fn end(&self, id: &str) -> Result<(), Error> {
        let container = match self.sandbox(id) {
            Ok((_, container)) => container,
            // Its creation has failed, or somebody else was faster. But others' containers are not its pod's.
            Err(Error::NotFound { .. }) if self.containers.all().is_empty() => return Ok(()),
            Err(error) => return Err(error),
        };
        stop(&container).await?;
        self.containers.delete(id).await.map(drop)
    }
}

/// Ends a sandbox, and waits for that.
async fn stop(container: &Container) -> Result<(), Error> {
    match container.kill(None, Signal::KILL).await {
        Ok(())
        | Err(Error::Refused {
            refusal: Refusal::AlreadyFinished,
            ..
        }) => container.init().exited().await.map(drop),
        Err(error) => Err(error),
    }
}

/// This host's, in the words of Go and OCI images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers methods that this service does not have.
struct Newer;

#[async_trait]
impl MethodHandler for Newer {
    async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        Ok(Response::init_status(ttrpc::get_status(
            Code::UNIMPLEMENTED,
            format!("{} of a sandbox is not supported", request.method),
        )))
    }
}

#[async_trait]
impl Sandbox for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        detached(self.clone().make(request)).await?;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> ttrpc::Result<StartSandboxResponse> {
        let (pod, container) = self.sandbox(&request.sandbox_id)?;
        let pid = container.about().pid;
        detached(async move { container.start(None).await }).await?;
        Ok(StartSandboxResponse {
            pid,
            created_at: MessageField::some(timestamp(pod.created())),
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        _: PlatformRequest,
    ) -> ttrpc::Result<PlatformResponse> {
        let mut response = PlatformResponse::default();
        let platform = response.platform.mut_or_insert_default();
        // Also for wasm: containerd makes specifications for this platform, and takes no statistics of others.
        "linux".clone_into(&mut platform.os);
        architecture().clone_into(&mut platform.architecture);
        Ok(response)
    }

    /// Without the timeout that the request has: a holder ends at once.
    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> ttrpc::Result<StopSandboxResponse> {
        let (_, container) = self.sandbox(&request.sandbox_id)?;
        detached(async move { stop(&container).await }).await?;
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> ttrpc::Result<WaitSandboxResponse> {
        let (_, container) = self.sandbox(&request.sandbox_id)?;
        let exit = container.init().exited().await?;
        Ok(WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> ttrpc::Result<SandboxStatusResponse> {
        let (pod, container) = self.sandbox(&request.sandbox_id)?;
        let now = container.init().snapshot();
        // CRI's names of states.
        let state = match now.phase {
            PhaseKind::Running | PhaseKind::Paused => "SANDBOX_READY",
            PhaseKind::Created | PhaseKind::Ending | PhaseKind::Stopped => "SANDBOX_NOTREADY",
        };
        let pid = container.about().pid;
        let mut info = HashMap::new();
        if request.verbose {
            // What `crictl inspectp` shows.
            let shown = json!({ "pid": pid, "runtimeSpec": pod.spec()? });
            info.insert("info".to_owned(), shown.to_string());
        }
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid,
            state: state.to_owned(),
            info,
            created_at: MessageField::some(timestamp(pod.created())),
            exited_at: now.exit.map(|exit| timestamp(exit.at)).into(),
            ..SandboxStatusResponse::default()
        })
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: PingRequest,
    ) -> ttrpc::Result<PingResponse> {
        self.sandbox(&request.sandbox_id)?;
        Ok(PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> ttrpc::Result<ShutdownSandboxResponse> {
        let service = self.clone();
        detached(async move {
            service.end(&request.sandbox_id).await?;
            service.over.notify_one();
            Ok(())
        })
        .await?;
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> ttrpc::Result<SandboxMetricsResponse> {
        let service = self.clone();
        let id = request.sandbox_id.clone();
        let data = detached(async move { service.usage(&id).await }).await?;
        let mut response = SandboxMetricsResponse::default();
        let metrics = response.metrics.mut_or_insert_default();
        metrics.id = request.sandbox_id;
        metrics.timestamp = MessageField::some(timestamp(std::time::SystemTime::now()));
        metrics.data = MessageField::some(data);
        Ok(response)
    }
}
