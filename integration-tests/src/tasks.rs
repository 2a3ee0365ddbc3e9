//! The task service of a shim, called as containerd calls it, by either of its names.
//!
//! `containerd.task.v2.Task` and `containerd.task.v3.Task` have the same messages: only the name differs.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use ttrpc::{Client, Code};

use crate::bundle::Bundle;

/// How containerd names the resources of an update.
pub const LINUX_RESOURCES: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Under which name the service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `containerd.task.v2.Task`
    V2,
    /// `containerd.task.v3.Task`
    V3,
}

impl Api {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V2, Self::V3];

    fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => "containerd.task.v3.Task",
        }
    }
}

/// A connection to a shim.
#[derive(Clone)]
pub struct Tasks {
    client: Client,
    api: Api,
    patience: Duration,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

impl Tasks {
    /// Connects to `unix://...`.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub fn connect(address: &str, api: Api) -> Result<Self> {
        let client = Client::connect(address).with_context(|| format!("connect to {address}"))?;
        Ok(Self {
            client,
            api,
            patience: Duration::from_secs(20),
        })
    }

    /// How long an answer may take, 20 s by default; the shim is told.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Any method.
    ///
    /// # Errors
    ///
    /// What the shim answers, or that it did not within its patience.
    pub fn call<Q: Message, A: Message>(&self, method: &str, request: &Q) -> ttrpc::Result<A> {
        let other = |error: protobuf::Error| ttrpc::Error::Others(error.to_string());
        let mut envelope = ttrpc::Request::new();
        self.api.service().clone_into(&mut envelope.service);
        method.clone_into(&mut envelope.method);
        envelope.timeout_nano = i64::try_from(self.patience.as_nanos()).unwrap_or(i64::MAX);
        envelope.payload = request.write_to_bytes().map_err(other)?;
        let response = self.client.request(envelope)?;
        A::parse_from_bytes(&response.payload).map_err(other)
    }

    /// Sends a request over a connection of its own, which is closed before the answer can come.
    ///
    /// # Errors
    ///
    /// When nobody listens at `address`.
    pub fn abandon<Q: Message>(address: &str, method: &str, request: &Q) -> Result<()> {
        let mut envelope = ttrpc::Request::new();
        Api::V3.service().clone_into(&mut envelope.service);
        method.clone_into(&mut envelope.method);
        envelope.payload = request.write_to_bytes()?;
        let envelope = envelope.write_to_bytes()?;
        // ttrpc's frame: length, stream 1, a request, no flags.
        let mut frame = u32::try_from(envelope.len())?.to_be_bytes().to_vec();
        frame.extend([0, 0, 0, 1, 1, 0]);
        frame.extend(envelope);
        let mut stream = UnixStream::connect(address.trim_start_matches("unix://"))?;
        stream.write_all(&frame)?;
        Ok(())
    }

    /// Creates the task of a bundle, without stdio.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn create(&self, bundle: &Bundle) -> ttrpc::Result<CreateTaskResponse> {
        self.create_with(bundle, |_| ())
    }

    /// Creates the task of a bundle after a change of the request.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn create_with(
        &self,
        bundle: &Bundle,
        change: impl FnOnce(&mut CreateTaskRequest),
    ) -> ttrpc::Result<CreateTaskResponse> {
        let mut request = CreateTaskRequest::new();
        bundle.id().clone_into(&mut request.id);
        request.bundle = bundle.path().display().to_string();
        change(&mut request);
        self.call("Create", &request)
    }

    /// Starts a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn start(&self, id: &str) -> ttrpc::Result<StartResponse> {
        self.call(
            "Start",
            &StartRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Closes what the shim holds of a task's stdin.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn close_stdin(&self, id: &str) -> ttrpc::Result<Empty> {
        self.call(
            "CloseIO",
            &CloseIORequest {
                id: id.into(),
                stdin: true,
                ..Default::default()
            },
        )
    }

    /// Resizes a task's terminal.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn resize(&self, id: &str, width: u32, height: u32) -> ttrpc::Result<Empty> {
        self.call(
            "ResizePty",
            &ResizePtyRequest {
                id: id.into(),
                width,
                height,
                ..Default::default()
            },
        )
    }

    /// Waits for the exit of a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn wait(&self, id: &str) -> ttrpc::Result<WaitResponse> {
        self.call(
            "Wait",
            &WaitRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Sends a signal to a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn kill(&self, id: &str, signal: u32) -> ttrpc::Result<Empty> {
        self.call(
            "Kill",
            &KillRequest {
                id: id.into(),
                signal,
                ..Default::default()
            },
        )
    }

    /// Pauses a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn pause(&self, id: &str) -> ttrpc::Result<Empty> {
        self.call(
            "Pause",
            &PauseRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Resumes a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn resume(&self, id: &str) -> ttrpc::Result<Empty> {
        self.call(
            "Resume",
            &ResumeRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// The state of a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn state(&self, id: &str) -> ttrpc::Result<StateResponse> {
        self.call(
            "State",
            &StateRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Deletes a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn delete(&self, id: &str) -> ttrpc::Result<DeleteResponse> {
        self.call(
            "Delete",
            &DeleteRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// The processes of a task.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn pids(&self, id: &str) -> ttrpc::Result<PidsResponse> {
        self.call(
            "Pids",
            &PidsRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Changes limits: `resources` is JSON of the type that containerd sends.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn update(&self, id: &str, resources: &str) -> ttrpc::Result<Empty> {
        let resources = Any {
            type_url: LINUX_RESOURCES.to_owned(),
            value: resources.into(),
            ..Default::default()
        };
        self.call(
            "Update",
            &UpdateTaskRequest {
                id: id.into(),
                resources: Some(resources).into(),
                ..Default::default()
            },
        )
    }

    /// What a task uses: the message of either cgroup version.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn stats(&self, id: &str) -> ttrpc::Result<Any> {
        let request = StatsRequest {
            id: id.into(),
            ..Default::default()
        };
        let answer: StatsResponse = self.call("Stats", &request)?;
        Ok(answer.stats.unwrap_or_default())
    }

    /// Who the shim is.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn connect_task(&self, id: &str) -> ttrpc::Result<ConnectResponse> {
        self.call(
            "Connect",
            &ConnectRequest {
                id: id.into(),
                ..Default::default()
            },
        )
    }

    /// Tells the shim that a task of it is done with; it exits when none is left.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn shutdown(&self, id: &str) -> ttrpc::Result<()> {
        let request = ShutdownRequest {
            id: id.into(),
            ..Default::default()
        };
        match self.call::<_, Empty>("Shutdown", &request) {
            Err(refusal @ ttrpc::Error::RpcStatus(_)) => Err(refusal),
            // A shim may be gone before its answer is out; to containerd that is an answer.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// The code of a refusal; none for a success or a broken connection.
pub fn code<T>(answer: &ttrpc::Result<T>) -> Option<Code> {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) => status.code.enum_value().ok(),
        Ok(_) | Err(_) => None,
    }
}

/// What a refusal says.
#[must_use]
pub fn message<T>(answer: ttrpc::Result<T>) -> String {
    match answer {
        Err(ttrpc::Error::RpcStatus(status)) => status.message,
        Err(error) => error.to_string(),
        Ok(_) => "success".to_owned(),
    }
}
