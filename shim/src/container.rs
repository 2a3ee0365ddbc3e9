//! One container, from Create to Delete. This is the file to read.
//!
//! A `Driver` is the only writer: it owns the phase with all that the container has in it, takes one
//! request at a time, asks [`decide`] what to do about it, and does it. Others hold a [`Container`]: they
//! send requests and wait for the reply, or read the last [`Snapshot`] without waiting for anybody.
//!
//! Events are queued here and nowhere else, in this order: TaskCreate before the container can be
//! asked for anything, TaskStart before the guest is released, TaskExit once, when its thread is gone
//! and its exit is on disk; who waits for the exit is woken after that.

use std::path::PathBuf;
use std::time::SystemTime;

use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskIO, TaskOOM, TaskStart};
use containerd_shim_protos::topics;
use protobuf::MessageField;
use tokio::sync::{mpsc, oneshot, watch};
use wasi_runtime::Outcome;

use crate::Error;
use crate::confine::{Parked, Running};
use crate::events::{Publisher, timestamp};
use crate::lifecycle::{Exit, PhaseKind, Refusal, Request, Signal, Verdict, decide, exit_status};
use crate::recover::ExitRecord;
use crate::stdio::{Holds, StdioPaths};

/// Requests that wait for the driver; more than that and the sender waits.
const QUEUE: usize = 16;

/// What everybody may know of a container.
#[derive(Debug)]
pub struct About {
    /// containerd's id.
    pub id: String,
    /// The bundle's path.
    pub bundle: PathBuf,
    /// The streams, as containerd named them.
    pub stdio: StdioPaths,
    /// The id of the container's thread.
    pub pid: u32,
}

/// Where a container is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The phase.
    pub phase: PhaseKind,
    /// Set when stopped.
    pub exit: Option<Exit>,
}

/// A container, to those who do not drive it.
#[derive(Debug)]
pub struct Container {
    about: About,
    requests: mpsc::Sender<(Ask, oneshot::Sender<Result<Snapshot, Refusal>>)>,
    snapshot: watch::Receiver<Snapshot>,
}

/// What can be asked of the driver.
#[derive(Debug)]
enum Ask {
    Lifecycle(Request),
    CloseStdin,
}

/// Owns the container.
struct Driver {
    id: String,
    bundle: PathBuf,
    pid: u32,
    phase: Phase,
    holds: Holds,
    events: Publisher,
    snapshot: watch::Sender<Snapshot>,
}

/// A phase, with what exists in it and nowhere else.
enum Phase {
    Created(Parked),
    Running(Running, Option<Signal>),
    Stopped,
    /// Between two phases, within one method of the driver.
    Changing,
}

impl Container {
    /// Takes over a container whose thread is parked: announces it and drives it from now on.
    pub async fn drive(
        id: String,
        bundle: PathBuf,
        stdio: StdioPaths,
        holds: Holds,
        thread: Parked,
        events: Publisher,
    ) -> Self {
        let about = About {
            id,
            bundle,
            stdio,
            pid: thread.pid(),
        };
        let created = TaskCreate {
            container_id: about.id.clone(),
            bundle: about.bundle.display().to_string(),
            io: MessageField::some(TaskIO {
                stdin: about.stdio.stdin.clone(),
                stdout: about.stdio.stdout.clone(),
                stderr: about.stdio.stderr.clone(),
                ..TaskIO::default()
            }),
            pid: about.pid,
            ..TaskCreate::default()
        };
        events
            .publish(topics::TASK_CREATE_EVENT_TOPIC, &created)
            .await;
        let (sender, requests) = mpsc::channel(QUEUE);
        let (watched, snapshot) = watch::channel(Snapshot {
            phase: PhaseKind::Created,
            exit: None,
        });
        let driver = Driver {
            id: about.id.clone(),
            bundle: about.bundle.clone(),
            pid: about.pid,
            phase: Phase::Created(thread),
            holds,
            events,
            snapshot: watched,
        };
        tokio::spawn(driver.run(requests));
        Self {
            about,
            requests: sender,
            snapshot,
        }
    }

    /// What does not change.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What was true last. Never waits.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        *self.snapshot.borrow()
    }

    /// Waits until the container has ended, or answers at once if it has.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is deleted meanwhile without having ended, which only a bug can do.
    pub async fn exited(&self) -> Result<Exit, Error> {
        let mut snapshot = self.snapshot.clone();
        let ended = snapshot.wait_for(|now| now.exit.is_some()).await;
        ended
            .ok()
            .and_then(|now| now.exit)
            .ok_or_else(|| self.gone())
    }

    /// Lets the guest run.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] as [`decide`] has it.
    pub async fn start(&self) -> Result<(), Error> {
        self.ask(Ask::Lifecycle(Request::Start)).await.map(drop)
    }

    /// Delivers a signal. Returns when it is under way, not when the guest has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] as [`decide`] has it.
    pub async fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.ask(Ask::Lifecycle(Request::Kill(signal)))
            .await
            .map(drop)
    }

    /// Ends what is left of the container, and its driver. Of several that ask at once one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] while it runs, [`Error::NotFound`] when it is deleted already.
    pub async fn delete(&self) -> Result<Exit, Error> {
        let last = self.ask(Ask::Lifecycle(Request::Delete)).await?;
        last.exit.ok_or_else(|| self.gone())
    }

    /// The guest sees the end of its input when the client has closed it, too.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the container is deleted.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.ask(Ask::CloseStdin).await.map(drop)
    }

    async fn ask(&self, ask: Ask) -> Result<Snapshot, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send((ask, reply))
            .await
            .map_err(|_| self.gone())?;
        answer
            .await
            .map_err(|_| self.gone())?
            .map_err(|refusal| Error::Refused {
                id: self.about.id.clone(),
                refusal,
            })
    }

    fn gone(&self) -> Error {
        Error::NotFound {
            id: self.about.id.clone(),
        }
    }
}

