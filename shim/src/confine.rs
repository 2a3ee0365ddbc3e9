//! The container's thread. Everything about the container that Linux knows is an attribute of this
//! thread: its namespaces, its root, and its id, which containerd is told as the task's pid.
//!
//! It is born, walks straight through the making of the container, says that it is ready, and parks.
//! Released, it polls the guest until there is an outcome. Dropped instead, or failing on the way, it
//! ends, and the kernel frees the namespaces and mounts with it: nothing has to be undone.
//!
//! ```text
//! namespaces ─► mounts ─► hooks ─► entrypoint ─► artifact ─► link ─► root ─► user ─► parked ─► guest ─► outcome
//! └───────────────────────── Create ──────────────────────────────────────┘   └── Start ─────────┘
//! ```

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::ClockId;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use wasi_bundles::{Entrypoint, Mount, Plan};
use wasi_runtime::{Interrupter, Outcome, Prepared, Usage};

use crate::programs::Programs;
use crate::rootfs::Rootfs;
use crate::stdio::GuestStdio;
use crate::{Error, credentials, guest, namespaces};

/// How many file operations and name lookups of a guest run at once. One that never returns (the open
/// of a FIFO that nobody writes to) keeps its thread until the shim ends, so this bounds what a guest
/// can leave behind.
const FILES: usize = 16;

/// How long a guest's end waits for threads that still work for it: file operations that were handed
/// to the pool. One that is stuck for good is left behind.
const POOL: Duration = Duration::from_millis(50);

/// How long a thread that has ended may take to leave its namespaces before nobody waits any more.
const LEAVE: Duration = Duration::from_secs(1);

/// What a container's thread is made from.
#[derive(Debug)]
pub struct Birth {
    /// What to run, where.
    pub plan: Plan,
    /// Names of the capabilities that the process is to have.
    pub capabilities: Vec<String>,
    /// containerd's mounts for the root file system.
    pub layers: Vec<Mount>,
    /// The guest's streams.
    pub stdio: GuestStdio,
    /// Where its code comes from.
    pub programs: Arc<Programs>,
    /// Where it waits for its hooks; not at all if it has none.
    pub checkpoint: Option<Checkpoint>,
}

/// A place on the way, where the thread has its namespaces and mounts and nothing of its program: it
/// says so, with its id, and waits to be sent on. It turns back if nobody does.
#[derive(Debug)]
pub struct Checkpoint {
    /// Told the thread's id.
    pub reached: oneshot::Sender<u32>,
    /// Sends it on.
    pub passed: oneshot::Receiver<()>,
}

/// A thread that is parked, with its guest ready to run. Dropping it ends it.
#[derive(Debug)]
pub struct Parked {
    usage: Usage,
    release: oneshot::Sender<()>,
    running: Running,
}

/// A thread that polls its guest.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    interrupter: Interrupter,
    ended: oneshot::Receiver<Ended>,
    thread: JoinHandle<()>,
}

/// What a thread says at its end.
#[derive(Debug)]
pub struct Ended {
    /// How the guest ended.
    pub outcome: Outcome,
    /// The processor time that the thread has used.
    pub cpu: Duration,
}

/// What a thread says when it is parked.
struct Ready {
    pid: u32,
    interrupter: Interrupter,
    usage: Usage,
}

