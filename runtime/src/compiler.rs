//! The compile child: a program of its own, so that the engine's process has no compiler in it.
//!
//! The child limits its own privileges, memory and processor time before it reads a byte of the
//! module. Watched from here is what it cannot be trusted with: how long it takes, and how much it
//! says.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use wasi_settings::{EXIT_ASYNCHRONOUS, Settings};

use crate::Error;
use crate::component::ASYNCHRONOUS;

/// How much of the child's complaint is passed on, in bytes.
const MAX_REASON: usize = 4096;
/// What is still in a pipe when its writer ends, at most, in bytes (pipe(7)).
const PIPE: usize = 64 << 10;
/// When a caller first hears of a compilation that takes long, and how often after that.
const FIRST_REPORT: Duration = Duration::from_secs(2);
const REPORT: Duration = Duration::from_secs(5);

/// What a caller is told while it waits for an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Somebody else compiles the same content; said once.
    Waiting,
    /// The compiler is at work; said after two seconds and every five. There is no telling how much is left.
    Compiling {
        /// How long so far.
        elapsed: Duration,
        /// The size of the module, in bytes.
        size: u64,
    },
}

/// The program `containerd-shim-wasi-compile`.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    patience: Duration,
    prepare: Option<Prepare>,
}

/// What is done to each child before it runs.
#[derive(Clone)]
struct Prepare(Arc<dyn Fn(&mut Command) + Send + Sync>);

impl fmt::Debug for Prepare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepare")
    }
}

impl Compiler {
    /// How long a compilation may take. Its work is bounded by the processor time that the child limits
    /// itself to; this is for a child that hangs. The largest module in the wild, a 16 MB Ruby, takes a
    /// minute of one processor, and a pod may have a tenth of one.
    pub const PATIENCE: Duration = Duration::from_secs(1800);

    /// The compiler at `program`, an absolute path. It is run, not opened, and only on a cache miss.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            patience: Self::PATIENCE,
            prepare: None,
        }
    }

    /// Has `prepare` change each child before it is run: to have it in another cgroup than the engine's process,
    /// for example. Its arguments, environment and standard streams are the compiler's own.
    #[must_use]
    pub fn prepared_by(self, prepare: impl Fn(&mut Command) + Send + Sync + 'static) -> Self {
        let prepare = Some(Prepare(Arc::new(prepare)));
        Self { prepare, ..self }
    }

    /// Stops compilations after another time than [`Compiler::PATIENCE`].
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Compiles `wasm` into `artifact`, on this thread; when the thread ends the child does, too. The
    /// `arguments` say what it is: a digest, or [`Composition::arguments`](crate::Composition).
    pub(crate) fn compile(
        &self,
        wasm: &File,
        arguments: &[String],
        settings: Settings,
        artifact: &File,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        let failed = |source| Error::Compiler {
            program: self.program.display().to_string(),
            source,
        };
        let mut run = self
            .spawn(wasm, arguments, settings, artifact)
            .map_err(failed)?;
        let size = wasm.metadata().map_err(failed)?.len();
        let mut report = |elapsed| watch(Progress::Compiling { elapsed, size });
        let reason = match run.wait(self.patience, &mut report).map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) if status.code() == Some(EXIT_ASYNCHRONOUS.into()) => {
                return Err(Error::Off {
                    what: "is a component of WASI 0.3".to_owned(),
                    option: ASYNCHRONOUS,
                });
            }
            Some(status) => reason(status, &run.words()),
            None => format!(
                "the compiler was stopped after {:?}, which no ordinary module takes",
                self.patience
            ),
        };
        Err(Error::Compile { reason })
    }

    fn spawn(
        &self,
        wasm: &File,
        arguments: &[String],
        settings: Settings,
        artifact: &File,
    ) -> io::Result<Run> {
        let mut wasm = wasm.try_clone()?;
        wasm.rewind()?;
        let mut command = Command::new(&self.program);
        if let Some(Prepare(prepare)) = &self.prepare {
            prepare(&mut command);
        }
        let child = command
            .args(arguments)
            .arg(settings.name())
            .env_clear()
            .stdin(wasm)
            .stdout(artifact.try_clone()?)
            .stderr(Stdio::piped())
            .spawn()?;
        Run::new(child)
    }
}

/// Why a compiler that ended with `status` and these `words` made no artifact.
fn reason(status: ExitStatus, words: &str) -> String {
    if status.signal().is_none() && !words.is_empty() {
        return words.to_owned();
    }
    let colon = if words.is_empty() { "" } else { ": " };
    format!(
        "the compiler ended with {status}, as it does when a module takes too much memory or \
         time{colon}{words}"
    )
}

/// A child that runs; one that is dropped is killed.
struct Run {
    child: Child,
    /// Readable when the child has ended.
    ended: OwnedFd,
    stderr: Option<ChildStderr>,
    words: Vec<u8>,
}

impl Run {
    fn new(mut child: Child) -> io::Result<Self> {
        // Nobody else waits for the child, so that the id is still its own.
        let pid = Pid::from_child(&child);
        let prepare = |stderr: Option<ChildStderr>| {
            if let Some(stderr) = &stderr {
                rustix::io::ioctl_fionbio(stderr, true)?;
            }
            Ok((
                rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
                stderr,
            ))
        };
        match prepare(child.stderr.take()) {
            Ok((ended, stderr)) => Ok(Self {
                child,
                ended,
                stderr,
                words: vec![],
            }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Waits until the child has ended, or `patience` is over (`None`).
    fn wait(
        &mut self,
        patience: Duration,
        report: &mut dyn FnMut(Duration),
    ) -> io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        let mut next = FIRST_REPORT;
        loop {
            let elapsed = begun.elapsed();
            if elapsed >= patience {
                return Ok(None);
            }
            if elapsed >= next {
                report(elapsed);
                next = elapsed + REPORT;
            }
            if self.ends_within(patience.min(next).saturating_sub(elapsed))? {
                break;
            }
            self.listen()?;
        }
        // What it said last. Not to the end of the pipe: who else holds it may do so for ever.
        for _ in 0..PIPE / MAX_REASON {
            if !self.listen()? {
                break;
            }
        }
        self.child.wait().map(Some)
    }

    /// Sleeps until the child ends or says something, or the time is over; whether it ended.
    fn ends_within(&self, time: Duration) -> io::Result<bool> {
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        let mut events = vec![PollFd::new(&self.ended, PollFlags::IN)];
        events.extend(
            self.stderr
                .as_ref()
                .map(|stderr| PollFd::new(stderr, PollFlags::IN)),
        );
        match rustix::event::poll(&mut events, Some(&time)) {
            Ok(_) => Ok(!events[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what is in the pipe, and keeps its beginning; whether there was something.
    fn listen(&mut self) -> io::Result<bool> {
        let Some(stderr) = &mut self.stderr else {
            return Ok(false);
        };
        let mut buffer = [0; MAX_REASON];
        match stderr.read(&mut buffer) {
            Ok(0) => self.stderr = None,
            Ok(count) => {
                let wanted = count.min(MAX_REASON - self.words.len());
                self.words.extend_from_slice(&buffer[..wanted]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    /// What it said, on one line: a module's names are in it, which may be anything.
    fn words(&self) -> String {
        let words = String::from_utf8_lossy(&self.words);
        let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
        words.trim().chars().map(printable).collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Kills and reaps `child`; one that has been waited for is left alone.
fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}
