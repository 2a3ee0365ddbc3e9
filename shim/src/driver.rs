//! The driver of one container, from Create to Delete. This is the file to read.
//!
//! It is the only writer: it owns the phase with all that the container has in it, takes one request at a
//! time, asks [`decide`] what to do about it, and does it. Others hold a
//! [`Container`](crate::container::Container).
//!
//! Events are queued in this order: TaskCreate before the container can be asked for anything, TaskStart
//! before the guest is released, TaskExit once, when its thread is gone and its exit is on disk; who waits
//! for the exit is woken after that.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task::{TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart};
use containerd_shim_protos::topics;
use protobuf::MessageField;
use tokio::sync::{mpsc, oneshot, watch};
use wasi_runtime::Outcome;

use crate::confine::{Ended, Parked, Running};
use crate::container::{About, Snapshot};
use crate::events::{Publisher, timestamp};
use crate::lifecycle::{
    Effect, Exit, PhaseKind, Refusal, Request, Signal, Verdict, decide, exit_status,
};
use crate::recover::ExitRecord;
use crate::stdio::Holds;

/// What is asked, and where the answer goes.
pub(crate) type Question = (Ask, oneshot::Sender<Result<Snapshot, Refusal>>);

/// What can be asked of the driver.
#[derive(Debug)]
pub(crate) enum Ask {
    Lifecycle(Request),
    CloseStdin,
}

/// Owns the container.
pub(crate) struct Driver {
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
    Running(Guest),
    Stopped,
    /// Between two phases, within one method of the driver.
    Changing,
}

/// A guest that was released.
struct Guest {
    thread: Running,
    paused: bool,
    /// The first signal that was meant to end it.
    ended_by: Option<Signal>,
}

impl Driver {
    /// The driver of a container whose thread is parked.
    pub(crate) fn new(
        about: &About,
        thread: Parked,
        holds: Holds,
        events: Publisher,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        Self {
            id: about.id.clone(),
            bundle: about.bundle.clone(),
            pid: about.pid,
            phase: Phase::Created(thread),
            holds,
            events,
            snapshot,
        }
    }

    /// Drives until the container is deleted.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Question>) {
        loop {
            let (ask, reply) = tokio::select! {
                biased;
                end = ended(&mut self.phase) => {
                    self.stop(end).await;
                    continue;
                }
                // What was typed before Start waits for it.
                signal = self.holds.typed(), if matches!(self.phase, Phase::Running(_)) => {
                    self.carry_out(Request::Kill(signal)).await;
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
                self.holds.end().await;
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
            Phase::Running(Guest { paused: false, .. }) => PhaseKind::Running,
            Phase::Running(Guest { paused: true, .. }) => PhaseKind::Paused,
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
                self.phase = Phase::Running(Guest {
                    thread: thread.release(),
                    paused: false,
                    ended_by: None,
                });
                self.show(None);
            }
            (Phase::Created(thread), Request::Kill(signal)) => {
                thread.discard().await;
                self.exit(Exit::unborn(signal)).await;
            }
            (Phase::Created(thread), Request::Delete) => {
                thread.discard().await;
                self.exit(Exit::unborn(Signal::KILL)).await;
            }
            (Phase::Running(mut guest), Request::Kill(signal)) => match signal.effect() {
                Effect::End => {
                    guest.thread.interrupter().kill();
                    guest.ended_by.get_or_insert(signal);
                    self.phase = Phase::Running(guest);
                }
                Effect::Pause => self.pause(guest, true).await,
                Effect::Resume => self.pause(guest, false).await,
                Effect::Nothing => self.phase = Phase::Running(guest),
            },
            (Phase::Running(guest), Request::Pause) => self.pause(guest, true).await,
            (Phase::Running(guest), Request::Resume) => self.pause(guest, false).await,
            // Delete of a stopped container: the driver ends. The rest was refused.
            (phase, _) => self.phase = phase,
        }
    }

    async fn pause(&mut self, mut guest: Guest, paused: bool) {
        let container_id = self.id.clone();
        guest.paused = paused;
        if paused {
            guest.thread.interrupter().pause();
            let event = TaskPaused {
                container_id,
                ..TaskPaused::default()
            };
            let topic = topics::TASK_PAUSED_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        } else {
            guest.thread.interrupter().resume();
            let event = TaskResumed {
                container_id,
                ..TaskResumed::default()
            };
            let topic = topics::TASK_RESUMED_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        }
        self.phase = Phase::Running(guest);
        self.show(None);
    }

    /// Shows the phase to those who do not drive.
    fn show(&self, exit: Option<Exit>) {
        self.snapshot.send_replace(Snapshot {
            phase: self.kind(),
            exit,
        });
    }

    /// The guest has ended.
    async fn stop(&mut self, end: Option<Ended>) {
        let Phase::Running(guest) = std::mem::replace(&mut self.phase, Phase::Changing) else {
            return;
        };
        guest.thread.join().await;
        let (outcome, cpu) = end.map_or((None, Duration::ZERO), |end| (Some(end.outcome), end.cpu));
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
        let exit = Exit {
            status: exit_status(outcome.as_ref(), guest.ended_by),
            at: SystemTime::now(),
            cpu,
            oom: matches!(outcome, Some(Outcome::OutOfMemory { .. })),
        };
        self.exit(exit).await;
    }

    /// The one place where a container gets its exit.
    async fn exit(&mut self, exit: Exit) {
        self.holds.finish().await;
        if let Err(error) = ExitRecord::new(self.pid, &exit).write(&self.bundle) {
            log::error!("cannot record the exit of container {}: {error}", self.id);
        }
        let exited = TaskExit {
            container_id: self.id.clone(),
            id: self.id.clone(),
            pid: self.pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskExit::default()
        };
        self.events
            .publish(topics::TASK_EXIT_EVENT_TOPIC, &exited)
            .await;
        self.phase = Phase::Stopped;
        self.show(Some(exit));
    }
}

/// Waits for the end of a guest that runs, and for ever in any other phase.
async fn ended(phase: &mut Phase) -> Option<Ended> {
    match phase {
        Phase::Running(guest) => guest.thread.ended().await,
        Phase::Created(_) | Phase::Stopped | Phase::Changing => std::future::pending().await,
    }
}
