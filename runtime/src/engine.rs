//! The engine: one per process.
//!
//! It holds the settings that every artifact was compiled for, the registry of loaded code, and the
//! epoch. The epoch is raised by whoever interrupts a guest; nothing ticks.

use crate::Error;

/// The stack of a guest's calls, in bytes; twice wasmtime's default, because interpreters in wasm recurse
/// deeply. Pages that nobody has touched cost nothing.
const STACK: usize = 1 << 20;

/// A wasmtime engine without a compiler. Cloning it is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Engine(pub(crate) WasmtimeEngine);

/// `wasmtime::Engine` has no `Debug` that says anything.
#[derive(Clone)]
pub(crate) struct WasmtimeEngine(pub(crate) wasmtime::Engine);

impl std::fmt::Debug for WasmtimeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(wasi_settings::WASMTIME_VERSION)
    }
}

impl Engine {
    /// The version of wasmtime.
    pub const VERSION: &str = wasi_settings::WASMTIME_VERSION;

    /// Makes the engine, which installs wasmtime's handlers for SIGSEGV, SIGILL and SIGFPE.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] when the host cannot run wasmtime (no memory, an unsupported processor).
    pub fn new() -> Result<Self, Error> {
        let mut config = wasi_settings::config();
        // Of the 2 MiB that wasmtime maps for it, host functions have the other half.
        config.max_wasm_stack(STACK);
        wasmtime::Engine::new(&config)
            .map(|engine| Self(WasmtimeEngine(engine)))
            .map_err(Error::engine)
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.0
    }
}
