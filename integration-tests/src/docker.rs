//! A private dockerd on a private containerd: one folder, one network namespace, and all goes with them.
//!
//! ```text
//! <containerd's folder>/
//!   d  dockerd.json  dockerd.log      socket, configuration, log
//!   docker/{data,exec,config}         images and containers, its run state, the client's settings
//! ```
//!
//! Both daemons are in a network namespace of their own, which is the "host" that `--network host` and
//! published ports are about: bridge and firewall rules touch no other. Docker's containers are in the
//! namespace of the private containerd, whose teardown finds what is left of them.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, unshare};
use rustix::process::Signal;
use serde_json::json;

use crate::containerd::Containerd;
use crate::image::Image;
use crate::invocation::{Invocation, ends_within};
use crate::poll;
use crate::processes::Process;
use crate::version::Version;

/// The Docker of a Debian suite, and the containerd of the same one.
const RELEASES: [(&str, &str); 2] = [("26.1", "1.7"), ("28.5", "2.1")];

/// It has to make a bridge and rules for it on two busy cores.
const START: Duration = Duration::from_secs(60);

/// One installed Docker: `target/docker/<version>` and its client.
#[derive(Clone, Debug)]
pub struct Release {
    name: &'static str,
    folder: PathBuf,
    containerd: Version,
}

impl Release {
    /// Every Docker that is tested, oldest first.
    ///
    /// # Errors
    ///
    /// When one is not installed, or its containerd.
    pub fn found() -> Result<Vec<Self>> {
        let containerds = Version::found()?;
        let release = |(name, containerd): (&'static str, &str)| {
            let folder = crate::target().join("docker");
            let release = Self {
                name,
                folder: folder.canonicalize().unwrap_or(folder),
                containerd: containerds
                    .iter()
                    .find(|version| version.to_string() == containerd)
                    .with_context(|| format!("no containerd {containerd}; run `make setup`"))?
                    .clone(),
            };
            for tool in [release.daemons().join("dockerd"), release.client()] {
                if !tool.is_file() {
                    bail!("{} is missing; run `make setup`", tool.display());
                }
            }
            Ok(release)
        };
        RELEASES.into_iter().map(release).collect()
    }

    /// Whether it is the newer one, which chooses some exit codes otherwise.
    #[must_use]
    pub fn is_newest(&self) -> bool {
        RELEASES.last().is_some_and(|(name, _)| *name == self.name)
    }

    fn daemons(&self) -> PathBuf {
        self.folder.join(self.name).join("usr/sbin")
    }

    fn client(&self) -> PathBuf {
        let package = format!("{}-cli", self.name);
        self.folder.join(package).join("usr/bin/docker")
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A running dockerd. Dropping it ends everything it started.
#[derive(Debug)]
pub struct Docker {
    release: Release,
    /// None when it was torn down.
    daemon: Mutex<Option<Child>>,
    /// Dropped after dockerd has ended.
    containerd: Containerd,
}

impl Docker {
    /// Starts a containerd, and a dockerd on it.
    ///
    /// # Errors
    ///
    /// When one of them does not come up.
    pub fn start(release: &Release) -> Result<Self> {
        let containerd = in_a_network_of_its_own(|| Containerd::start(&release.containerd))?;
        let docker = containerd.folder().join("docker");
        for inner in ["data", "exec", "config"] {
            std::fs::create_dir_all(docker.join(inner)).context("folders of dockerd")?;
        }
        let settings = json!({
            "features": { "containerd-snapshotter": true },
            "live-restore": true,
            "runtimes": { "wasi": { "runtimeType": crate::WASI } },
        });
        let file = containerd.folder().join("dockerd.json");
        std::fs::write(&file, settings.to_string()).context("write dockerd.json")?;
        let docker = Self {
            release: release.clone(),
            daemon: Mutex::new(None),
            containerd,
        };
        docker.start_daemon()?;
        Ok(docker)
    }

    /// Which it is.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// The containerd below.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// A `docker` command.
    pub fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        Invocation::new(self.release.client())
            .env("DOCKER_CONFIG", self.folder().join("docker/config"))
            .arg("--host")
            .arg(format!("unix://{}", self.folder().join("d").display()))
            .args(args)
    }

    /// `docker run` with our runtime, on `wasi/wasm`.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        self.docker(["run", "--runtime", crate::WASI, "--platform", "wasi/wasm"])
            .args(args)
    }

