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
/// For the connections of a child that ends: they close one after the other.
const GOING: Duration = Duration::from_secs(1);

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
        let lost = *self.lost.borrow();
        if let Some(exit) = lost {
            return self.answer(&request, exit).await;
        }
        let error = match self.child.forward(request.clone()).await {
            Err(error) if !is_answer(&error) => error,
            answer => return answer,
        };
        if timeout(GOING, self.child.gone()).await.is_err() {
            return Err(error);
        }
        let mut lost = self.lost.subscribe();
        let found = timeout(CLEAN, lost.wait_for(Option::is_some)).await;
        match found.ok().and_then(Result::ok).and_then(|exit| *exit) {
            Some(exit) => self.answer(&request, exit).await,
            None => Err(error),
        }
    }

    /// Whether its process runs. When the child is gone, what was left of the container is so, too, by then.
    pub(super) async fn is_running(&self) -> bool {
        let request = api::StateRequest {
            id: self.created.id.clone(),
            ..api::StateRequest::default()
        };
        let Ok(payload) = request.write_to_bytes() else {
            return false;
        };
        let request = Request {
            method: "State".to_owned(),
            payload,
            ..Request::default()
        };
        let state = self.forward(request).await;
        let state = state.map(|state| api::StateResponse::parse_from_bytes(&state.payload));
        let running = api::Status::RUNNING.into();
        state.is_ok_and(|state| state.is_ok_and(|state| state.status == running))
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
    async fn answer(&self, request: &Request, exit: Exit) -> ttrpc::Result<Response> {
        let message = match answer_exec(request, exit) {
            Some(message) => message,
            None => self.answer_init(&request.method, exit).await?,
        };
        let payload = message
            .write_to_bytes_dyn()
            .map_err(|error| ttrpc::Error::Others(error.to_string()))?;
        Ok(Response {
            payload,
            ..Response::default()
        })
    }

    async fn answer_init(&self, method: &str, exit: Exit) -> Result<Box<dyn MessageDyn>, Error> {
        let exited_at = MessageField::some(timestamp(exit.at));
        let refused = |refusal| Error::Refused {
            id: self.created.id.clone(),
            refusal,
        };
        Ok(match method {
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
            "Kill" => return Err(refused(Refusal::AlreadyFinished)),
            "Exec" => return Err(refused(Refusal::NoHome)),
            _ => return Err(refused(Refusal::NotRunning)),
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

/// What there is to say of an exec whose container's child is gone: it was killed with the container.
fn answer_exec(request: &Request, container: Exit) -> Option<Box<dyn MessageDyn>> {
    let exec_id = exec_of(request)?;
    let exit_status = Signal::KILL.exit_status();
    let exited_at = MessageField::some(timestamp(container.at));
    Some(match request.method.as_str() {
        "State" => Box::new(api::StateResponse {
            id: exec_id.clone(),
            exec_id,
            status: api::Status::STOPPED.into(),
            exit_status,
            exited_at,
            ..api::StateResponse::default()
        }),
        "Wait" => Box::new(api::WaitResponse {
            exit_status,
            exited_at,
            ..api::WaitResponse::default()
        }),
        "Delete" => Box::new(api::DeleteResponse {
            exit_status,
            exited_at,
            ..api::DeleteResponse::default()
        }),
        _ => return None,
    })
}

/// The exec that a request is about, if it is about one: the second field of those that may be.
pub fn exec_of(request: &Request) -> Option<String> {
    let about = matches!(request.method.as_str(), "State" | "Wait" | "Delete");
    let exec = about.then(|| api::DeleteRequest::parse_from_bytes(&request.payload));
    let exec = exec?.ok()?.exec_id;
    (!exec.is_empty()).then_some(exec)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, exec_id: &str) -> Request {
        let about = api::DeleteRequest {
            id: "web".to_owned(),
            exec_id: exec_id.to_owned(),
            ..api::DeleteRequest::default()
        };
        Request {
            method: method.to_owned(),
            payload: about.write_to_bytes().unwrap(),
            ..Request::default()
        }
    }

    #[test]
    fn an_exec_went_with_its_container() {
        let exit = Exit {
            status: 3,
            at: SystemTime::UNIX_EPOCH,
            oom: false,
        };
        let answer = |method, exec| {
            let answer = answer_exec(&request(method, exec), exit)?;
            Some(answer.write_to_bytes_dyn().unwrap())
        };
        let deleted = answer("Delete", "probe").unwrap();
        let deleted = api::DeleteResponse::parse_from_bytes(&deleted).unwrap();
        assert_eq!(deleted.exit_status, 137);
        let state = answer("State", "probe").unwrap();
        let state = api::StateResponse::parse_from_bytes(&state).unwrap();
        assert_eq!((state.exec_id.as_str(), state.exit_status), ("probe", 137));
        assert_eq!(answer("Delete", ""), None, "the container's own");
    }
}
