//! The wasmtime settings that decide whether an artifact fits an engine.
//!
//! Compiler and engine live in two programs (`containerd-shim-wasi-compile` has Cranelift, the shim
//! has none), and wasmtime refuses an artifact whose settings differ from the engine's. So both
//! programs take their [`Config`] from here, and [`fingerprint`] names the combination in the cache.

mod positions;

use wasmtime::{Collector, Config};

pub use positions::Positions;

/// The version of wasmtime that the workspace builds with; a test holds it to `Cargo.lock`.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// The largest module compiled, in bytes: ten times the largest in the wild (a CPython is 18 MB).
pub const MAX_WASM: u64 = 256 << 20;

/// How the compiler exits on a component that takes [`Settings::asynchronous`], and has not got it.
pub const EXIT_ASYNCHRONOUS: u8 = 3;

/// Raised whenever [`config`] changes, or what the compiler does to a module before, so that entries of older settings are not even looked at.
const REVISION: u32 = 2;

/// How a guest that computes is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// From outside: nothing in its code.
    Fence,
    /// By a check in each of its loops and functions.
    Epoch,
}

impl Interruption {
    /// The best for this processor. The fence knows the registers of one.
    pub const BEST: Self = if cfg!(target_arch = "x86_64") {
        Self::Fence
    } else {
        Self::Epoch
    };

    /// Its name, for command lines and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Epoch => "epoch",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fence, Self::Epoch]
            .into_iter()
            .find(|interruption| interruption.name() == name)
    }
}

/// What machine code is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How its guests are stopped.
    pub interruption: Interruption,
    /// Whether components may have asynchronous functions, streams and futures, which WASI 0.3 is made
    /// of. The bookkeeping costs every component that is compiled so.
    pub asynchronous: bool,
}

/// What comes after the name of an interruption.
const ASYNCHRONOUS: &str = "-async";

impl Settings {
    /// Their name, for command lines and file names.
    #[must_use]
    pub fn name(self) -> String {
        let suffix = if self.asynchronous { ASYNCHRONOUS } else { "" };
        format!("{}{suffix}", self.interruption.name())
    }

    /// Those of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let stripped = name.strip_suffix(ASYNCHRONOUS);
        Some(Self {
            interruption: Interruption::from_name(stripped.unwrap_or(name))?,
            asynchronous: stripped.is_some(),
        })
    }
}

/// Without asynchronous components.
impl From<Interruption> for Settings {
    fn from(interruption: Interruption) -> Self {
        Self {
            interruption,
            asynchronous: false,
        }
    }
}

/// Settings shared by the compiler and the engine.
///
/// On-demand allocation, copy-on-write memory images and guard sizes are wasmtime's defaults and
/// part of the artifact.
#[must_use]
pub fn config(settings: impl Into<Settings>) -> Config {
    let settings = settings.into();
    let mut config = Config::new();
    config
        .epoch_interruption(settings.interruption == Interruption::Epoch)
        // The collector is named in the artifact; the exceptions proposal needs one.
        .collector(Collector::DeferredReferenceCounting)
        // Without it no component of WASI 0.3 compiles.
        .concurrency_support(settings.asynchronous);
    config
}

/// Names this build's artifacts: wasmtime's version, our settings and the processor's architecture.
///
/// Processor features are not in it: wasmtime checks those when it loads an artifact, and the cache
/// compiles again what does not fit.
#[must_use]
pub fn fingerprint(settings: impl Into<Settings>) -> String {
    format!(
        "wasmtime-{WASMTIME_VERSION}-{}-{}-r{REVISION}",
        std::env::consts::ARCH,
        settings.into().name()
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

    #[test]
    fn every_setting_has_a_name_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for interruption in [Interruption::Fence, Interruption::Epoch] {
            for asynchronous in [false, true] {
                let settings = Settings {
                    interruption,
                    asynchronous,
                };
                assert_eq!(Settings::from_name(&settings.name()), Some(settings));
                assert!(names.insert(fingerprint(settings)));
            }
        }
        for name in ["", "-async", "fence-", "async", "fence-async-async"] {
            assert_eq!(Settings::from_name(name), None, "{name}");
        }
    }
}
