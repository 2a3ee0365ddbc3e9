//! OCI in, [`Plan`] out.
//!
//! A *bundle* is the directory containerd (or Docker) prepares for one container: `config.json`, which
//! says what is wanted, and a root file system, which is often not mounted yet. This crate reads the
//! first and answers with a [`Plan`]: the same wishes, checked, with every default filled in and every
//! path absolute. Whoever holds a `Plan` needs no OCI type, no default and no further validation.
//!
//! ```text
//! config.json ── Bundle::open ──▶ Bundle ── Plan::new ──▶ Plan { rootfs, mounts, namespaces,
//!                what was said             what was meant        hostname, process, limits }
//!                                                                           │ args[0]
//! the mounted root, as a descriptor ────────────────── Entrypoint::resolve ─┴─▶ Entrypoint { file, kind }
//! ```
//!
//! The second line waits until the root is mounted: only then is it known whether the container is
//! wasm at all. [`Error::NotWasm`] with [`NotWasm::Elf`] or [`NotWasm::Script`] is how a Linux
//! container is told from a wasm one.
//!
//! Nothing here mounts, enters a namespace, starts a thread or runs a guest. Reading is synchronous
//! and touches two things: `config.json`, and files below the descriptor it is given. There is no
//! engine and no containerd in this crate, so that it is tested with data files and without root.
//!
//! Not read, because they are about processes, and a wasm guest makes no system call of its own:
//! seccomp, AppArmor and SELinux profiles, rlimits but the one of open files. Not read either: the devices in
//! `linux.devices` and the cgroup's rules for them, because the shim lets no device node of an image or
//! a volume be opened, and makes the default ones only; a device file that is bind-mounted by name is
//! the way to another. Masked and read-only paths are in the plan: a guest can meet them, in a sysfs.
//!
//! # Example
//!
//! ```
//! use wasi_bundles::{Bundle, Namespace, Plan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! std::fs::write(
//!     dir.path().join("config.json"),
//!     r#"{
//!         "ociVersion": "1.1.0",
//!         "root": { "path": "rootfs", "readonly": true },
//!         "process": { "user": {}, "cwd": "/", "args": ["/app.wasm", "--port", "80"], "env": ["A=b=c"] },
//!         "linux": { "namespaces": [{ "type": "network" }] }
//!     }"#,
//! )?;
//!
//! let plan = Plan::new(&Bundle::open(dir.path())?)?;
//! assert_eq!(plan.rootfs().path, dir.path().join("rootfs"));
//! assert_eq!(plan.process().variable("A"), Some("b=c"));
//! assert_eq!(plan.namespaces().network, Namespace::New);
//! assert_eq!(plan.namespaces().ipc, Namespace::Host);
//! # Ok(())
//! # }
//! ```

mod bundle;
mod cgroup;
mod choice;
mod config_file;
mod entrypoint;
mod error;
mod hooks;
mod http;
mod in_root;
mod layers;
mod limits;
mod mount_options;
mod mounts;
mod namespaces;
mod options;
mod peer;
mod plan;
mod preopens;
mod process;
mod sysctls;
mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wasm;

pub use bundle::Bundle;
pub use cgroup::{Cgroup, CgroupPath, CpuShare};
pub use choice::{Choice, Claim};
pub use entrypoint::{Entrypoint, Found};
pub use error::Error;
pub use hooks::{Hook, Hooks, Moment};
pub use http::HttpOptions;
pub use in_root::open_in_root;
pub use layers::{Blob, LayersError, Step, WASM_LAYERS};
pub use limits::{CpuLimit, Limits};
pub use mount_options::MountFlags;
pub use mounts::{Mount, MountKind};
pub use namespaces::{Namespace, Namespaces};
pub use options::{Options, PREFIX};
pub use peer::Peer;
pub use plan::{Plan, Rootfs};
pub use preopens::Preopen;
pub use process::{ConsoleSize, Process, User};
pub use sysctls::Sysctl;
pub use telemetry::{Collector, Metrics, Telemetry, Traces};
pub use wasm::{Kind, NotWasm};
