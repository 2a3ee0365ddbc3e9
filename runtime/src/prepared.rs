//! A guest that is ready to run, and its run.

use std::time::Duration;

use futures_util::future::join;
use tokio::time::timeout;
use wasmtime::Store;

use crate::call::Call;
use crate::host::Host;
use crate::{Interrupter, Outcome, Output, Usage};

/// How long the end of a guest waits for a reader of its output; the limit of containerd's own shim
/// (`cmd/containerd-shim-runc-v2/process/init.go`).
const TAKE: Duration = Duration::from_secs(10);
/// The same for a guest that was killed, which has to be gone at once.
const TAKE_AFTER_KILL: Duration = Duration::from_millis(20);

/// A program linked to what it is given. Dropping it frees everything; nothing has run.
pub struct Prepared {
    store: Store<Host>,
    call: Call,
    interrupter: Interrupter,
    stdout: Output,
    stderr: Output,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared")
    }
}

impl Prepared {
    pub(crate) fn new(
        store: Store<Host>,
        call: Call,
        interrupter: Interrupter,
        stdout: Output,
        stderr: Output,
    ) -> Self {
        Self {
            store,
            call,
            interrupter,
            stdout,
            stderr,
        }
    }

    /// Ends this guest from any thread, now or while it runs.
    #[must_use]
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// What this guest uses, now or while it runs, and its peak after that.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.store.data().limiter.usage()
    }

    /// Runs the guest to its end, on the thread that polls, within a tokio runtime.
    ///
    /// When it is done its output has been taken by the other side, the trace of a trap included, and
    /// all it held is freed. A reader that takes nothing is waited for 10 s, and after a kill 20 ms;
    /// what it has not taken then is lost.
    pub async fn run(self) -> Outcome {
        let Self {
            mut store,
            call,
            interrupter,
            stdout,
            stderr,
        } = self;
        let ended = interrupter.guard(call.run(&mut store)).await;
        let outcome = ended.map_or(Outcome::Killed, Outcome::of);
        // Its files and sockets are closed before anybody hears of its end.
        drop(store);
        let last_words = match &outcome {
            Outcome::Trapped { trace } => trace.clone(),
            Outcome::OutOfMemory { limit } => {
                format!("the guest reached its memory limit of {limit} bytes\n")
            }
            Outcome::Exited(_) | Outcome::Killed => String::new(),
        };
        // Both at once: who does not read one of them may read the other.
        let finish = join(stdout.finish(b""), stderr.finish(last_words.as_bytes()));
        // Whether all was taken or not, there is nobody to tell.
        let _taken = if outcome == Outcome::Killed {
            timeout(TAKE_AFTER_KILL, finish).await.ok()
        } else {
            let finished = interrupter.guard(timeout(TAKE, finish)).await;
            finished.and_then(Result::ok)
        };
        outcome
    }
}
