//! The engine: one per process.
//!
//! It holds the settings that every artifact was compiled for, the registry of loaded code, and what
//! interrupts guests. Nothing ticks.

use std::sync::{Arc, OnceLock};

use wasi_settings::{Interruption, Settings};
use wasmtime::{InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::Error;
use crate::landing::Landing;

/// The stack of a guest's calls, in bytes; twice wasmtime's default, because interpreters in wasm recurse
/// deeply. Pages that nobody has touched cost nothing.
const STACK: usize = 1 << 20;

/// A wasmtime engine without a compiler. Cloning it is cheap and shares everything.
#[derive(Clone, Debug)]
pub struct Engine {
    wasmtime: WasmtimeEngine,
    settings: Settings,
    /// Whether it is the one of a [`Pool`](crate::Pool).
    pooled: bool,
    /// Loaded with the first program that needs it.
    pub(crate) landing: Arc<OnceLock<Landing>>,
}

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
        Self::with(Interruption::BEST.into())
    }

    /// Makes an engine whose guests look for interruptions themselves, in each loop and function: slower,
    /// up to twice in a tight loop. The only way on processors other than x86-64, where
    /// [`Engine::new`] does the same.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`].
    pub fn with_epochs() -> Result<Self, Error> {
        Self::with(Interruption::Epoch.into())
    }

    /// Makes an engine that runs components of WASI 0.3, too, which wasmtime calls experimental. Everything
    /// else runs on it as on another engine; a component a little slower, for the bookkeeping.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`].
    pub fn with_wasi_0_3() -> Result<Self, Error> {
        Self::with(Settings {
            interruption: Interruption::BEST,
            asynchronous: true,
        })
    }

    /// One that takes memories, tables and stacks from `slots`. It runs the code of [`Engine::new`]'s.
    pub(crate) fn pooled(slots: PoolingAllocationConfig) -> Result<Self, Error> {
        Self::allocating(Interruption::BEST.into(), slots.into())
    }

    fn with(settings: Settings) -> Result<Self, Error> {
        Self::allocating(settings, InstanceAllocationStrategy::OnDemand)
    }

    fn allocating(
        settings: Settings,
        allocation: InstanceAllocationStrategy,
    ) -> Result<Self, Error> {
        let pooled = !matches!(allocation, InstanceAllocationStrategy::OnDemand);
        let mut config = wasi_settings::config(settings);
        config.allocation_strategy(allocation);
        // Of the 2 MiB that wasmtime maps for it, host functions have the other half.
        config.max_wasm_stack(STACK);
        let engine = wasmtime::Engine::new(&config).map_err(Error::engine)?;
        Ok(Self {
            wasmtime: WasmtimeEngine(engine),
            settings,
            pooled,
            landing: Arc::default(),
        })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime.0
    }

    pub(crate) fn shared(&self) -> WasmtimeEngine {
        self.wasmtime.clone()
    }

    pub(crate) fn is_pooled(&self) -> bool {
        self.pooled
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }
}
