//! A guest that is ready to run, and its run.

use wasmtime::{InstancePre, Store};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::host::Host;
use crate::{Interrupter, Outcome, Output};

/// A program linked to what it is given. Dropping it frees everything; nothing has run.
pub struct Prepared {
    store: Store<Host>,
    entry: Entry,
    interrupter: Interrupter,
    stdout: Output,
    stderr: Output,
}

/// What to call, by world.
pub(crate) enum Entry {
    Module(InstancePre<Host>),
    Component(CommandPre<Host>),
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prepared")
    }
}

impl Prepared {
    pub(crate) fn new(
        store: Store<Host>,
        entry: Entry,
        interrupter: Interrupter,
        stdout: Output,
        stderr: Output,
    ) -> Self {
        Self {
            store,
            entry,
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

    /// Runs the guest to its end, on the thread that polls, within a tokio runtime.
    ///
    /// When it is done its output has been taken by the other side, the trace of a trap included, and
    /// all it held is freed. Killed, it drops what its reader had not taken.
    pub async fn run(self) -> Outcome {
        let Self {
            mut store,
            entry,
            interrupter,
            stdout,
            stderr,
        } = self;
        let run = async {
            let outcome = Outcome::of(entry.call(&mut store).await);
            stdout.finish(b"").await;
            let last_words = match &outcome {
                Outcome::Trapped { trace } => trace.clone(),
                Outcome::OutOfMemory { limit } => {
                    format!("the guest reached its memory limit of {limit} bytes\n")
                }
                Outcome::Exited(_) | Outcome::Killed => String::new(),
            };
            stderr.finish(last_words.as_bytes()).await;
            outcome
        };
        interrupter.guard(run).await.unwrap_or(Outcome::Killed)
    }
}

impl Entry {
    async fn call(&self, store: &mut Store<Host>) -> wasmtime::Result<Result<(), ()>> {
        match self {
            Self::Module(module) => {
                let instance = module.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                start.call_async(store, ()).await.map(Ok)
            }
            Self::Component(component) => {
                let command = component.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(store).await
            }
        }
    }
}
