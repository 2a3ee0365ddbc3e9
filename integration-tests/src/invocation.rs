//! One run of a command line tool: bounded in time, and complete in what it tells when it fails.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Longer than anything here takes on two busy cores; a hang ends as a failure that says where.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a stream may stay open after the command that wrote to it ended.
const STREAMS: Duration = Duration::from_secs(5);

/// A command about to be run.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
    stdin: Option<Stdin>,
    patience: Duration,
}

struct Stdin {
    bytes: Vec<u8>,
    before_end: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// How a command ended, and what it wrote.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code, or 128 + n when signal n ended it.
    pub status: i32,
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Standard output as it came.
    pub bytes: Vec<u8>,
}

impl Invocation {
    /// A run of `program` with nothing on stdin.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            command: Command::new(program),
            stdin: None,
            patience: PATIENCE,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// One environment variable on top of the inherited ones.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// More environment variables.
    #[must_use]
    pub fn envs<'a>(mut self, variables: impl IntoIterator<Item = &'a (String, String)>) -> Self {
        self.command
            .envs(variables.into_iter().map(|(name, value)| (name, value)));
        self
    }

    /// The folder it runs in.
    #[must_use]
    pub fn cwd(mut self, folder: impl AsRef<std::path::Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// What it reads before the end of its stdin.
    #[must_use]
    pub fn stdin(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin_ends_after(bytes, || ())
    }

    /// What it reads; the end of it comes when `before_end` returns.
    #[must_use]
    pub fn stdin_ends_after(
        mut self,
        bytes: impl Into<Vec<u8>>,
        before_end: impl FnOnce() + Send + 'static,
    ) -> Self {
        self.stdin = Some(Stdin {
            bytes: bytes.into(),
            before_end: Box::new(before_end),
        });
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The command itself, for who runs it otherwise than with pipes.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs it to its end, whatever its exit status.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or takes longer than its patience; then it is killed, and the error has
    /// what it wrote up to there.
    pub fn output(mut self) -> Result<Output> {
        let line = self.to_string();
        let stdin = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{line}`"))?;
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        if let (Some(stdin), Some(mut pipe)) = (self.stdin.take(), child.stdin.take()) {
            std::thread::spawn(move || {
                // A reader that ends early is no failure of the writer.
                drop(pipe.write_all(&stdin.bytes));
                (stdin.before_end)();
            });
        }
        let ended = ends_within(&mut child, self.patience)?;
        if ended.is_none() {
            child.kill().with_context(|| format!("kill `{line}`"))?;
        }
        let status = code(child.wait().with_context(|| format!("wait for `{line}`"))?);
        let (bytes, stdout_ended) = collect(stdout);
        let (stderr, stderr_ended) = collect(stderr);
        let output = Output {
            status,
            stdout: String::from_utf8_lossy(&bytes).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            bytes,
            command: line,
        };
        if !(stdout_ended && stderr_ended) {
            bail!("something still holds its output open {STREAMS:?} after the end: {output}");
        }
        if ended.is_none() {
            bail!("killed after {:?}: {output}", self.patience);
        }
        Ok(output)
    }

    /// Runs it to its end and demands status 0.
    ///
    /// # Errors
    ///
    /// As [`Invocation::output`] and [`Output::success`].
    pub fn success(self) -> Result<Output> {
        self.output()?.success()
    }
}

impl Output {
    /// Demands status 0.
    ///
    /// # Errors
    ///
    /// When it ended otherwise: the command, its status and both streams.
    pub fn success(self) -> Result<Self> {
        self.exited(0)
    }

    /// Demands this exit status.
    ///
    /// # Errors
    ///
    /// When it ended otherwise: the command, its status and both streams.
    pub fn exited(self, status: i32) -> Result<Self> {
        if self.status != status {
            bail!("expected status {status}: {self}");
        }
        Ok(self)
    }

    /// Demands that it failed, and said `reason` on its standard error.
    ///
    /// # Errors
    ///
    /// When it did not: the command, its status and both streams.
    pub fn refused(&self, reason: &str) -> Result<()> {
        if self.status == 0 {
            bail!("expected a refusal: {self}");
        }
        if !self.stderr.contains(reason) {
            bail!("{reason:?} is missing: {self}");
        }
        Ok(())
    }
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = std::path::Path::new(self.command.get_program());
        write!(f, "{}", program.file_name().unwrap_or_default().display())?;
        for arg in self.command.get_args() {
            write!(f, " {}", arg.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "`{}` exited {}", self.command, self.status)?;
        writeln!(f, "--- stdout\n{}", self.stdout.trim_end())?;
        write!(f, "--- stderr\n{}", self.stderr.trim_end())
    }
}

/// Waits for a child without looking twice: its pidfd becomes readable when it ends.
pub(crate) fn ends_within(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("pidfd_open")?;
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().context("wait")? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = Timespec::try_from(left).context("timeout")?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll a pidfd"),
        }
    }
}

/// The status a shell would show.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// What a stream brings, piece by piece; the sender goes when the stream ends.
fn drain(mut stream: impl std::io::Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (pieces, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut piece = [0; 8192];
        // What came before an error is still what was written.
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            if pieces.send(piece[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Everything that came, and whether the stream ended: a daemon that inherited it keeps it open.
fn collect(pieces: Option<Receiver<Vec<u8>>>) -> (Vec<u8>, bool) {
    let Some(pieces) = pieces else {
        return (Vec::new(), true);
    };
    let mut bytes = Vec::new();
    loop {
        match pieces.recv_timeout(STREAMS) {
            Ok(piece) => bytes.extend(piece),
            Err(mpsc::RecvTimeoutError::Disconnected) => return (bytes, true),
            Err(mpsc::RecvTimeoutError::Timeout) => return (bytes, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_command_status_and_streams() {
        let error = Invocation::new("sh")
            .args(["-c", "echo out; echo err >&2; exit 3"])
            .success()
            .unwrap_err();
        let text = error.to_string();
        for part in ["sh -c", "exited 3", "out", "err"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_stream_left_open_is_told() {
        let run = Invocation::new("sh").args(["-c", "echo begun; sleep 7 &"]);
        let error = run.output().unwrap_err().to_string();
        assert!(
            error.contains("holds its output open") && error.contains("begun"),
            "{error}"
        );
    }

    #[test]
    fn a_hang_is_killed_and_told() {
        let run = Invocation::new("sh").args(["-c", "echo begun; exec sleep 30"]);
        let error = run
            .patience(Duration::from_millis(300))
            .output()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("killed after") && error.contains("begun"),
            "{error}"
        );
    }
}
