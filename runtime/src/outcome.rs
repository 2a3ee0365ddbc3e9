//! How a guest ended, without numbers of any protocol.

use wasmtime::WasmBacktrace;
use wasmtime_wasi::I32Exit;

use crate::limits::MemoryLimitHit;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It returned or called `proc_exit`; the code is its own. To return is 0, or what an export that
    /// was asked for returned; a component's `err` is 1.
    Exited(u32),
    /// It trapped: `trace` is the trap with the wasm backtrace, already written to its stderr.
    Trapped {
        /// What happened, then a line for each frame.
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
    pub(crate) fn of(result: wasmtime::Result<u32>) -> Self {
        let error = match result {
            Ok(code) => return Self::Exited(code),
            Err(error) => error,
        };
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::Exited(exit.0.cast_unsigned());
        }
        if let Some(hit) = error.downcast_ref::<MemoryLimitHit>() {
            return Self::OutOfMemory { limit: hit.limit };
        }
        // Not the error's own `Debug`, which has the host's stack in it when RUST_BACKTRACE is set.
        let mut trace = format!("{}\n", error.root_cause());
        if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
            trace.push_str(&format!("{backtrace}\n"));
        }
        Self::Trapped { trace }
    }
}
