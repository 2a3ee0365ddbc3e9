//! A thread that stands for a process: it makes what it needs, parks, is released, polls its guest, or
//! waits until it is told to go, and ends. Dropped before, it ends without that.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use wasi_runtime::{Clock, Interrupter, Outcome, Prepared, Usage};

use super::crew::Crew;
use crate::Error;
use crate::place::Place;
use crate::pool::Pool;

/// How long a guest's end waits for threads that still work for it: file operations and name lookups that
/// were handed to the pool. One that takes longer is left behind.
const POOL: Duration = Duration::from_millis(50);

/// The same for a guest that was told to end: a lookup, which no signal ends, may take ten seconds.
const POOL_AFTER_KILL: Duration = Duration::from_millis(5);

/// How long a thread that has ended may take to leave its namespaces before nobody waits any more.
const LEAVE: Duration = Duration::from_secs(1);

/// A thread that is parked, with its guest ready to run. Dropping it ends it.
#[derive(Debug)]
pub struct Parked {
    place: Option<Arc<Place>>,
    usage: Option<Usage>,
    clock: Option<Clock>,
    crew: Vec<u32>,
    release: oneshot::Sender<()>,
    running: Running,
}

/// A thread that polls its guest.
#[derive(Debug)]
pub struct Running {
    pid: u32,
    grip: Grip,
    ended: oneshot::Receiver<Outcome>,
    thread: JoinHandle<()>,
}

/// How to get at what the thread does.
#[derive(Debug)]
pub(super) enum Grip {
    Guest(Interrupter),
    /// It waits for a word, or for this to be dropped.
    Holder(mpsc::Sender<()>),
}

/// What a thread has when it is parked.
pub(super) struct Made {
    /// What others need of it.
    outside: Outside,
    /// What it does when it is released.
    run: Box<dyn FnOnce() -> Outcome>,
}

struct Outside {
    place: Option<Arc<Place>>,
    grip: Grip,
    usage: Option<Usage>,
    clock: Option<Clock>,
    crew: Vec<u32>,
}

impl Made {
    /// To poll a guest.
    pub(super) fn guest(
        place: Arc<Place>,
        prepared: Prepared,
        runtime: Runtime,
        pool: Pool,
        crew: Crew,
    ) -> Self {
        Self {
            outside: Outside {
                place: Some(place),
                grip: Grip::Guest(prepared.interrupter()),
                usage: Some(prepared.usage()),
                clock: prepared.clock(),
                crew: crew.threads(),
            },
            run: Box::new(move || run(prepared, runtime, &pool, crew)),
        }
    }

