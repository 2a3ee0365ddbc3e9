//! The other threads of a container that serves HTTP: born of the container's thread when this is confined,
//! they are confined as it is. They park until it is released, and are gone before it goes.

use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use wasi_runtime::{Budget, Worker};

use super::thread::{patience, thread_id};
use super::{Error, runtime};

/// The threads, which are parked until [`Self::release`]; dropped before, they end.
#[derive(Debug, Default)]
pub(super) struct Crew(Vec<Member>);

#[derive(Debug)]
struct Member {
    id: u32,
    release: Sender<()>,
    thread: JoinHandle<()>,
}

/// Those that were released.
#[derive(Debug)]
pub(super) struct AtWork(Vec<JoinHandle<()>>);

impl Crew {
    /// A thread for each worker. To be called on the container's thread when it is confined.
    pub(super) fn new(workers: Vec<Worker>, budget: &Budget) -> Result<Self, Error> {
        let workers = workers.into_iter().enumerate();
        let member = |(index, worker): (usize, Worker)| {
            let (runtime, pool) = runtime(budget)?;
            let (release, released) = channel();
            let (tell, told) = channel();
            let thread = std::thread::Builder::new()
                .name(format!("wasi-worker-{}", index + 1))
                .spawn(move || {
                    // Who made it waits for this.
                    let _ = tell.send(thread_id());
                    if released.recv().is_ok() {
                        let outcome = runtime.block_on(worker.run());
                        pool.end(runtime, patience(&outcome));
                    }
                })
                .map_err(Error::host("start another thread that serves HTTP"))?;
            let id = told.recv().map_err(|_| Error::Panicked)?;
            Ok(Member {
                id,
                release,
                thread,
            })
        };
        workers.map(member).collect::<Result<_, _>>().map(Self)
    }

    /// The ids of the threads.
    pub(super) fn threads(&self) -> Vec<u32> {
        self.0.iter().map(|member| member.id).collect()
    }

    pub(super) fn release(self) -> AtWork {
        let members = self.0.into_iter().map(
            |Member {
                 release, thread, ..
             }| {
                // It waits for nothing else.
                let _ = release.send(());
                thread
            },
        );
        AtWork(members.collect())
    }
}

impl AtWork {
    /// Waits until they are gone, which they are soon when the service has ended.
    pub(super) fn join(self) {
        for thread in self.0 {
            // A panic was logged by the hook, and has ended the service.
            drop(thread.join());
        }
    }
}
