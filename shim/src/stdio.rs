//! A container's standard streams: what containerd names, opened for the guest, and what the shim holds
//! of it.
//!
//! The guest reads and writes the descriptors itself; only a [`Terminal`] is copied. Of a fifo the guest
//! has its own open file description, non-blocking. The shim holds another one, open for both
//! directions, which decides when the other side sees an end:
//!
//! - stdout and stderr: while the shim holds a reading end, the guest meets no broken pipe when
//!   containerd restarts, and output waits in the fifo. Let go at the guest's exit, not at Delete:
//!   clients read to the end of the stream *before* they send Delete. A client that has not opened it by
//!   then is waited for, and what one has left unread is kept for it, see `hold`.
//! - stdin: while the shim holds a writing end, the guest does not take a client that has not opened
//!   the fifo yet for the end of its input. `CloseIO` lets go.
//!
//! With a terminal the thread that copies takes the guest's place at the fifos, and there is no stderr.

mod hold;
mod log_program;
mod target;

use std::ffi::{CString, NulError};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use wasi_bundles::ConsoleSize;
use wasi_runtime::{Input, Output};

use self::hold::{Hold, Unread};
use self::log_program::LogProgram;
use self::target::Target;
use crate::Error;
use crate::lifecycle::Signal;
use crate::terminal::{Console, Terminal};

/// How long the exit waits for a client that does not take the last of a terminal's output (runc's shim
/// has the same), or has not opened the streams yet.
const DRAIN: Duration = Duration::from_secs(10);

/// Where containerd wants the streams: the fields of its request, each empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// The guest reads from it.
    pub stdin: String,
    /// The guest writes to it.
    pub stdout: String,
    /// The guest writes to it.
    pub stderr: String,
}

/// Whose streams they are, for a logger that asks.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container's id, or the exec's.
    pub id: &'a str,
}

/// The guest's ends.
#[derive(Debug)]
pub struct GuestStdio {
    /// Closed without a path.
    pub stdin: Input,
    /// Discarded without a path.
    pub stdout: Output,
    /// Discarded without a path.
    pub stderr: Output,
}

/// The shim's ends. Dropping it lets go of all.
#[derive(Debug, Default)]
pub struct Holds {
    stdin: Option<File>,
    outputs: Vec<Hold>,
    /// Of a guest that has ended.
    unread: Vec<Unread>,
    terminal: Option<Terminal>,
    logger: Option<LogProgram>,
}

impl StdioPaths {
    /// Opens all streams, without waiting for the other side; a logger is waited for until it is ready.
    /// With `terminal`, its first size, the guest's streams are a terminal.
    ///
    /// # Errors
    ///
    /// [`Error::StdioUri`] for what cannot be a stream; [`Error::Stdio`] names one that cannot be opened,
    /// [`Error::Logger`] a logger that does not start. Nothing is left then.
    pub async fn open(
        &self,
        owner: Owner<'_>,
        terminal: Option<ConsoleSize>,
    ) -> Result<(Holds, GuestStdio), Error> {
        let stdin = Target::parse("stdin", &self.stdin)?;
        let stdout = Target::parse("stdout", &self.stdout)?;
        let stderr = match terminal {
            Some(_) => Target::Nothing,
            None => stdout.with_stderr(Target::parse("stderr", &self.stderr)?, &self.stderr)?,
        };
        let mut holds = Holds::default();
        let input = holds.input(stdin, &self.stdin)?;
        let (output, errors) = if let Target::Program(command) = &stdout {
            let (logger, output, errors) = LogProgram::start(command, owner).await?;
            holds.logger = Some(logger);
            (Some(output), Some(errors))
        } else {
            let output = holds.output("stdout", stdout, &self.stdout)?;
            let uri = [&self.stderr, &self.stdout][usize::from(self.stderr.is_empty())];
            (output, holds.output("stderr", stderr, uri)?)
        };
        let guest = match terminal {
            Some(size) => holds.attach(size, input, output)?,
            None => GuestStdio::new(input, output, errors)?,
        };
        Ok((holds, guest))
    }
}

impl Owner<'_> {
    /// All that a logger is told by its environment (contract of containerd's `NewBinaryCmd`). Neither
    /// name has a NUL byte: containerd allows letters, digits and few signs.
    fn environment(self) -> Result<Vec<CString>, NulError> {
        let variables = [
            format!("CONTAINER_ID={}", self.id),
            format!("CONTAINER_NAMESPACE={}", self.namespace),
        ];
        variables.into_iter().map(CString::new).collect()
    }
}

impl GuestStdio {
    fn new(
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Result<Self, Error> {
        let input = stdin.map(Input::from_fd).transpose();
        let output =
            |fd: Option<OwnedFd>| fd.map(Output::from_fd).transpose().map_err(Error::Engine);
        Ok(Self {
            stdin: input.map_err(Error::Engine)?.unwrap_or_default(),
            stdout: output(stdout)?.unwrap_or_default(),
            stderr: output(stderr)?.unwrap_or_default(),
        })
    }
}

impl Holds {
    /// The guest's input ends when its other writers are gone, too. A terminal is hung up then.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The terminal, to resize it.
    #[must_use]
    pub fn console(&self) -> Option<Console> {
        self.terminal.as_ref().map(Terminal::console)
    }

