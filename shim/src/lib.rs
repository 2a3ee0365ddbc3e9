//! The containerd shim `io.containerd.wasi.v1`.
//!
//! containerd runs the binary with `start`, which leaves a daemon behind ([`daemon`], [`serve`]). The
//! daemon answers the Task API on its socket ([`services`]). A container is a thread of the daemon
//! ([`confine`]), and one more for each exec in it ([`exec`]), driven by one task (`driver`) that asks a pure policy ([`lifecycle`]) what may
//! happen, and tells containerd what did ([`events`]). `delete` cleans up after a shim that is gone
//! ([`recover`]). `compile` and `pack`, which people call, fill the cache ahead of all that ([`warm`]) and make images
//! ([`pack`]).
//!
//! `wasi_bundles` says what a bundle wants, `wasi_runtime` runs guests; [`guest`] is where they meet.

pub mod allowance;
mod announcer;
mod ask;
pub mod bootstrap;
pub mod cgroup;
pub mod check;
pub mod confine;
pub mod container;
pub mod containers;
pub mod content;
pub mod credentials;
pub mod cri_options;
pub mod daemon;
mod driver;
mod error;
pub mod events;
pub mod exec;
pub mod flags;
pub mod grpc;
pub mod guest;
pub mod hooks;
mod ignored;
pub mod install;
pub mod lifecycle;
pub mod logger;
pub mod names;
pub mod namespaces;
pub mod oom_score;
pub mod pack;
pub mod place;
pub mod placement;
pub mod pod;
pub mod pool;
pub mod process;
pub mod program;
pub mod programs;
pub mod recover;
pub mod rootfs;
pub mod runc;
pub mod serve;
pub mod services;
pub mod socket;
mod start_error;
pub mod stats;
pub mod stdio;
pub mod terminal;
pub mod warm;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};

pub use error::Error;
pub use start_error::StartError;

use crate::daemon::Started;
use crate::flags::{Action, Flags};
use crate::runc::call::Call;

/// The runtime type that containerd's clients name, unless the binary is called by another name.
const RUNTIME: &str = "io.containerd.wasi.v1";

/// The whole program: parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let (command, words) = (std::env::args_os().nth(1), std::env::args_os().skip(2));
    let by_hand = match command.as_deref().and_then(OsStr::to_str) {
        Some("compile") => Some(warm::main(words)),
        Some("pack") => Some(pack::main(words)),
        Some(_) | None => None,
    };
    if let Some(done) = by_hand {
        return done.unwrap_or_else(|reason| fail(&reason));
    }
    if let Some(done) = node_command() {
        return done.unwrap_or_else(|reason| fail(&reason));
    }
    let flags = match Flags::parse(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(error) => return fail(&error.to_string()),
    };
    let output = match flags.action {
        Action::Version => format!(
            "containerd-shim-wasi-v1 {}\nruntime {}\nwasmtime {}\n",
            env!("CARGO_PKG_VERSION"),
            runtime(),
            wasi_runtime::Engine::VERSION
        )
        .into_bytes(),
        Action::Info => info(&Call::from(&flags)),
        Action::Delete => match recover::delete(&flags) {
            Ok(response) => response,
            Err(error) => return fail(&error.text()),
        },
        Action::Start => {
            return match daemon::start(&flags) {
                Ok(Started::Answered) => ExitCode::SUCCESS,
                Ok(Started::Daemon(inheritance)) => {
                    match names::pin().and_then(|()| serve::serve(*inheritance)) {
                        Ok(()) => ExitCode::SUCCESS,
                        Err(_) => ExitCode::FAILURE,
                    }
                }
                Err(error) => fail(&error.text()),
            };
        }
    };
    match std::io::stdout().write_all(&output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The commands for who looks after a node.
fn node_command() -> Option<Result<ExitCode, String>> {
    let mut words = std::env::args_os().skip(1);
    match words.next()?.to_str()? {
        "check" => Some(check::main(words)),
        "install" => Some(install::main(install::Action::Install, words)),
        "uninstall" => Some(install::main(install::Action::Uninstall, words)),
        _ => None,
    }
}

/// What `-info` prints: `containerd.types.RuntimeInfo` (containerd 2.0 and newer ask for it). The features are
/// those of runc, which has the Linux containers of a pod: without them a kubelet refuses `hostUsers: false`,
/// and containerd a container of such a pod.
fn info(linux: &Call) -> Vec<u8> {
    let info = RuntimeInfo {
        name: runtime(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        features: linux.info().unwrap_or_default().features,
        ..RuntimeInfo::default()
    };
    info.write_to_bytes()
        .expect("a message of two set fields has all it requires")
}

/// The runtime type that led to this binary: k3s looks for it as `containerd-shim-wasmtime-v1`, and then
/// calls it `io.containerd.wasmtime.v1` (containerd `pkg/shim/util.go`, `BinaryName`).
fn runtime() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    runtime_of(Path::new(&called)).unwrap_or_else(|| RUNTIME.to_owned())
}

fn runtime_of(called: &Path) -> Option<String> {
    let name = called.file_name()?.to_str()?;
    let (name, version) = name.strip_prefix("containerd-shim-")?.rsplit_once('-')?;
    Some(format!("io.containerd.{name}.{version}"))
}

/// Says why on stderr, where containerd and people look.
fn fail(reason: &str) -> ExitCode {
    drop(writeln!(
        std::io::stderr(),
        "containerd-shim-wasi-v1: {reason}"
    ));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binarys_name_is_the_runtimes() {
        for (called, expected) in [
            ("containerd-shim-wasi-v1", Some("io.containerd.wasi.v1")),
            (
                "/usr/bin/containerd-shim-wasmtime-v1",
                Some("io.containerd.wasmtime.v1"),
            ),
            ("/proc/self/exe", None),
            ("containerd-shim-wasi", None),
        ] {
            assert_eq!(
                runtime_of(Path::new(called)).as_deref(),
                expected,
                "{called}"
            );
        }
    }
}