impl Birth {
    /// Makes the thread and waits until it is parked.
    ///
    /// # Errors
    ///
    /// What stood in the way of the container; the thread is gone then, and with it all it had made.
    pub async fn deliver(self, id: &str) -> Result<Parked, Error> {
        let (ready, parked) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let (finish, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            // The kernel keeps 15 bytes of it.
            .name(format!("wasi:{id}"))
            .spawn(move || {
                let pid = rustix::thread::gettid().as_raw_nonzero().get();
                let pid = pid.cast_unsigned();
                let (prepared, runtime) = match self.make(pid) {
                    Ok(made) => made,
                    Err(error) => return drop(ready.send(Err((error, pid)))),
                };
                let ready = ready.send(Ok(Ready {
                    pid,
                    interrupter: prepared.interrupter(),
                    usage: prepared.usage(),
                }));
                if ready.is_ok() && released.blocking_recv().is_ok() {
                    // Nobody listens any more only if the container's driver died in a panic.
                    drop(finish.send(run(prepared, runtime)));
                }
            })
            .map_err(Error::host("start the container's thread"))?;
        match parked.await {
            Ok(Ok(Ready {
                pid,
                interrupter,
                usage,
            })) => Ok(Parked {
                usage,
                release,
                running: Running {
                    pid,
                    interrupter,
                    ended,
                    thread,
                },
            }),
            Ok(Err((error, pid))) => {
                join(thread, pid).await;
                Err(error)
            }
            Err(_) => {
                drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
                Err(Error::Panicked)
            }
        }
    }

    /// On the new thread: from the host's world into the container's.
    fn make(mut self, pid: u32) -> Result<(Prepared, Runtime), Error> {
        namespaces::enter(&self.plan)?;
        let checkpoint = self.checkpoint.take();
        let rootfs = Rootfs::mount(&self.plan, &self.layers, || match checkpoint {
            None => Ok(()),
            Some(checkpoint) => checkpoint.pass(pid),
        })?;
        let entrypoint = Entrypoint::resolve(rootfs.tree().as_fd(), self.plan.process())?;
        if let Some(export) = &entrypoint.export {
            return Err(Error::Unimplemented(format!(
                "calling the export {export} of {}",
                entrypoint.path
            )));
        }
        let artifact = self.programs.load(&entrypoint)?;
        let root = rootfs
            .tree()
            .try_clone()
            .map_err(Error::host("share the root directory"))?;
        let prepared = artifact
            .prepare(guest::guest(&self.plan, root, self.stdio))
            .map_err(|source| Error::Program {
                path: entrypoint.path.clone(),
                source,
            })?;
        rootfs.enter()?;
        let capabilities = self.capabilities.iter().map(String::as_str);
        credentials::assume(&self.plan.process().user, capabilities)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(FILES)
            .build()
            .map_err(Error::host("make the runtime that polls the guest"))?;
        Ok((prepared, runtime))
    }
}

impl Checkpoint {
    fn pass(self, pid: u32) -> Result<(), Error> {
        let told = self.reached.send(pid).is_ok();
        if told && self.passed.blocking_recv().is_ok() {
            return Ok(());
        }
        // Whoever did not send it on knows why, and says that instead.
        Err(Error::host("pass the hooks")(io::Error::other(
            "the creation was given up",
        )))
    }
}

/// On the container's thread: polls the guest to its end.
fn run(prepared: Prepared, runtime: Runtime) -> Ended {
    let outcome = runtime.block_on(prepared.run());
    runtime.shutdown_timeout(POOL);
    let used = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Ended {
        outcome,
        cpu: used.try_into().unwrap_or_default(),
    }
}

impl Parked {
    /// The thread's id, which is the task's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid
    }

    /// What the guest uses, from now on.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage.clone()
    }

    /// Lets the guest run.
    #[must_use]
    pub fn release(self) -> Running {
        // A thread that panicked while parked is found out when it is awaited.
        let _ = self.release.send(());
        self.running
    }

    /// Ends the thread without letting the guest run, and waits until it is gone.
    pub async fn discard(self) {
        drop(self.release);
        self.running.join().await;
    }
}

impl Running {
    /// Pauses, resumes or ends the guest.
    #[must_use]
    pub fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// Waits until the guest has ended: `None` when its thread panicked. May be dropped and called
    /// again.
    pub async fn ended(&mut self) -> Option<Ended> {
        (&mut self.ended).await.ok()
    }

    /// Waits until the thread is gone, and with it the container's namespaces. To be called after
    /// [`Self::ended`].
    pub async fn join(self) {
        join(self.thread, self.pid).await;
    }
}

/// Off the control thread: a thread on its way out may have a file tree to unmount. A thread that was
/// joined has still its namespaces to leave; it has when the kernel does not list it any more.
async fn join(thread: JoinHandle<()>, pid: u32) {
    let gone = move || {
        // The panic itself was logged by the hook; what it means for the container is the caller's.
        drop(thread.join());
        let listed = PathBuf::from(format!("/proc/self/task/{pid}"));
        let begun = Instant::now();
        while listed.exists() && begun.elapsed() < LEAVE {
            std::thread::yield_now();
        }
    };
    // An error is the runtime shutting down.
    drop(tokio::task::spawn_blocking(gone).await);
}
