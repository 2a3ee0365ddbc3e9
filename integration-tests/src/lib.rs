//! The built shim, driven from outside.
//!
//! Two stages, lowest first. Against [`fake::FakeContainerd`] the real binary is started in every dialect a
//! containerd speaks, and its task service is called directly. Against [`containerd::Containerd`], a private
//! daemon of each version that `integration-tests/setup` installed, the same binary does what users see:
//!
//! ```no_run
//! use integration_tests::{containerd::Containerd, image::Image, version::Version};
//!
//! # fn main() -> anyhow::Result<()> {
//! let newest = Version::newest()?;
//! let containerd = Containerd::start(&newest)?;
//! let image = Image::new("hello:1").platform("wasi", "wasm").file("/hello.wasm", b"..").entrypoint(["/hello.wasm"]);
//! containerd.import(&image)?;
//! let output = containerd.run(&image, "one").output()?.success()?;
//! assert_eq!(output.stdout, "hello\n");
//! assert_eq!(containerd.events().topics_of("one"), ["create", "start", "exit", "delete"]);
//! # Ok(()) }
//! ```
//!
//! Everything here needs root: namespaces, mounts and cgroups are the subject.

use std::path::{Path, PathBuf};

pub mod bundle;
pub mod cgroups;
pub mod configuration;
pub mod containerd;
pub mod cri;
pub mod dialect;
pub mod docker;
pub mod events;
pub mod execs;
pub mod fake;
pub mod fifo;
pub mod flood;
pub mod guests;
pub mod hooks;
pub mod image;
pub mod invocation;
pub mod layout;
pub mod leftovers;
pub mod native;
pub mod node;
pub mod pod;
pub mod poll;
pub mod processes;
pub mod receiver;
pub mod registry;
pub mod run;
pub mod sandbox;
pub mod task;
pub mod tasks;
pub mod terminal;
pub mod trials;
pub mod version;

/// The runtime name that resolves to our binary.
pub const WASI: &str = "io.containerd.wasi.v1";
/// The runtime everybody has: the oracle, and the proof that the fixture itself works.
pub const RUNC: &str = "io.containerd.runc.v2";
/// The do-nothing shim: what containerd itself costs.
pub const FLOOR: &str = "io.containerd.floor.v1";

/// The workspace's build folder: our binaries, the installed containerds and the compiled guests.
///
/// `SHIM_TEST_TARGET` names another one.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("SHIM_TEST_TARGET").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// Where the binaries under test are.
#[must_use]
pub fn binaries() -> PathBuf {
    target().join("release")
}
