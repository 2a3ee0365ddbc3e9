//! A Linux container: whatever is asked of it, the child is asked, byte for byte, and its answer is the
//! answer. The child tells containerd what happens to it, too.
//!
//! Only when the child is gone, this shim speaks for the container: it has ended then.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{TaskDelete, TaskExit};
use containerd_shim_protos::topics;
use protobuf::{Message, MessageDyn, MessageField};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::timeout;
use ttrpc::proto::{Request, Response};

use super::call::Call;
use super::child::Child;
use crate::Error;
use crate::events::{Publisher, timestamp};
use crate::lifecycle::{Exit, Refusal, Signal};

/// For a container of a child that is gone to be cleaned up.
const CLEAN: Duration = Duration::from_secs(10);

/// A container that the child runs.
#[derive(Debug)]
pub struct LinuxContainer {
    created: api::CreateTaskRequest,
    pid: u32,
    child: Arc<Child>,
    events: Publisher,
    /// How it ended, if the child did not live to tell.
    lost: watch::Sender<Option<Exit>>,
    watched: OnceLock<AbortHandle>,
}

impl LinuxContainer {
    /// A container that was just created in `child`, with the process `pid`.
    pub(super) fn new(
        created: api::CreateTaskRequest,
        pid: u32,
        child: Arc<Child>,
        events: Publisher,
    ) -> Self {
        Self {
            created,
            pid,
            child,
            events,
            lost: watch::Sender::new(None),
            watched: OnceLock::new(),
        }
    }

