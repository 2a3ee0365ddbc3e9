//! A container, to those who do not drive it: they ask its `driver` and wait for the reply,
//! or read the last [`Snapshot`] without waiting for anybody.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::topics;
use protobuf::MessageField;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use wasi_bundles::Moment;
use wasi_runtime::Usage;

use crate::Error;
use crate::confine::Parked;
use crate::driver::{Ask, Driver, Question};
use crate::events::Publisher;
use crate::hooks::ContainerHooks;
use crate::lifecycle::{Exit, PhaseKind, Request, Signal};
use crate::recover::PidRecord;
use crate::stats::{self, Consumption};
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
    /// The memory limit, in bytes.
    pub memory_limit: Option<u64>,
    /// What is run beside it.
    pub hooks: ContainerHooks,
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
    usage: Usage,
    /// The most processor time that was ever told, in nanoseconds: a counter does not go back.
    cpu: AtomicU64,
    requests: mpsc::Sender<Question>,
    snapshot: watch::Receiver<Snapshot>,
    /// Starts come one after the other: the hooks around one run once.
    starting: Mutex<()>,
}

impl Container {
    /// Takes over a container whose thread is parked: announces it and drives it from now on.
    pub async fn drive(about: About, holds: Holds, thread: Parked, events: Publisher) -> Self {
        let usage = thread.usage();
        if let Err(error) = PidRecord::new(about.pid).write(&about.bundle) {
            log::error!("cannot record the pid of container {}: {error}", about.id);
        }
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
        let driver = Driver::new(&about, thread, holds, events, watched);
        tokio::spawn(driver.run(requests));
        Self {
            about,
            usage,
            cpu: AtomicU64::new(0),
            requests: sender,
            snapshot,
            starting: Mutex::new(()),
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

    /// What it uses, or used until its end. Never waits.
    #[must_use]
    pub fn consumption(&self) -> Consumption {
        let exit = self.snapshot().exit;
        // Between its end and its exit the thread is gone already.
        let cpu = match exit {
            Some(exit) => exit.cpu,
            None => stats::thread_cpu(self.about.pid).unwrap_or_default(),
        };
        let cpu = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        let cpu = self.cpu.fetch_max(cpu, Relaxed).max(cpu);
        Consumption {
            cpu: Duration::from_nanos(cpu),
            memory: self.usage.memory(),
            peak: self.usage.peak(),
            limit: self.about.memory_limit,
            threads: u64::from(exit.is_none()),
            oom: exit.is_some_and(|exit| exit.oom),
        }
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

    /// Lets the guest run, with the hooks before and after that.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] as [`decide`](crate::lifecycle::decide) has it; [`Error::Hook`], which has
    /// ended the container.
    pub async fn start(&self) -> Result<(), Error> {
        let _starting = self.starting.lock().await;
        let (hooks, pid) = (&self.about.hooks, self.about.pid);
        if self.snapshot().phase == PhaseKind::Created {
            let hooked = tokio::select! {
                hooked = hooks.run(Moment::StartContainer, pid) => hooked,
                // Killed meanwhile, and the hook with it: the driver says what that means for Start.
                _ = self.exited() => Ok(()),
            };
            if let Err(error) = hooked {
                // As the specification wants it; if it has ended already, all the better.
                drop(self.kill(Signal::KILL).await);
                return Err(error);
            }
        }
        self.ask(Ask::Lifecycle(Request::Start)).await?;
        hooks.run_and_log(Moment::Poststart, pid).await;
        Ok(())
    }

    /// Delivers a signal. Returns when it is under way, not when the guest has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] as [`decide`](crate::lifecycle::decide) has it.
    pub async fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.ask(Ask::Lifecycle(Request::Kill(signal)))
            .await
            .map(drop)
    }

    /// Stops the guest where it is, or lets it go on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] as [`decide`](crate::lifecycle::decide) has it.
    pub async fn pause(&self, paused: bool) -> Result<(), Error> {
        let request = if paused {
            Request::Pause
        } else {
            Request::Resume
        };
        self.ask(Ask::Lifecycle(request)).await.map(drop)
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
