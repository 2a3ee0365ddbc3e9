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
//!
//! An exec has a thread of its own, which does the same but for the first steps: it joins the
//! [`Place`] that the container's made.

mod checkpoint;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::ClockId;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use wasi_bundles::{Entrypoint, Mount, Plan, Process};
use wasi_runtime::{Interrupter, Outcome, Prepared, Usage};

pub use self::checkpoint::Checkpoint;
use crate::namespaces::{self, Handles};
use crate::place::Place;
use crate::programs::Programs;
use crate::rootfs::Rootfs;
use crate::stdio::GuestStdio;
use crate::{Error, credentials, guest};

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
    /// containerd's mounts for the root file system.
    pub layers: Vec<Mount>,
    /// The guest's streams.
    pub stdio: GuestStdio,
    /// Where its code comes from.
    pub programs: Arc<Programs>,
    /// Where it waits for its hooks; not at all if it has none.
    pub checkpoint: Option<Checkpoint>,
}

/// What the thread of an exec is made from.
#[derive(Debug)]
pub struct Joining {
    /// The container.
    pub place: Arc<Place>,
    /// What to run in it.
    pub process: Process,
    /// The guest's streams.
    pub stdio: GuestStdio,
}

/// A thread that is parked, with its guest ready to run. Dropping it ends it.
#[derive(Debug)]
pub struct Parked {
    place: Arc<Place>,
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

/// What a thread has when it is parked.
struct Made {
    place: Arc<Place>,
    prepared: Prepared,
    runtime: Runtime,
}

/// What it says then.
struct Ready {
    place: Arc<Place>,
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
        deliver(id, || self.make()).await
    }

    /// On the new thread: from the host's world into the container's.
    fn make(self) -> Result<Made, Error> {
        namespaces::enter(&self.plan)?;
        let namespaces = Handles::of_this_thread()?;
        let rootfs = Rootfs::mount(&self.plan, &self.layers, || match self.checkpoint {
            None => Ok(()),
            Some(checkpoint) => checkpoint.pass(),
        })?;
        let (plan, process) = (&self.plan, self.plan.process());
        let tree = rootfs.tree().as_fd();
        let entrypoint = Entrypoint::resolve(tree, process)?;
        let prepared = prepare(&entrypoint, &self.programs, plan, process, tree, self.stdio)?;
        rootfs.enter()?;
        let capabilities = process.capabilities.iter().flatten().map(String::as_str);
        credentials::assume(&process.user, capabilities)?;
        let runtime = runtime()?;
        let place = Arc::new(Place {
            plan: self.plan,
            program: entrypoint.path,
            tree: rootfs.into_tree(),
            namespaces,
            programs: self.programs,
        });
        Ok(Made {
            place,
            prepared,
            runtime,
        })
    }
}

impl Joining {
    /// Makes the thread and waits until it is parked. When this is given up meanwhile, the thread ends.
    ///
    /// # Errors
    ///
    /// What stood in the way of the exec; the thread is gone then.
    pub async fn deliver(self, id: &str) -> Result<Parked, Error> {
        deliver(id, || self.make()).await
    }

    /// On the new thread. What takes long, to load the program, comes before it joins the namespaces.
    fn make(self) -> Result<Made, Error> {
        let Self { place, stdio, .. } = self;
        let process = place.complete(self.process);
        place.require_directory(&process)?;
        let (plan, tree) = (&place.plan, place.tree.as_fd());
        let entrypoint = Entrypoint::resolve(tree, &process)
            .map_err(|source| Error::exec(&process.args[0], source))?;
        let prepared = prepare(&entrypoint, &place.programs, plan, &process, tree, stdio)?;
        place.join(&process)?;
        let runtime = runtime()?;
        Ok(Made {
            place,
            prepared,
            runtime,
        })
    }
}

/// The guest of `process`, whose program is `entrypoint`, ready to run in the container of `plan` whose
/// root is `tree`.
fn prepare(
    entrypoint: &Entrypoint,
    programs: &Programs,
    plan: &Plan,
    process: &Process,
    tree: BorrowedFd<'_>,
    stdio: GuestStdio,
) -> Result<Prepared, Error> {
    if let Some(export) = &entrypoint.export {
        return Err(Error::Unimplemented(format!(
            "calling the export {export} of {}",
            entrypoint.path
        )));
    }
    let artifact = programs.load(entrypoint)?;
    let root = tree
        .try_clone_to_owned()
        .map_err(Error::host("share the root directory"))?;
    artifact
        .prepare(guest::guest(plan, process, root, stdio))
        .map_err(|source| Error::Program {
            path: entrypoint.path.clone(),
            source,
        })
}

/// What polls the guest; the threads it starts are the calling one's children in all that confines it.
fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILES)
        .build()
        .map_err(Error::host("make the runtime that polls the guest"))
}

/// Makes a thread that makes what it needs and parks, and waits for that.
async fn deliver(
    id: &str,
    make: impl FnOnce() -> Result<Made, Error> + Send + 'static,
) -> Result<Parked, Error> {
    let (ready, parked) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let (finish, ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        // The kernel keeps 15 bytes of it.
        .name(format!("wasi:{id}"))
        .spawn(move || {
            let pid = thread_id();
            let Made {
                place,
                prepared,
                runtime,
            } = match make() {
                Ok(made) => made,
                Err(error) => return drop(ready.send(Err((error, pid)))),
            };
            let ready = ready.send(Ok(Ready {
                place,
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
            place,
            pid,
            interrupter,
            usage,
        })) => Ok(Parked {
            place,
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

/// The id of the calling thread.
fn thread_id() -> u32 {
    let id = rustix::thread::gettid().as_raw_nonzero().get();
    id.cast_unsigned()
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

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place)
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
        self.place.leave().await;
    }
}

impl Running {
    /// Pauses, resumes or ends the guest.
    #[must_use]
    pub fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// Waits until the guest has ended: `None` when its thread panicked. To be polled until then.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<Ended>> {
        Pin::new(&mut self.ended).poll(cx).map(Result::ok)
    }

    /// Waits until the thread is gone, and with it the container's namespaces. To be called after
    /// [`Self::poll_ended`].
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