    /// containerd's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.created.id
    }

    /// Its first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// Asks the child, or answers in its place when it is gone.
    ///
    /// # Errors
    ///
    /// What the child answers.
    pub async fn forward(&self, request: Request) -> ttrpc::Result<Response> {
        let method = request.method.clone();
        let lost = *self.lost.borrow();
        if let Some(exit) = lost {
            return self.answer(&method, exit).await;
        }
        match self.child.forward(request).await {
            Err(error) if !is_answer(&error) && self.child.is_gone() => {
                let mut lost = self.lost.subscribe();
                let found = timeout(CLEAN, lost.wait_for(Option::is_some)).await;
                match found.ok().and_then(Result::ok).and_then(|exit| *exit) {
                    Some(exit) => self.answer(&method, exit).await,
                    None => Err(error),
                }
            }
            answer => answer,
        }
    }

    /// Watches over it: when the child is gone, cleans up and tells containerd.
    pub(super) fn watch(self: &Arc<Self>, call: Call) {
        let watcher = tokio::spawn(Arc::clone(self).outlive(call));
        drop(self.watched.set(watcher.abort_handle()));
    }

    /// It is deleted: nobody has to watch over it any more.
    pub(super) fn forget(&self) {
        if let Some(watcher) = self.watched.get() {
            watcher.abort();
        }
    }

    async fn outlive(self: Arc<Self>, call: Call) {
        let request = api::WaitRequest {
            id: self.created.id.clone(),
            ..api::WaitRequest::default()
        };
        let told = match self.child.ask::<api::WaitResponse>("Wait", &request).await {
            Ok(exit) => {
                // From here on the child has only to be there.
                self.child.gone().await;
                Some(exit)
            }
            // Deleted: nobody asks for it any more.
            Err(error) if is_answer(&error) => return,
            Err(_) => None,
        };
        log::error!(
            "the shim of Linux containers is gone, and container {} with it",
            self.id()
        );
        let (id, bundle) = (self.created.id.clone(), PathBuf::from(&self.created.bundle));
        let cleaned = spawn_blocking(move || delete(&call, &id, &bundle)).await;
        let found = match cleaned {
            Ok(Ok(exit)) => exit,
            Ok(Err(error)) => {
                log::error!("cannot clean up container {}: {error}", self.id());
                Exit::unborn(Signal::KILL)
            }
            Err(_) => Exit::unborn(Signal::KILL),
        };
        if let Some(told) = told {
            // By the child, to containerd as well.
            self.lost.send_replace(Some(Exit {
                status: told.exit_status,
                at: time(told.exited_at.as_ref()),
                oom: false,
            }));
            return;
        }
        let exit = found;
        let event = TaskExit {
            container_id: self.created.id.clone(),
            id: self.created.id.clone(),
            pid: self.pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskExit::default()
        };
        let topic = topics::TASK_EXIT_EVENT_TOPIC;
        self.events.publish(topic, &event).await;
        self.lost.send_replace(Some(exit));
    }

    /// What there is to say of a container whose child is gone.
    async fn answer(&self, method: &str, exit: Exit) -> ttrpc::Result<Response> {
        let exited_at = MessageField::some(timestamp(exit.at));
        let refused = |refusal| Error::Refused {
            id: self.created.id.clone(),
            refusal,
        };
        let message: Box<dyn MessageDyn> = match method {
            "State" => Box::new(api::StateResponse {
                id: self.created.id.clone(),
                bundle: self.created.bundle.clone(),
                pid: self.pid,
                status: api::Status::STOPPED.into(),
                stdin: self.created.stdin.clone(),
                stdout: self.created.stdout.clone(),
                stderr: self.created.stderr.clone(),
                terminal: self.created.terminal,
                exit_status: exit.status,
                exited_at,
                ..api::StateResponse::default()
            }),
            "Wait" => Box::new(api::WaitResponse {
                exit_status: exit.status,
                exited_at,
                ..api::WaitResponse::default()
            }),
            "Pids" => Box::new(api::PidsResponse {
                processes: vec![api::ProcessInfo {
                    pid: self.pid,
                    ..api::ProcessInfo::default()
                }],
                ..api::PidsResponse::default()
            }),
            "CloseIO" | "ResizePty" => Box::new(api::Empty::default()),
            "Delete" => {
                let event = TaskDelete {
                    container_id: self.created.id.clone(),
                    pid: self.pid,
                    exit_status: exit.status,
                    exited_at: exited_at.clone(),
                    ..TaskDelete::default()
                };
                let topic = topics::TASK_DELETE_EVENT_TOPIC;
                self.events.publish(topic, &event).await;
                Box::new(api::DeleteResponse {
                    pid: self.pid,
                    exit_status: exit.status,
                    exited_at,
                    ..api::DeleteResponse::default()
                })
            }
            "Kill" => return Err(refused(Refusal::AlreadyFinished).into()),
            "Exec" => return Err(refused(Refusal::NoHome).into()),
            _ => return Err(refused(Refusal::NotRunning).into()),
        };
        let payload = message
            .write_to_bytes_dyn()
            .map_err(|error| ttrpc::Error::Others(error.to_string()))?;
        Ok(Response {
            payload,
            ..Response::default()
        })
    }

    /// Kills it, and waits for its end.
    pub async fn end(&self) {
        let kill = api::KillRequest {
            id: self.created.id.clone(),
            signal: Signal::KILL.0,
            all: true,
            ..api::KillRequest::default()
        };
        let wait = api::WaitRequest {
            id: self.created.id.clone(),
            ..api::WaitRequest::default()
        };
        // One that has ended needs no signal.
        drop(self.child.ask::<api::Empty>("Kill", &kill).await);
        drop(self.child.ask::<api::WaitResponse>("Wait", &wait).await);
    }

    /// Ends it, and forgets it in the child.
    pub async fn discard(&self) {
        self.end().await;
        let delete = api::DeleteRequest {
            id: self.created.id.clone(),
            ..api::DeleteRequest::default()
        };
        drop(
            self.child
                .ask::<api::DeleteResponse>("Delete", &delete)
                .await,
        );
    }
}

/// Runs the `delete` of the shim of Linux containers, whose own process is gone: it ends what is left of
/// the container, and unmounts its files.
///
/// # Errors
///
/// When it cannot be run, or fails.
pub fn delete(call: &Call, id: &str, bundle: &std::path::Path) -> std::io::Result<Exit> {
    let said = call.run(id, bundle, Some(bundle), "delete", b"")?;
    let said = api::DeleteResponse::parse_from_bytes(&said).map_err(std::io::Error::other)?;
    Ok(Exit {
        status: said.exit_status,
        at: time(said.exited_at.as_ref()),
        oom: false,
    })
}

/// Whether the other side has said so, as against one that is gone.
pub(super) fn is_answer(error: &ttrpc::Error) -> bool {
    matches!(error, ttrpc::Error::RpcStatus(_))
}

fn time(at: Option<&protobuf::well_known_types::timestamp::Timestamp>) -> SystemTime {
    let since = at.and_then(|at| {
        let seconds = u64::try_from(at.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(at.nanos).ok()?))
    });
    let at = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    at.unwrap_or_else(SystemTime::now)
}
