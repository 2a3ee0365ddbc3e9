//! A container with its task, by the verbs of `ctr task`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::containerd::Containerd;
use crate::events::Event;
use crate::invocation::{Invocation, Output};
use crate::{poll, run};

/// How long a task may take to get where it is wanted.
const PATIENCE: Duration = Duration::from_secs(20);

/// A container of one containerd.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    containerd: &'a Containerd,
    id: String,
}

/// What `ctr task list` says about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The pid that its shim answered at Create.
    pub pid: i32,
    /// `CREATED`, `RUNNING`, `PAUSED` or `STOPPED`.
    pub state: String,
}

impl<'a> Task<'a> {
    pub(crate) fn new(containerd: &'a Containerd, id: &str) -> Self {
        Self {
            containerd,
            id: id.to_owned(),
        }
    }

    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Creates the task of a container that has none, and starts it (`ctr task start`).
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start(&self) -> Result<()> {
        let uri = format!("file://{}", run::log(self.containerd, &self.id).display());
        self.containerd
            .ctr(["task", "start", "--detach", "--log-uri", &uri, &self.id])
            .success()
            .map(drop)
    }

    /// Sends a signal, by name or number.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn kill(&self, signal: &str) -> Result<()> {
        self.containerd
            .ctr(["task", "kill", "--signal", signal, &self.id])
            .success()
            .map(drop)
    }

    /// Sends a signal to one exec.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn kill_exec(&self, exec: &str, signal: &str) -> Result<()> {
        self.containerd
            .ctr([
                "task",
                "kill",
                "--signal",
                signal,
                "--exec-id",
                exec,
                &self.id,
            ])
            .success()
            .map(drop)
    }

    /// Pauses it.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn pause(&self) -> Result<()> {
        self.containerd
            .ctr(["task", "pause", &self.id])
            .success()
            .map(drop)
    }

    /// Resumes it.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn resume(&self) -> Result<()> {
        self.containerd
            .ctr(["task", "resume", &self.id])
            .success()
            .map(drop)
    }

    /// Runs `args` in the container, as `exec`, in the foreground.
    ///
    /// # Errors
    ///
    /// When `ctr` cannot be run or hangs; a failure is a status.
    pub fn exec<'b>(&self, exec: &str, args: impl IntoIterator<Item = &'b str>) -> Result<Output> {
        self.execution(exec, [], args).output()
    }

    /// The same, about to be run, with flags of `ctr task exec`.
    #[must_use]
    pub fn execution<'b>(
        &self,
        exec: &str,
        flags: impl IntoIterator<Item = &'b str>,
        args: impl IntoIterator<Item = &'b str>,
    ) -> Invocation {
        let fifos = self.containerd.folder().join("fifo");
        let ctr = self.containerd.ctr(["task", "exec", "--exec-id", exec]);
        ctr.args(["--fifo-dir", &fifos.to_string_lossy()])
            .args(flags)
            .arg(&self.id)
            .args(args)
    }

    /// Any other verb of `ctr task` on this container.
    ///
    /// # Errors
    ///
    /// When `ctr` cannot be run or hangs; a failure is a status.
    pub fn verb<'b>(&self, words: impl IntoIterator<Item = &'b str>) -> Result<Output> {
        self.containerd
            .ctr(["task"])
            .args(words)
            .arg(&self.id)
            .output()
    }

    /// Waits for the exit of its init.
    ///
    /// # Errors
    ///
    /// When no exit is published.
    pub fn wait(&self) -> Result<Event> {
        self.containerd
            .events()
            .wait_until(&format!("exit of {}", self.id), |event| {
                event.of_task() == Some("exit")
                    && event.container() == self.id
                    && event.process() == self.id
            })
    }

    /// Its status; none if there is no task.
    ///
    /// # Errors
    ///
    /// When containerd does not answer.
    pub fn status(&self) -> Result<Option<Status>> {
        let listed = self.containerd.ctr(["task", "list"]).success()?;
        let line = listed
            .stdout
            .lines()
            .skip(1)
            .find(|line| line.split_whitespace().next() == Some(&self.id));
        let Some(line) = line else { return Ok(None) };
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, pid, state, ..] = words[..] else {
            bail!("`ctr task list` says: {line}")
        };
        let pid = pid
            .parse()
            .with_context(|| format!("`ctr task list` says: {line}"))?;
        Ok(Some(Status {
            pid,
            state: state.to_owned(),
        }))
    }

    /// Waits until it is in a state, and tells its pid there.
    ///
    /// # Errors
    ///
    /// When it does not get there.
    pub fn reaches(&self, state: &str) -> Result<i32> {
        poll::until(
            &format!("{} is {state}", self.id),
            PATIENCE,
            || match self.status() {
                Ok(Some(status)) if status.state == state => Ok(status.pid),
                Ok(status) => Err(format!("{status:?}")),
                Err(error) => Err(format!("{error:#}")),
            },
        )
    }

    /// Its pid.
    ///
    /// # Errors
    ///
    /// When it has no task.
    pub fn pid(&self) -> Result<i32> {
        Ok(self
            .status()?
            .with_context(|| format!("{} has no task", self.id))?
            .pid)
    }

    /// The process whose thread the task is, by its pid: the shim, for a wasm container.
    ///
    /// # Errors
    ///
    /// When it has no task, or nothing has that pid.
    pub fn process(&self) -> Result<u32> {
        let path = format!("/proc/{}/status", self.pid()?);
        let status = std::fs::read_to_string(&path).context(path.clone())?;
        let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let tgid = tgid.with_context(|| format!("no Tgid in {path}"))?;
        Ok(tgid.trim().parse()?)
    }

    /// What a detached run has written so far, stdout and stderr in one.
    ///
    /// # Errors
    ///
    /// When it has no log.
    pub fn written(&self) -> Result<String> {
        let log = run::log(self.containerd, &self.id);
        let bytes = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until a detached run has written `text`.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn writes(&self, text: &str) -> Result<()> {
        poll::until(
            &format!("{} writes {text:?}", self.id),
            PATIENCE,
            || match self.written() {
                Ok(written) if written.contains(text) => Ok(()),
                Ok(written) => Err(format!("it wrote {written:?}")),
                Err(error) => Err(format!("{error:#}")),
            },
        )
    }

    /// Deletes its task, which must have ended; the container stays.
    ///
    /// # Errors
    ///
    /// When it is refused. The exit status of the task becomes `ctr`'s, so only a message is a failure.
    pub fn delete(&self) -> Result<()> {
        let output = self.containerd.ctr(["task", "delete", &self.id]).output()?;
        if output.stderr.contains("ctr:") || self.status()?.is_some() {
            bail!("{output}");
        }
        Ok(())
    }

    /// Deletes the container, its task being gone.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub fn remove(&self) -> Result<()> {
        self.containerd
            .ctr(["container", "delete", &self.id])
            .success()
            .map(drop)
    }

    /// Kills the task, waits for its exit, deletes both.
    ///
    /// # Errors
    ///
    /// When one of these fails.
    pub fn end(&self) -> Result<Event> {
        self.kill("SIGKILL")?;
        let exit = self.wait()?;
        self.reaches("STOPPED")?;
        self.delete()?;
        self.remove()?;
        Ok(exit)
    }
}
