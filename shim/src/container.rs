//! A container, to those who do not drive it: they ask its `driver` and wait for the reply,
//! or read the last [`Snapshot`] of a process without waiting for anybody.

use std::path::PathBuf;
use std::sync::Arc;

use containerd_shim_protos::api::Mount as RootfsMount;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use containerd_shim_protos::topics;
use protobuf::MessageField;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use wasi_bundles::Moment;
use wasi_runtime::Usage;

use crate::Error;
use crate::allowance::Allowance;
use crate::announcer::Announcer;
use crate::ask::{Ask, Reply};
use crate::confine::Parked;
use crate::driver::Driver;
use crate::events::Publisher;
use crate::exec::Execs;
use crate::hooks::ContainerHooks;
use crate::lifecycle::{Exit, PhaseKind, Refusal, Request, Signal};
use crate::placement::Placement;
use crate::process::{Process, Snapshot, View};
use crate::recover::PidRecord;
use crate::stats::Consumption;
use crate::stdio::{Holds, StdioPaths};

/// Requests that wait for the driver; more than that and the sender waits.
const QUEUE: usize = 16;

/// What everybody may know of a container.
#[derive(Debug)]
pub struct About {
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's id.
    pub id: String,
    /// The bundle's path.
    pub bundle: PathBuf,
    /// The streams, as containerd named them.
    pub stdio: StdioPaths,
    /// The id of the container's thread.
    pub pid: u32,
    /// containerd's mounts for the root file system: a sandbox has a use for them only later, if at all.
    pub rootfs: Vec<RootfsMount>,
    /// What is run beside it.
    pub hooks: ContainerHooks,
}

/// A container, to those who do not drive it.
#[derive(Debug)]
pub struct Container {
    about: About,
    allowance: Allowance,
    /// Held by an update, until all know of it.
    updating: Mutex<()>,
    placement: Placement,
    /// None of a sandbox, which uses nothing.
    usage: Option<Usage>,
    init: Arc<View>,
    execs: watch::Receiver<Execs>,
    requests: mpsc::Sender<Ask>,
    /// Starts of the init come one after the other: the hooks around one run once.
    starting: Mutex<()>,
}

