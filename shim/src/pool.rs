//! The pool threads of one container, on which file operations and name lookups of its guest wait.
//!
//! When the guest has ended, one of them may still be in a system call that nothing ends: the open of a
//! FIFO that has no other side. A signal ends it (`EINTR`), and the thread finds out that it is not
//! needed any more. A call that a signal does not end, of a file system whose server is gone, keeps its
//! thread until the shim ends.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use tokio::runtime::{Builder, Runtime};
use wasi_runtime::Budget;

/// Does nothing to a process that does not handle it, so that a stray one does no harm.
const WAKE: Signal = Signal::SIGURG;

/// How often a thread is woken: a signal that came before its system call ended nothing.
const INTERVAL: Duration = Duration::from_millis(1);

/// Knows the threads of a runtime's pool.
#[derive(Debug, Clone, Default)]
pub struct Pool(Arc<Threads>);

#[derive(Debug, Default)]
struct Threads {
    living: Mutex<Vec<Pthread>>,
    one_left: Condvar,
}

impl Pool {
    /// A runtime for the calling thread, with at most `size` threads beside it, at the expense of `budget`.
    ///
    /// # Errors
    ///
    /// The system's: no epoll, no handler.
    pub fn runtime(&self, size: usize, budget: &Budget) -> std::io::Result<Runtime> {
        handle()?;
        let (started, stopped) = (self.0.clone(), self.0.clone());
        let (begins, ends) = (budget.clone(), budget.clone());
        Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(size)
            .on_thread_start(move || {
                begins.thread_begins();
                started.living().push(pthread_self());
            })
            .on_thread_stop(move || {
                ends.thread_ends();
                stopped.living().retain(|thread| *thread != pthread_self());
                stopped.one_left.notify_all();
            })
            .build()
    }

    /// Ends the runtime that was made here. Waits no longer than `limit` for its threads.
    pub fn end(&self, runtime: Runtime, limit: Duration) {
        runtime.shutdown_background();
        let begun = Instant::now();
        let mut living = self.0.living();
        while !living.is_empty() && begun.elapsed() < limit {
            for thread in living.iter() {
                // It has not left: to do that it takes itself off the list, which is locked.
                let _ = pthread_kill(*thread, WAKE);
            }
            let waited = self.0.one_left.wait_timeout(living, INTERVAL);
            living = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Threads {
    fn living(&self) -> MutexGuard<'_, Vec<Pthread>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the signal end system calls, of the whole process.
#[allow(unsafe_code, reason = "a signal handler")]
fn handle() -> std::io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    // Without SA_RESTART.
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, which is safe whatever it interrupts.
    unsafe { sigaction(WAKE, &action) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Longer than the test may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn a_thread_that_waits_for_the_other_side_of_a_fifo_ends_with_the_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pool = Pool::default();
        let runtime = pool.runtime(4, &Budget::default()).unwrap();
        let (sender, opening) = channel();
        let opened = runtime.spawn_blocking(move || {
            sender.send(()).unwrap();
            // What wasmtime-wasi does: no call of the standard library, which would begin again.
            let flags = rustix::fs::OFlags::RDONLY;
            rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).err()
        });
        opening.recv().unwrap();
        assert_eq!(pool.0.living().len(), 1);
        pool.end(runtime, PATIENCE);
        assert_eq!(*pool.0.living(), Vec::<Pthread>::new());
        let watcher = tokio::runtime::Builder::new_current_thread().build();
        let error = watcher.unwrap().block_on(opened).unwrap();
        assert_eq!(error, Some(rustix::io::Errno::INTR));
    }

    #[test]
    fn what_no_signal_ends_is_left_behind() {
        let pool = Pool::default();
        let runtime = pool.runtime(4, &Budget::default()).unwrap();
        let (go, wait) = channel::<()>();
        let (sender, waiting) = channel();
        drop(runtime.spawn_blocking(move || {
            sender.send(()).unwrap();
            wait.recv()
        }));
        waiting.recv().unwrap();
        pool.end(runtime, INTERVAL);
        assert_eq!(pool.0.living().len(), 1);
        drop(go);
    }
}