    /// To do nothing until it is told to go.
    pub(super) fn holder() -> Self {
        let (tell, told) = mpsc::channel();
        Self {
            outside: Outside {
                place: None,
                grip: Grip::Holder(tell),
                usage: None,
                clock: None,
                crew: Vec::new(),
            },
            run: Box::new(move || {
                // An error is the shim giving it up.
                let _ = told.recv();
                Outcome::Killed
            }),
        }
    }
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
            let Made { outside, run } = match make() {
                Ok(made) => made,
                Err(error) => return drop(ready.send(Err((error, pid)))),
            };
            let ready = ready.send(Ok((outside, pid)));
            if ready.is_ok() && released.blocking_recv().is_ok() {
                // Nobody listens any more only if the container's driver died in a panic.
                drop(finish.send(run()));
            }
        })
        .map_err(Error::host("start the container's thread"))?;
    match parked.await {
        Ok(Ok((outside, pid))) => Ok(Parked {
            place: outside.place,
            usage: outside.usage,
            clock: outside.clock,
            crew: outside.crew,
            release,
            running: Running {
                pid,
                grip: outside.grip,
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
fn run(prepared: Prepared, runtime: Runtime, pool: &Pool, crew: Crew) -> Outcome {
    prepared.ends_its_thread();
    let crew = crew.release();
    let outcome = runtime.block_on(prepared.run());
    crew.join();
    pool.end(runtime, patience(&outcome));
    outcome
}

/// How long to wait for the pool of a guest that has ended like this.
pub(super) fn patience(outcome: &Outcome) -> Duration {
    match outcome {
        Outcome::Killed | Outcome::DeadlineExceeded { .. } => POOL_AFTER_KILL,
        Outcome::Exited(_)
        | Outcome::Trapped { .. }
        | Outcome::OutOfMemory { .. }
        | Outcome::NoMemoryLeft { .. }
        | Outcome::TooMany { .. }
        | Outcome::StackOverflow { .. } => POOL,
    }
}

impl Parked {
    /// The thread's id, which is the task's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid
    }

    /// The ids of all threads that poll the guest, this one's first.
    #[must_use]
    pub fn threads(&self) -> Vec<u32> {
        let crew = self.crew.iter().copied();
        std::iter::once(self.pid()).chain(crew).collect()
    }

    /// Where it is; a holder is at no place that an exec could join.
    #[must_use]
    pub fn place(&self) -> Option<Arc<Place>> {
        self.place.clone()
    }

    /// What the guest uses, from now on; a holder uses nothing.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage.clone()
    }

    /// Lets the guest run.
    #[must_use]
    pub fn release(self) -> Running {
        if let Some(clock) = self.clock {
            clock.start();
        }
        // A thread that panicked while parked is found out when it is awaited.
        let _ = self.release.send(());
        self.running
    }

    /// Ends the thread without letting the guest run, and waits until it is gone.
    pub async fn discard(self) {
        drop(self.release);
        self.running.join().await;
        if let Some(place) = self.place {
            place.leave().await;
        }
    }
}

impl Running {
    /// Ends what it does.
    pub fn kill(&self) {
        match &self.grip {
            Grip::Guest(interrupter) => interrupter.kill(),
            // An error is that it has gone already.
            Grip::Holder(tell) => {
                let _ = tell.send(());
            }
        }
    }

    /// Asks it to finish what it has begun, and to end then: a service, see [`Self::drains`].
    pub fn drain(&self) {
        if let Grip::Guest(interrupter) = &self.grip {
            interrupter.drain();
        }
    }

    /// Whether [`Self::drain`] does anything.
    #[must_use]
    pub fn drains(&self) -> bool {
        match &self.grip {
            Grip::Guest(interrupter) => interrupter.drains(),
            Grip::Holder(_) => false,
        }
    }

    /// Stops it where it is, or lets it go on. A holder does nothing in either case.
    pub fn stop(&self, stopped: bool) {
        match (&self.grip, stopped) {
            (Grip::Guest(interrupter), true) => interrupter.pause(),
            (Grip::Guest(interrupter), false) => interrupter.resume(),
            (Grip::Holder(_), _) => {}
        }
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

/// A thread that has nothing, for tests of who drives it.
#[cfg(test)]
pub(crate) async fn idle(id: &str) -> Parked {
    let made = deliver(id, || Ok(Made::holder())).await;
    made.expect("a holder needs nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_holder_waits_until_it_is_told_to_go() {
        let parked = deliver("pod", || Ok(Made::holder())).await.unwrap();
        let mut running = parked.release();
        let pid = running.pid;
        assert!(PathBuf::from(format!("/proc/self/task/{pid}")).exists());
        running.kill();
        let outcome = std::future::poll_fn(|cx| running.poll_ended(cx)).await;
        assert!(matches!(outcome, Some(Outcome::Killed)), "{outcome:?}");
        running.join().await;
        assert!(!PathBuf::from(format!("/proc/self/task/{pid}")).exists());
    }

    #[tokio::test]
    async fn a_holder_that_is_never_released_goes_when_it_is_given_up() {
        let parked = deliver("pod", || Ok(Made::holder())).await.unwrap();
        let pid = parked.pid();
        parked.discard().await;
        assert!(!PathBuf::from(format!("/proc/self/task/{pid}")).exists());
    }

    #[tokio::test]
    async fn a_panic_costs_one_container() {
        let made = deliver("first", || panic!("a bug")).await;
        assert!(matches!(made, Err(Error::Panicked)), "{made:?}");
        let other = || Err(Error::Unimplemented("this".to_owned()));
        let made = deliver("second", other).await;
        assert!(matches!(made, Err(Error::Unimplemented(_))), "{made:?}");
    }
}
