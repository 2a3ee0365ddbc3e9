//! The wasmtime settings that decide whether an artifact fits an engine.
//!
//! Compiler and engine live in two programs (`containerd-shim-wasi-compile` has Cranelift, the shim
//! has none), and wasmtime refuses an artifact whose settings differ from the engine's. So both
//! programs take their [`Config`] from here, and [`fingerprint`] names the combination in the cache.

use wasmtime::{Collector, Config};

/// The version of wasmtime that the workspace builds with; a test holds it to `Cargo.lock`.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// The largest module compiled, in bytes: ten times the largest in the wild (a CPython is 18 MB).
pub const MAX_WASM: u64 = 256 << 20;

/// Raised whenever [`config`] changes, so that entries of older settings are not even looked at.
const REVISION: u32 = 1;

/// Settings shared by the compiler and the engine.
///
/// On-demand allocation, copy-on-write memory images and guard sizes are wasmtime's defaults and
/// part of the artifact. Epochs make a busy guest interruptible.
#[must_use]
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // The collector is named in the artifact; the exceptions proposal needs one.
        .collector(Collector::DeferredReferenceCounting)
        // WASI 0.3 is not linked, and its bookkeeping would cost every guest.
        .concurrency_support(false);
    config
}

/// Names this build's artifacts: wasmtime's version, our settings and the processor's architecture.
///
/// Processor features are not in it: wasmtime checks those when it loads an artifact, and the cache
/// compiles again what does not fit.
#[must_use]
pub fn fingerprint() -> String {
    format!(
        "wasmtime-{WASMTIME_VERSION}-{}-r{REVISION}",
        std::env::consts::ARCH
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_in_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock");
        let wanted = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"\n");
        assert!(lock.contains(&wanted), "WASMTIME_VERSION is stale");
    }
}
