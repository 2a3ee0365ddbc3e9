//! `ctr run`: a container from nothing, in the foreground or detached.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::containerd::Containerd;
use crate::image::Image;
use crate::invocation::{Invocation, Output};
use crate::task::Task;
use crate::terminal::Session;

/// A container about to be run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    containerd: &'a Containerd,
    image: Image,
    id: String,
    runtime: String,
    flags: Vec<String>,
    args: Vec<String>,
    stdin: Option<Vec<u8>>,
    patience: Option<Duration>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(containerd: &'a Containerd, image: &Image, id: &str) -> Self {
        Self {
            containerd,
            image: image.clone(),
            id: id.to_owned(),
            runtime: crate::WASI.to_owned(),
            flags: Vec::new(),
            args: Vec::new(),
            stdin: None,
            patience: None,
        }
    }

    /// The runtime; ours by default.
    #[must_use]
    pub fn runtime(mut self, runtime: &str) -> Self {
        runtime.clone_into(&mut self.runtime);
        self
    }

    /// The whole command line in the container, in place of the image's.
    ///
    /// `ctr` replaces the entrypoint too: the first word is the program.
    #[must_use]
    pub fn args<'b>(mut self, args: impl IntoIterator<Item = &'b str>) -> Self {
        self.args = args.into_iter().map(str::to_owned).collect();
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.flag("--env").flag(&format!("{name}={value}"))
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(self, path: &str) -> Self {
        self.flag("--cwd").flag(path)
    }

    /// An annotation of the OCI spec.
    #[must_use]
    pub fn annotation(self, name: &str, value: &str) -> Self {
        self.flag("--annotation").flag(&format!("{name}={value}"))
    }

    /// A bind mount; `options` as `rbind:ro`.
    #[must_use]
    pub fn bind(self, source: &std::path::Path, destination: &str, options: &str) -> Self {
        self.mount(&format!(
            "type=bind,src={},dst={destination},options={options}",
            source.display()
        ))
    }

    /// A mount as `ctr` takes it: `type=..,src=..,dst=..,options=..:..`.
    #[must_use]
    pub fn mount(self, mount: &str) -> Self {
        self.flag("--mount").flag(mount)
    }

    /// A memory limit in bytes.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.flag("--memory-limit").flag(&bytes.to_string())
    }

    /// Any other flag of `ctr run`, and its value as another one.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// What the container reads before the end of its stdin.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long a foreground run may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Runs it in the foreground (`ctr run --rm`) to its end; its streams are those of the container.
    ///
    /// # Errors
    ///
    /// When `ctr` cannot be run or hangs. A failure of the container is a status: demand one with
    /// [`Output::success`] or [`Output::exited`].
    pub fn output(&self) -> Result<Output> {
        let mut ctr = self.foreground();
        if let Some(bytes) = &self.stdin {
            // `ctr` forgets to pass the end on when it comes before its task is made: 2.1 loses that race often.
            let (events, id) = (self.containerd.events().clone(), self.id.clone());
            ctr = ctr.stdin_ends_after(bytes.clone(), move || drop(events.wait_for("start", &id)));
        }
        if let Some(patience) = self.patience {
            ctr = ctr.patience(patience);
        }
        ctr.output()
    }

    /// Runs it in the foreground with a stdin that nothing is written to, which ends when `meanwhile` is
    /// done.
    ///
    /// # Errors
    ///
    /// As for [`Self::output`], and what `meanwhile` returns.
    pub fn with_open_stdin(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<Output> {
        let (open, end) = mpsc::channel::<()>();
        let ctr = self.foreground().stdin_ends_after([], move || {
            let _ = end.recv();
        });
        thread::scope(|scope| {
            let run = scope.spawn(|| ctr.output());
            let done = meanwhile();
            drop(open);
            let output = run.join().map_err(|_| anyhow!("`ctr run` panicked"))?;
            done.and(output)
        })
    }

    fn foreground(&self) -> Invocation {
        let fifos = self.containerd.folder().join("fifo");
        self.invocation(&["--rm", "--fifo-dir", &fifos.to_string_lossy()])
    }

    /// Runs it detached; what it writes is read with [`Task::written`].
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start(&self) -> Result<Task<'a>> {
        let uri = format!("file://{}", log(self.containerd, &self.id).display());
        self.start_with_log(&uri)
    }

    /// Runs it detached, with its output going to a URI.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_with_log(&self, uri: &str) -> Result<Task<'a>> {
        self.invocation(&["--detach", "--log-uri", uri]).success()?;
        Ok(self.containerd.task(&self.id))
    }

    /// Runs it in the foreground of a terminal, which is the container's.
    ///
    /// # Errors
    ///
    /// When `ctr` cannot be started.
    pub fn in_terminal(&self) -> Result<Session> {
        let fifos = self.containerd.folder().join("fifo");
        let flags = ["--rm", "--tty", "--fifo-dir", &fifos.to_string_lossy()];
        Session::start(self.invocation(&flags))
    }

    /// Makes the container only; it has no task until [`Task::start`].
    ///
    /// # Errors
    ///
    /// When `ctr` refuses it.
    pub fn create(&self) -> Result<Task<'a>> {
        let mut flags = self.flags.clone();
        flags.extend(["--runtime".into(), self.runtime.clone()]);
        // `ctr container create` knows no platform; the image is unpacked and the spec is Linux's either way.
        let ctr = self.containerd.ctr(["container", "create"]).args(flags);
        ctr.args([self.image.name(), &self.id])
            .args(&self.args)
            .success()?;
        Ok(self.containerd.task(&self.id))
    }

    fn invocation(&self, how: &[&str]) -> Invocation {
        self.containerd
            .ctr(["run"])
            .args(how)
            .args([
                "--runtime",
                &self.runtime,
                "--platform",
                &self.image.os_and_architecture(),
            ])
            .args(&self.flags)
            .args([self.image.name(), &self.id])
            .args(&self.args)
    }
}

/// Where a detached container's streams go.
pub(crate) fn log(containerd: &Containerd, id: &str) -> PathBuf {
    containerd.folder().join("logs").join(id)
}
