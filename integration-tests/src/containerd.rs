//! A private containerd: everything it has is in one folder, and goes with it.
//!
//! ```text
//! /tmp/ctd-XXXXXX/       short, because a socket's path may have 106 bytes; 0711 as containerd's own
//!   config.toml  containerd.log
//!   s  s.ttrpc           its two sockets
//!   root/  state/        images, snapshots, bundles
//!   fifo/  logs/         stdio of tasks
//!   cache/               the shim's compile cache
//! ```
//!
//! Outside of it are only what shims decide themselves: sockets in `/run/containerd/s`, runc's state and
//! cgroups, the latter two by namespace, so the namespace is this daemon's own.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::configuration::Configuration;
use crate::events::{Events, Subscription};
use crate::image::Image;
use crate::invocation::{Invocation, ends_within};
use crate::leftovers;
use crate::poll;
use crate::processes::Process;
use crate::run::Run;
use crate::task::Task;
use crate::version::Version;

/// A running containerd. Dropping it ends everything it started.
#[derive(Debug)]
pub struct Containerd {
    configuration: Configuration,
    namespace: String,
    /// What nobody else on this machine calls anything.
    tag: String,
    child: Child,
    subscription: Option<Subscription>,
    imported: Mutex<BTreeSet<String>>,
    keep: AtomicBool,
    /// Taken by the teardown.
    folder: Option<TempDir>,
}

impl Containerd {
    /// Starts a containerd of this version with nothing special.
    ///
    /// # Errors
    ///
    /// As [`Configuration::start`].
    pub fn start(version: &Version) -> Result<Self> {
        Self::builder(version).start()
    }