    /// The next signal that is typed at the terminal; never ready without one.
    pub fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        match &mut self.terminal {
            Some(terminal) => terminal.poll_typed(cx),
            None => Poll::Pending,
        }
    }

    /// The guest has ended, and all it had open is closed: sees to it that the client gets the rest of
    /// the output, and then the end of it.
    pub async fn finish(&mut self) {
        if let Some(terminal) = self.terminal.take()
            && !terminal.drain(DRAIN).await
        {
            log::warn!("a terminal's last output is lost: nobody took it within {DRAIN:?}");
        }
        let outputs = self.outputs.drain(..).map(|hold| hold.release(DRAIN));
        let unread = join_all(outputs).await;
        self.unread.extend(unread.into_iter().flatten());
        self.close();
    }

    /// The guest has ended, or will never run, and nobody waits for output: the client gets the end of
    /// it at once.
    pub fn close(&mut self) {
        self.terminal = None;
        if let Some(logger) = &self.logger {
            logger.close();
        }
        self.stdin = None;
        for hold in self.outputs.drain(..) {
            tokio::spawn(async { drop(hold.release(DRAIN).await) });
        }
    }

    /// The container, or the exec, is deleted: its logger has to end, and nobody will read its output.
    pub async fn end(&mut self) {
        self.unread.clear();
        if let Some(logger) = self.logger.take() {
            logger.end().await;
        }
    }

    fn input(&mut self, stdin: Target, uri: &str) -> Result<Option<OwnedFd>, Error> {
        let path = match stdin {
            Target::Nothing => return Ok(None),
            Target::Path(path) | Target::File(path) => path,
            Target::Program(_) => {
                return Err(Error::StdioUri {
                    stream: "stdin",
                    uri: uri.to_owned(),
                    problem: "a logger gives no input".to_owned(),
                });
            }
        };
        let opened = || -> io::Result<(OwnedFd, Option<File>)> {
            // First, so that opening one direction finds the other open.
            let hold = is_fifo(&path)?.then(|| hold::both(&path)).transpose()?;
            Ok((open(&path, OpenOptions::new().read(true))?, hold))
        };
        let (fd, hold) = opened().map_err(refused("stdin", uri))?;
        self.stdin = hold;
        Ok(Some(fd))
    }

    fn output(
        &mut self,
        stream: &'static str,
        target: Target,
        uri: &str,
    ) -> Result<Option<OwnedFd>, Error> {
        let path = match target {
            // Loggers are started, by whoever has both streams.
            Target::Nothing | Target::Program(_) => return Ok(None),
            Target::Path(path) => path,
            Target::File(path) => {
                create(&path).map_err(refused(stream, uri))?;
                path
            }
        };
        let opened = || -> io::Result<(OwnedFd, Option<Hold>)> {
            let held = self.outputs.iter().any(|hold| hold.is_of(&path));
            let wanted = is_fifo(&path)? && !held;
            let hold = wanted.then(|| Hold::take(&path)).transpose()?;
            Ok((open(&path, OpenOptions::new().append(true))?, hold))
        };
        let (fd, hold) = opened().map_err(refused(stream, uri))?;
        self.outputs.extend(hold);
        Ok(Some(fd))
    }

    /// Puts a terminal between the guest and what was opened.
    fn attach(
        &mut self,
        size: ConsoleSize,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> Result<GuestStdio, Error> {
        let made = || -> io::Result<(Terminal, [OwnedFd; 3])> {
            let (terminal, slave) = Terminal::open(size, input, output)?;
            let slaves = [slave.try_clone()?, slave.try_clone()?, slave];
            Ok((terminal, slaves))
        };
        let (terminal, [stdin, stdout, stderr]) = made().map_err(Error::host("make a terminal"))?;
        self.terminal = Some(terminal);
        GuestStdio::new(Some(stdin), Some(stdout), Some(stderr))
    }
}

fn refused(stream: &'static str, path: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Stdio {
        stream,
        path: path.to_owned(),
        source,
    }
}

fn is_fifo(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.file_type().is_fifo())
}

/// One end of `path`.
fn open(path: &Path, end: &OpenOptions) -> io::Result<OwnedFd> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    Ok(end.clone().custom_flags(flags).open(path)?.into())
}

/// As runc's shim has it for `file://`: with its folders, readable for all.
fn create(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut create = OpenOptions::new();
    create.append(true).create(true).mode(0o644);
    create.open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use futures_util::FutureExt as _;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tokio::task::spawn_blocking;

    use super::*;

    #[tokio::test]
    async fn one_fifo_for_both_streams_is_kept_for_a_late_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let uri = path.display().to_string();
        let paths = StdioPaths {
            stdin: String::new(),
            stdout: uri.clone(),
            stderr: uri,
        };
        let owner = Owner {
            namespace: "test",
            id: "both",
        };
        let (mut holds, guest) = paths.open(owner, None).await.unwrap();
        let mut writer = hold::both(&path).unwrap();
        writer.write_all(b"the last words").unwrap();
        drop((writer, guest));
        let mut finish = Box::pin(holds.finish());
        let early = (&mut finish).now_or_never();
        assert!(early.is_none(), "it let go of what nobody has read");
        let reader = spawn_blocking(move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        finish.await;
        assert_eq!(reader.await.unwrap(), "the last words");
    }
}