    /// What `docker inspect --format` says about a container.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        let output = self
            .docker(["inspect", "--format", format, name])
            .success()?;
        Ok(output.stdout.trim().to_owned())
    }

    /// Loads an image.
    ///
    /// # Errors
    ///
    /// When Docker refuses it.
    pub fn load(&self, image: &Image) -> Result<()> {
        let file = self
            .folder()
            .join("images")
            .join(image.name().replace(['/', ':'], "-"));
        std::fs::write(&file, image.tar()?).with_context(|| format!("write {}", file.display()))?;
        self.docker(["load", "--quiet", "--input", &file.to_string_lossy()])
            .success()?;
        Ok(())
    }

    /// A command in the network that containers know as the host's.
    pub fn on_its_host<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        Invocation::new("nsenter")
            .arg(format!("--net={}", self.network().display()))
            .args(args)
    }

    /// The network namespace that containers know as the host's.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.containerd.network()
    }

    /// Ends dockerd with SIGTERM and starts it again; containers run on.
    ///
    /// # Errors
    ///
    /// When it does not end, or does not come back.
    pub fn restart(&self) -> Result<()> {
        self.end_daemon()?;
        self.start_daemon()
    }

    /// Ends it as dropping does, but tells what went wrong.
    ///
    /// # Errors
    ///
    /// When something could not be ended or removed.
    pub fn stop(mut self) -> Result<()> {
        self.tear_down()
    }

    fn folder(&self) -> &Path {
        self.containerd.folder()
    }

    fn start_daemon(&self) -> Result<()> {
        let mut child = self.spawn()?;
        let answers = poll::until("dockerd answers", START, || {
            if let Ok(Some(status)) = child.try_wait() {
                return Ok(Some(status));
            }
            let answer = self.docker(["version", "--format", "{{.Server.Version}}"]);
            answer
                .success()
                .map(|_| None)
                .map_err(|error| format!("{error:#}"))
        });
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        match answers.with_context(|| self.log_tail())? {
            None => Ok(()),
            Some(status) => bail!("dockerd ended at start: {status}\n{}", self.log_tail()),
        }
    }

    fn spawn(&self) -> Result<Child> {
        let folder = self.folder();
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("dockerd.log"))
            .context("open dockerd.log")?;
        let mut paths: Vec<_> = std::env::split_paths(&self.release.containerd.path()).collect();
        paths.push(self.release.daemons());
        let file = |name: &str| folder.join(name).display().to_string();
        let namespace = self.containerd.namespace();
        let plugins = format!("{namespace}-plugins");
        // nsenter becomes dockerd: the child is the daemon.
        Command::new("nsenter")
            .arg(format!("--net={}", self.network().display()))
            .arg(self.release.daemons().join("dockerd"))
            .args(["--config-file", &file("dockerd.json")])
            .args(["--data-root", &file("docker/data")])
            .args(["--exec-root", &file("docker/exec")])
            .args(["--pidfile", &file("docker/pid")])
            .args(["--host", &format!("unix://{}", file("d"))])
            .args(["--containerd", &file("s")])
            .args(["--containerd-namespace", namespace])
            .args(["--containerd-plugins-namespace", &plugins])
            .args(["--cgroup-parent", &format!("/{namespace}")])
            .env("PATH", std::env::join_paths(paths)?)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("start dockerd")
    }

    fn end_daemon(&self) -> Result<()> {
        let daemon = self
            .daemon
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut child) = daemon else {
            return Ok(());
        };
        if let Some(process) = i32::try_from(child.id()).ok().and_then(Process::look) {
            process.signal(Signal::TERM);
        }
        if ends_within(&mut child, Duration::from_secs(20))?.is_none() {
            child.kill().context("kill dockerd")?;
            child.wait().context("wait for dockerd")?;
            bail!("dockerd {} did not end at SIGTERM", self.release);
        }
        Ok(())
    }

    fn tear_down(&mut self) -> Result<()> {
        let removed = self.remove_containers();
        let ended = self.end_daemon();
        removed.and(ended)
    }

    /// Through the front door, so that mounts and networks go as they should.
    fn remove_containers(&self) -> Result<()> {
        let listed = self.docker(["ps", "--all", "--quiet"]).success()?;
        for id in listed.stdout.split_whitespace() {
            self.docker(["rm", "--force", "--volumes", id]).success()?;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.folder().join("dockerd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Docker {
    #[allow(
        clippy::print_stderr,
        reason = "a failing test has to say where its traces are"
    )]
    fn drop(&mut self) {
        let stopped = self
            .daemon
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none();
        if stopped {
            return;
        }
        if let Err(error) = self.tear_down() {
            eprintln!("tearing down dockerd {}: {error:#}", self.release);
        }
    }
}

/// Does it on a thread that has a network namespace to itself, which what it starts inherits.
fn in_a_network_of_its_own<T: Send>(start: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let started = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
            Invocation::new("ip")
                .args(["link", "set", "lo", "up"])
                .success()?;
            start()
        });
        started
            .join()
            .map_err(|_| anyhow!("starting in a network namespace panicked"))?
    })
}