impl Driver {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<(Ask, oneshot::Sender<Result<Snapshot, Refusal>>)>,
    ) {
        loop {
            let (ask, reply) = tokio::select! {
                biased;
                outcome = ended(&mut self.phase) => {
                    self.stop(outcome).await;
                    continue;
                }
                request = requests.recv() => match request {
                    Some(request) => request,
                    // The shim gives the container up: a thread that runs ends with the process.
                    None => return,
                },
            };
            let (answer, deleted) = match ask {
                Ask::CloseStdin => {
                    self.holds.close_stdin();
                    (Ok(()), false)
                }
                Ask::Lifecycle(request) => match decide(self.kind(), request) {
                    Verdict::Do => {
                        self.carry_out(request).await;
                        (Ok(()), request == Request::Delete)
                    }
                    Verdict::Ignore => (Ok(()), false),
                    Verdict::Refuse(refusal) => (Err(refusal), false),
                },
            };
            if deleted {
                // Before the reply: who is told that it is gone shall not reach it any more.
                requests.close();
            }
            // A client that has gone away does not mind.
            let _ = reply.send(answer.map(|()| *self.snapshot.borrow()));
            if deleted {
                return;
            }
        }
    }

    fn kind(&self) -> PhaseKind {
        match self.phase {
            Phase::Created(_) => PhaseKind::Created,
            Phase::Running(..) => PhaseKind::Running,
            Phase::Stopped | Phase::Changing => PhaseKind::Stopped,
        }
    }

    /// Does what was decided; the pair of phase and request is a legal one.
    async fn carry_out(&mut self, request: Request) {
        match (std::mem::replace(&mut self.phase, Phase::Changing), request) {
            (Phase::Created(thread), Request::Start) => {
                let started = TaskStart {
                    container_id: self.id.clone(),
                    pid: self.pid,
                    ..TaskStart::default()
                };
                self.events
                    .publish(topics::TASK_START_EVENT_TOPIC, &started)
                    .await;
                self.phase = Phase::Running(thread.release(), None);
                self.snapshot.send_replace(Snapshot {
                    phase: PhaseKind::Running,
                    exit: None,
                });
            }
            (Phase::Created(thread), Request::Kill(signal)) => {
                thread.discard().await;
                self.exit(signal.exit_status()).await;
            }
            (Phase::Created(thread), Request::Delete) => {
                thread.discard().await;
                self.exit(Signal::KILL.exit_status()).await;
            }
            (Phase::Running(thread, _), Request::Kill(signal)) => {
                thread.interrupt();
                self.phase = Phase::Running(thread, Some(signal));
            }
            // Delete of a stopped container: the driver ends. The rest was refused.
            (phase, Request::Delete | Request::Start | Request::Kill(_)) => self.phase = phase,
        }
    }

    /// The guest has ended.
    async fn stop(&mut self, outcome: Option<Outcome>) {
        let Phase::Running(thread, signal) = std::mem::replace(&mut self.phase, Phase::Changing)
        else {
            return;
        };
        thread.join().await;
        match &outcome {
            Some(Outcome::OutOfMemory { limit }) => {
                log::warn!(
                    "container {} reached its memory limit of {limit} bytes",
                    self.id
                );
                let oom = TaskOOM {
                    container_id: self.id.clone(),
                    ..TaskOOM::default()
                };
                self.events
                    .publish(topics::TASK_OOM_EVENT_TOPIC, &oom)
                    .await;
            }
            None => log::error!("container {} was lost to a panic", self.id),
            Some(Outcome::Exited(_) | Outcome::Trapped { .. } | Outcome::Killed) => {}
        }
        self.exit(exit_status(outcome.as_ref(), signal)).await;
    }

    /// The one place where a container gets its exit.
    async fn exit(&mut self, status: u32) {
        let exit = Exit {
            status,
            at: SystemTime::now(),
        };
        self.holds = Holds::default();
        if let Err(error) = ExitRecord::new(self.pid, &exit).write(&self.bundle) {
            log::error!("cannot record the exit of container {}: {error}", self.id);
        }
        let exited = TaskExit {
            container_id: self.id.clone(),
            id: self.id.clone(),
            pid: self.pid,
            exit_status: status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskExit::default()
        };
        self.events
            .publish(topics::TASK_EXIT_EVENT_TOPIC, &exited)
            .await;
        self.phase = Phase::Stopped;
        self.snapshot.send_replace(Snapshot {
            phase: PhaseKind::Stopped,
            exit: Some(exit),
        });
    }
}

/// Waits for the end of a guest that runs, and for ever in any other phase.
async fn ended(phase: &mut Phase) -> Option<Outcome> {
    match phase {
        Phase::Running(thread, _) => thread.ended().await,
        Phase::Created(_) | Phase::Stopped | Phase::Changing => std::future::pending().await,
    }
}