    pub(crate) fn configured(configuration: Configuration) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("ctd-")
            .tempdir_in("/tmp")
            .context("a folder of its own")?;
        let path = folder.path();
        std::fs::set_permissions(path, Permissions::from_mode(0o711))
            .context("open the folder to users")?;
        for inner in ["root", "state", "fifo", "logs", "images"] {
            std::fs::create_dir(path.join(inner)).with_context(|| format!("create {inner}"))?;
        }
        configuration.write(path)?;
        let suffix = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .replace("ctd-", "");
        let child = configuration.spawn(path)?;
        let mut containerd = Self {
            // Kubernetes has one for all that it runs.
            namespace: if configuration.is_node() {
                "k8s.io".to_owned()
            } else {
                format!("wasi-test-{suffix}")
            },
            tag: format!("wasi-test-{suffix}"),
            configuration,
            child,
            subscription: None,
            imported: Mutex::default(),
            keep: AtomicBool::new(false),
            folder: Some(folder),
        };
        containerd
            .becomes_ready()
            .with_context(|| containerd.log_tail(40))?;
        containerd.subscription = Some(Subscription::start(&containerd)?);
        Ok(containerd)
    }

    /// A containerd of this version, to be configured.
    #[must_use]
    pub fn builder(version: &Version) -> Configuration {
        Configuration::new(version)
    }

    pub(crate) fn is_node(&self) -> bool {
        self.configuration.is_node()
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &Version {
        self.configuration.version()
    }

    /// The namespace that everything runs in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A name of its own: the first cgroup of everything that it runs.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder
            .as_ref()
            .map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// Its gRPC socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("s")
    }

    /// The bundle of a container, while it has a task.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.folder()
            .join("state/io.containerd.runtime.v2.task")
            .join(&self.namespace)
            .join(id)
    }

    /// The shim processes that it started and that live.
    #[must_use]
    pub fn shims(&self) -> Vec<Process> {
        Process::shims()
            .into_iter()
            .filter(|shim| shim.is_about(self.folder()))
            .collect()
    }

    /// A `ctr` command in its namespace.
    pub fn ctr<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        let ctr = Invocation::new(self.version().tool("ctr"));
        self.client(ctr).args(args)
    }

    /// `ctr`, however it is run, told of this daemon.
    pub(crate) fn client(&self, ctr: Invocation) -> Invocation {
        ctr.arg("--address")
            .arg(self.socket())
            .args(["--namespace", &self.namespace])
    }

    /// The network namespace that the daemon is in.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    /// Imports and unpacks an image, once per name.
    ///
    /// # Errors
    ///
    /// When `ctr` refuses it.
    pub fn import(&self, image: &Image) -> Result<()> {
        // Held throughout: two tests that want the same image import it once, and neither runs it half unpacked.
        let mut imported = self.imported.lock().unwrap_or_else(PoisonError::into_inner);
        if imported.contains(image.name()) {
            return Ok(());
        }
        let file = self
            .folder()
            .join("images")
            .join(image.name().replace(['/', ':'], "-"));
        std::fs::write(&file, image.tar()?).with_context(|| format!("write {}", file.display()))?;
        let platform = image.os_and_architecture();
        // From 1.7 on the import is the daemon's (transfer service), which unpacks for the host's platform only.
        let local = if self.configuration.version().at_least(1, 7) {
            &["--local"][..]
        } else {
            &[]
        };
        self.ctr(["image", "import", "--platform", &platform])
            .args(local)
            .arg(&file)
            .success()?;
        imported.insert(image.name().to_owned());
        Ok(())
    }

    /// A run of `image` as container `id`, with our runtime unless told otherwise.
    #[must_use]
    pub fn run(&self, image: &Image, id: &str) -> Run<'_> {
        Run::new(self, image, id)
    }

    /// The container `id` and its task, whoever made them.
    #[must_use]
    pub fn task(&self, id: &str) -> Task<'_> {
        Task::new(self, id)
    }

    /// What has been published since it was started.
    ///
    /// # Panics
    ///
    /// Never: the subscription is part of the start.
    pub fn events(&self) -> &Events {
        &self
            .subscription
            .as_ref()
            .expect("subscribed at start")
            .events
    }

    /// The last lines of its log, which has the shims' too.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.folder().join("containerd.log");
        let text = std::fs::read(&log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        format!(
            "end of {}:\n{}",
            log.display(),
            all[all.len().saturating_sub(lines)..].join("\n")
        )
    }

    /// Leaves the folder in place at the end, and says where it is.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Ends it as dropping does, but tells what went wrong.
    ///
    /// # Errors
    ///
    /// When something could not be ended or removed.
    pub fn stop(mut self) -> Result<()> {
        self.tear_down()
    }

    /// Ends the daemon with SIGTERM and starts it again on the same folder: shims stay, and are found again.
    ///
    /// # Errors
    ///
    /// When it does not end, or does not come back.
    pub fn restart(&mut self) -> Result<()> {
        self.subscription = None;
        self.end_daemon()?;
        self.child = self.configuration.spawn(self.folder())?;
        self.becomes_ready().with_context(|| self.log_tail(40))?;
        self.subscription = Some(Subscription::start(self)?);
        Ok(())
    }

    /// Kills the daemon with SIGKILL, does `meanwhile`, and starts it again on the same folder.
    ///
    /// # Errors
    ///
    /// When it does not come back, and what `meanwhile` returns.
    pub fn crash(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.subscription = None;
        self.child.kill().context("kill containerd")?;
        self.child.wait().context("wait for containerd")?;
        let done = meanwhile();
        self.child = self.configuration.spawn(self.folder())?;
        self.becomes_ready().with_context(|| self.log_tail(40))?;
        self.subscription = Some(Subscription::start(self)?);
        done
    }

    fn becomes_ready(&mut self) -> Result<()> {
        for _ in 0.. {
            if let Some(status) = self.child.try_wait().context("look at containerd")? {
                bail!(
                    "containerd {} ended at start: {status}",
                    self.configuration.version()
                );
            }
            let answered = poll::until("containerd answers", Duration::from_millis(200), || {
                let version = self
                    .ctr(["version"])
                    .patience(Duration::from_secs(10))
                    .success();
                version.map(drop).map_err(|error| format!("{error:#}"))
            });
            if answered.is_ok() {
                break;
            }
        }
        Ok(())
    }

    fn end_daemon(&mut self) -> Result<()> {
        if let Some(daemon) = i32::try_from(self.child.id()).ok().and_then(Process::look) {
            daemon.signal(Signal::TERM);
        }
        if ends_within(&mut self.child, Duration::from_secs(10))?.is_none() {
            self.child.kill().context("kill containerd")?;
            self.child.wait().context("wait for containerd")?;
            bail!(
                "containerd {} did not end within 10 s of SIGTERM",
                self.configuration.version()
            );
        }
        Ok(())
    }

    fn tear_down(&mut self) -> Result<()> {
        let Some(folder) = self
            .folder
            .as_ref()
            .map(|folder| folder.path().to_path_buf())
        else {
            return Ok(());
        };
        let ended = leftovers::end_containers(self);
        self.subscription = None;
        let ended = ended.and(self.end_daemon());
        for process in Process::all() {
            if process.is_in_cgroup(&self.tag) || process.is_about(&folder) {
                process.signal(Signal::KILL);
            }
        }
        let swept = leftovers::sweep(&folder, &self.namespace, &self.tag);
        if let Some(owner) = self.folder.take() {
            if self.keep.load(Ordering::Relaxed) || std::thread::panicking() {
                drop(owner.keep());
            } else {
                owner
                    .close()
                    .with_context(|| format!("remove {}", folder.display()))?;
            }
        }
        ended.and(swept)
    }
}

impl Drop for Containerd {
    #[allow(
        clippy::print_stderr,
        reason = "a failing test has to say where its traces are"
    )]
    fn drop(&mut self) {
        if self.folder.is_none() {
            return;
        }
        let kept = self.keep.load(Ordering::Relaxed) || std::thread::panicking();
        if kept {
            eprintln!(
                "containerd {} left {}\n{}",
                self.configuration.version(),
                self.folder().display(),
                self.log_tail(15)
            );
        }
        if let Err(error) = self.tear_down() {
            eprintln!(
                "tearing down containerd {}: {error:#}",
                self.configuration.version()
            );
        }
    }
}