impl Container {
    /// Takes over a container whose thread is parked: announces it and drives it from now on.
    /// `placement` is where the threads of its execs are put, too.
    pub async fn drive(
        about: About,
        allowance: Allowance,
        holds: Holds,
        thread: Parked,
        events: Publisher,
        placement: Placement,
    ) -> Self {
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
                terminal: holds.console().is_some(),
                ..TaskIO::default()
            }),
            pid: about.pid,
            ..TaskCreate::default()
        };
        events
            .publish(topics::TASK_CREATE_EVENT_TOPIC, &created)
            .await;
        let (sender, requests) = mpsc::channel(QUEUE);
        let place = thread.place();
        let (process, init) = Process::new(&about.id, about.stdio.clone(), thread, holds);
        let tell = Announcer::new(&about.id, events);
        let placed = placement.clone();
        let (driver, execs) = Driver::new(
            about.id.clone(),
            about.bundle.clone(),
            process,
            place,
            tell,
            placement,
        );
        tokio::spawn(driver.run(requests));
        Self {
            about,
            allowance,
            updating: Mutex::new(()),
            placement: placed,
            usage,
            init: Arc::new(init),
            execs,
            requests: sender,
            starting: Mutex::new(()),
        }
    }

    /// What does not change.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Its init.
    #[must_use]
    pub fn init(&self) -> &Arc<View> {
        &self.init
    }

    /// Its execs that were added and not deleted, in no order.
    #[must_use]
    pub fn execs(&self) -> Vec<Arc<View>> {
        self.execs.borrow().by_id.values().cloned().collect()
    }

    /// A process of it: the init for `None`, otherwise the exec of that id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn process(&self, exec: Option<&str>) -> Result<Arc<View>, Error> {
        let Some(id) = exec else {
            return Ok(Arc::clone(&self.init));
        };
        let known = self.execs.borrow().by_id.get(id).cloned();
        known.ok_or_else(|| Error::NotFound {
            id: exec_name(&self.about.id, id),
        })
    }

    /// What it uses, or used until its end, execs included. Never waits.
    #[must_use]
    pub fn consumption(&self) -> Consumption {
        let live = |view: &View| u64::from(view.snapshot().exit.is_none());
        let execs: u64 = self.execs().iter().map(|exec| live(exec)).sum();
        let threads = live(&self.init) + execs;
        let Some(usage) = &self.usage else {
            return Consumption {
                threads,
                ..Consumption::default()
            };
        };
        Consumption {
            cpu: usage.cpu(),
            throttling: usage.throttling(),
            memory: usage.memory(),
            peak: usage.peak(),
            limit: usage.memory_limit(),
            threads,
            oom_kills: usage.memory_refusals(),
        }
    }

    /// Lets a guest run; that of the init with the hooks before and after that.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] as [`decide`](crate::lifecycle::decide) has it, for an exec also as
    /// [`may_exec`](crate::lifecycle::may_exec) has it; [`Error::NotFound`] without such an exec;
    /// [`Error::Hook`], which has ended the container.
    pub async fn start(&self, exec: Option<String>) -> Result<(), Error> {
        if exec.is_some() {
            return self.lifecycle(exec, Request::Start).await.map(drop);
        }
        let _starting = self.starting.lock().await;
        let (hooks, pid) = (&self.about.hooks, self.about.pid);
        if self.init.snapshot().phase == PhaseKind::Created {
            let hooked = tokio::select! {
                hooked = hooks.run(Moment::StartContainer, pid) => hooked,
                // Killed meanwhile, and the hook with it: the driver says what that means for Start.
                _ = self.init.exited() => Ok(()),
            };
            if let Err(error) = hooked {
                // As the specification wants it; if it has ended already, all the better.
                drop(self.kill(None, Signal::KILL).await);
                return Err(error);
            }
        }
        self.lifecycle(None, Request::Start).await?;
        hooks.run_and_log(Moment::Poststart, pid).await;
        Ok(())
    }

    /// Delivers a signal. Returns when it is under way, not when the guest has ended.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn kill(&self, exec: Option<String>, signal: Signal) -> Result<(), Error> {
        self.lifecycle(exec, Request::Kill(signal)).await.map(drop)
    }

    /// Delivers a signal to the init and to all execs.
    ///
    /// # Errors
    ///
    /// Those of the signal to the init.
    pub async fn kill_all(&self, signal: Signal) -> Result<(), Error> {
        self.ask(|reply| Ask::KillAll { signal, reply }).await
    }

    /// Stops all guests where they are, or lets them go on.
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
        self.lifecycle(None, request).await.map(drop)
    }

    /// Changes limits: `resources` is `LinuxResources` as JSON. Counts at once, also while it is paused.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when it has ended, and as for [`Allowance::update`].
    pub async fn update(&self, resources: &[u8]) -> Result<(), Error> {
        let _updating = self.updating.lock().await;
        match self.init.snapshot().phase {
            PhaseKind::Created | PhaseKind::Running | PhaseKind::Paused => {
                let cpu = self.allowance.update(resources)?;
                self.placement.reapportion(&self.about.id, cpu).await;
                Ok(())
            }
            PhaseKind::Ending | PhaseKind::Stopped => Err(Error::Refused {
                id: self.about.id.clone(),
                refusal: Refusal::NotRunning,
            }),
        }
    }

    /// Ends what is left of the container, and its driver; or of an exec. Of several that ask at once
    /// one succeeds.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] while it runs, [`Error::NotFound`] when it is deleted already.
    pub async fn delete(&self, exec: Option<String>) -> Result<Exit, Error> {
        let last = self.lifecycle(exec, Request::Delete).await?;
        last.exit.ok_or_else(|| self.gone())
    }

    /// The guest sees the end of its input when the client has closed it, too.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the container or the exec is deleted.
    pub async fn close_stdin(&self, exec: Option<String>) -> Result<(), Error> {
        self.ask(|reply| Ask::CloseStdin { exec, reply }).await
    }

    async fn lifecycle(&self, exec: Option<String>, request: Request) -> Result<Snapshot, Error> {
        let ask = |reply| Ask::Lifecycle {
            exec,
            request,
            reply,
        };
        self.ask(ask).await
    }

    pub(crate) async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let asked = self.requests.send(ask(reply)).await;
        asked.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> Error {
        Error::NotFound {
            id: self.about.id.clone(),
        }
    }
}

/// What an exec is called in errors.
pub(crate) fn exec_name(container: &str, exec: &str) -> String {
    format!("{container}, exec {exec}")
}
