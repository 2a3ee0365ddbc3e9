//! How a guest ended, without numbers of any protocol.

use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use crate::limits::MemoryLimitHit;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It returned (0, or 1 for a component's `err`) or called `proc_exit`; the code is its own.
    Exited(u32),
    /// It trapped: `trace` is the trap with the wasm backtrace, already written to its stderr.
    Trapped {
        /// Several lines of text.
        trace: String,
    },
    /// It wanted more memory than its limit, in bytes.
    OutOfMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Its [`Interrupter`](crate::Interrupter) killed it.
    Killed,
}

impl Outcome {
    /// Reads the outcome of a call into the guest.
    pub(crate) fn of(result: wasmtime::Result<Result<(), ()>>) -> Self {
        let error = match result {
            Ok(Ok(())) => return Self::Exited(0),
            Ok(Err(())) => return Self::Exited(1),
            Err(error) => error,
        };
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::Exited(exit.0.cast_unsigned());
        }
        if let Some(hit) = error.downcast_ref::<MemoryLimitHit>() {
            return Self::OutOfMemory { limit: hit.limit };
        }
        let trap = error.downcast_ref::<Trap>();
        let headline = trap.map_or_else(|| "the guest failed".to_owned(), Trap::to_string);
        Self::Trapped {
            trace: format!("{headline}\n{error:?}\n"),
        }
    }
}
