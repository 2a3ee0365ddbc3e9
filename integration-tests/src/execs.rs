//! The execs of a task, called as containerd calls them: the methods of the task service with an exec id.

use anyhow::Result;
use containerd_shim_protos::api::{
    DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::events::task::TaskExit;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::fake::FakeContainerd;
use crate::guests;
use crate::receiver::Forwarded;
use crate::tasks::Tasks;

/// Ends a process for certain.
const KILL: u32 = 9;

/// What containerd's clients say of the JSON in an exec's spec.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// One exec, which need not exist.
#[derive(Clone, Debug)]
pub struct Exec<'a> {
    tasks: &'a Tasks,
    container: String,
    id: String,
}

impl Tasks {
    /// The exec `id` of a container.
    #[must_use]
    pub fn exec(&self, container: &str, id: &str) -> Exec<'_> {
        Exec {
            tasks: self,
            container: container.to_owned(),
            id: id.to_owned(),
        }
    }

    /// Sends a signal to a task and all its execs.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn kill_all(&self, id: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request = KillRequest {
            id: id.into(),
            signal,
            all: true,
            ..KillRequest::default()
        };
        self.call("Kill", &request)
    }
}

impl Exec<'_> {
    /// Adds it: `args` as root in `/`, without stdio.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn add(&self, args: &[&str]) -> ttrpc::Result<Empty> {
        self.add_with(args, |_, _| ())
    }

    /// Adds it after a change of the request and of its spec.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn add_with(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut ExecProcessRequest, &mut Value),
    ) -> ttrpc::Result<Empty> {
        let mut spec = json!({ "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/" });
        let mut request = ExecProcessRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
            ..ExecProcessRequest::default()
        };
        change(&mut request, &mut spec);
        let spec = Any {
            type_url: PROCESS.to_owned(),
            value: spec.to_string().into_bytes(),
            ..Any::default()
        };
        request.spec = Some(spec).into();
        self.tasks.call("Exec", &request)
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn start(&self) -> ttrpc::Result<StartResponse> {
        let request = StartRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
            ..StartRequest::default()
        };
        self.tasks.call("Start", &request)
    }

    /// Adds and starts it, and returns its pid.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn run(&self, args: &[&str]) -> ttrpc::Result<u32> {
        self.add(args)?;
        Ok(self.start()?.pid)
    }

    /// Its state.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn state(&self) -> ttrpc::Result<StateResponse> {
        let request = StateRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
            ..StateRequest::default()
        };
        self.tasks.call("State", &request)
    }

    /// Waits for its exit.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn wait(&self) -> ttrpc::Result<WaitResponse> {
        let request = WaitRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
            ..WaitRequest::default()
        };
        self.tasks.call("Wait", &request)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn kill(&self, signal: u32) -> ttrpc::Result<Empty> {
        let request = KillRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
            signal,
            ..KillRequest::default()
        };
        self.tasks.call("Kill", &request)
    }

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// What the shim answers.
    pub fn delete(&self) -> ttrpc::Result<DeleteResponse> {
        let request = DeleteRequest {
            id: self.container.clone(),
            exec_id: self.id.clone(),
            ..DeleteRequest::default()
        };
        self.tasks.call("Delete", &request)
    }
}

/// A created container whose init computes for ever, with programs beside it: `/bin/spins`,
/// `/bin/exits-N` for 0, 3 and 7, and `/script`, which is none.
///
/// # Errors
///
/// When it cannot be made.
pub fn created(fake: &FakeContainerd, id: &str) -> Result<(Tasks, Bundle)> {
    let mut bundle = fake
        .bundle(id)
        .file("/main.wasm", guests::spins()?)
        .file("/bin/spins", guests::spins()?)
        .file("/script", "#!/bin/sh\n");
    for status in [0, 3, 7] {
        bundle = bundle.file(&format!("/bin/exits-{status}"), guests::exits(status)?);
    }
    let bundle = bundle.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    Ok((tasks, bundle))
}

/// The same, started.
///
/// # Errors
///
/// When it cannot be made.
pub fn running(fake: &FakeContainerd, id: &str) -> Result<Tasks> {
    let (tasks, _) = created(fake, id)?;
    tasks.start(id)?;
    Ok(tasks)
}

/// The exits published so far, by the process's id.
#[must_use]
pub fn exits(events: &[Forwarded]) -> Vec<TaskExit> {
    let exits = events.iter().filter(|event| event.topic == "/tasks/exit");
    exits.filter_map(|event| event.decode().ok()).collect()
}

/// Kills the init and waits for its exit event; all exits then, in order.
///
/// # Errors
///
/// When it does not end.
pub fn ends(fake: &FakeContainerd, tasks: &Tasks, id: &str) -> Result<Vec<TaskExit>> {
    tasks.kill(id, KILL)?;
    fake.receiver.wait_until("exit of the init", |events| {
        let exits = exits(events);
        exits.iter().any(|exit| exit.id == id).then_some(exits)
    })
}
