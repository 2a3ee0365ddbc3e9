//! What a private containerd is told: its configuration file, its environment, its log level.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::containerd::Containerd;
use crate::node;
use crate::version::Version;

/// Kubernetes' interface, unless it is wanted.
const CRI: &str = "io.containerd.grpc.v1.cri";

/// Plugins that reach outside of the folder, or that nothing here needs.
const DISABLED: [&str; 7] = [
    "io.containerd.nri.v1.nri",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// A containerd about to be started.
#[derive(Clone, Debug)]
pub struct Configuration {
    version: Version,
    log_level: &'static str,
    environment: Vec<(OsString, OsString)>,
    is_node: bool,
}

impl Configuration {
    /// One more environment variable; shims inherit it.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// How much containerd and its shims log; `debug` unless told otherwise.
    #[must_use]
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = level;
        self
    }

    /// With Kubernetes' interface, in a network namespace of its own ([`crate::node`]).
    #[must_use]
    pub fn node(mut self) -> Self {
        self.is_node = true;
        self
    }

    /// Starts it, and returns when it answers.
    ///
    /// # Errors
    ///
    /// When it ends or does not answer; the error has the end of its log.
    pub fn start(self) -> Result<Containerd> {
        Containerd::configured(self)
    }

    pub(crate) fn new(version: &Version) -> Self {
        Self {
            version: version.clone(),
            log_level: "debug",
            environment: Vec::new(),
            is_node: false,
        }
    }

    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    pub(crate) fn is_node(&self) -> bool {
        self.is_node
    }

    /// Writes what containerd reads into its folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let mut disabled = DISABLED.to_vec();
        let mut cri = String::new();
        if self.is_node {
            node::prepare(folder)?;
            cri = node::config(folder, &self.version);
        } else {
            disabled.push(CRI);
        }
        let text = config(folder, self.log_level, &disabled) + &cri;
        std::fs::write(folder.join("config.toml"), text).context("write config.toml")
    }

    /// Runs containerd on its folder, for the first time or again.
    pub(crate) fn spawn(&self, folder: &Path) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("containerd.log"))
            .context("open the log")?;
        let containerd = self.version.tool("containerd");
        let mut command = if self.is_node {
            node::inside(folder, &containerd)
        } else {
            Command::new(containerd)
        };
        command
            .args(["--config".as_ref(), folder.join("config.toml").as_os_str()])
            .env("PATH", self.version.path())
            .env("CONTAINERD_SHIM_WASI_CACHE", folder.join("cache"))
            .envs(self.environment.iter().cloned())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start containerd {}", self.version))
    }
}

fn config(folder: &Path, log_level: &str, disabled: &[&str]) -> String {
    let folder = folder.display();
    // Version 2 is read by 1.6 as its own and migrated by everything newer.
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {disabled:?}
[grpc]
  address = "{folder}/s"
[ttrpc]
  address = "{folder}/s.ttrpc"
[debug]
  level = "{log_level}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
"#
    )
}
