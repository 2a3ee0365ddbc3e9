//! A thread that polls a guest: it makes what it needs, parks, is released or dropped, and ends.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use wasi_runtime::{Interrupter, Outcome, Prepared, Usage};

use crate::Error;
use crate::place::Place;
use crate::pool::Pool;

/// How long a guest's end waits for threads that still work for it: file operations that were handed
/// to the pool. One that is stuck for good is left behind.
const POOL: Duration = Duration::from_millis(50);

/// How long a thread that has ended may take to leave its namespaces before nobody waits any more.
const LEAVE: Duration = Duration::from_secs(1);

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
    ended: oneshot::Receiver<Outcome>,
    thread: JoinHandle<()>,
}

/// What a thread has when it is parked.
pub(super) struct Made {
    pub(super) place: Arc<Place>,
    pub(super) prepared: Prepared,
    pub(super) runtime: Runtime,
    pub(super) pool: Pool,
}

/// What it says then.
struct Ready {
    place: Arc<Place>,
    pid: u32,
    interrupter: Interrupter,
    usage: Usage,
}

/// Makes a thread that makes what it needs and parks, and waits for that.
pub(super) async fn deliver(
    id: &str,
    make: impl FnOnce() -> Result<Made, Error> + Send + 'static,
) -> Result<Parked, Error> {
    let (ready, parked) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let (finish, ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        // The kernel keeps 15 bytes of it, and std panics at a NUL.
        .name(format!("wasi:{}", id.replace('\0', "")))
        .spawn(move || {
            let pid = thread_id();
            let Made {
                place,
                prepared,
                runtime,
                pool,
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
                drop(finish.send(run(prepared, runtime, &pool)));
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
pub(super) fn thread_id() -> u32 {
    let id = rustix::thread::gettid().as_raw_nonzero().get();
    id.cast_unsigned()
}

/// On the container's thread: polls the guest to its end.
fn run(prepared: Prepared, runtime: Runtime, pool: &Pool) -> Outcome {
    let outcome = runtime.block_on(prepared.run());
    pool.end(runtime, POOL);
    outcome
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
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_container() {
        let made = deliver("first", || panic!("a bug")).await;
        assert!(matches!(made, Err(Error::Panicked)), "{made:?}");
        let other = || Err(Error::Unimplemented("this".to_owned()));
        let made = deliver("second", other).await;
        assert!(matches!(made, Err(Error::Unimplemented(_))), "{made:?}");
    }
}
