//! A container's standard streams: containerd's fifos, opened twice.
//!
//! The guest has its own open file description of each fifo, non-blocking. The shim holds another one,
//! open for both directions, which decides when the other side sees an end:
//!
//! - stdout and stderr: while the shim holds a reading end, the guest meets no broken pipe when
//!   containerd restarts, and output waits in the fifo. Let go at the guest's exit, not at Delete:
//!   clients read to the end of the stream *before* they send Delete.
//! - stdin: while the shim holds a writing end, the guest does not take a client that has not opened
//!   the fifo yet for the end of its input. `CloseIO` lets go.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use wasi_runtime::{Input, Output};

use crate::Error;

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
    _outputs: Vec<File>,
}

impl StdioPaths {
    /// Opens all streams, without waiting for the other side.
    ///
    /// # Errors
    ///
    /// [`Error::Stdio`] names the stream; [`Error::Unimplemented`] a scheme other than `fifo` or
    /// `file`.
    pub fn open(&self) -> Result<(Holds, GuestStdio), Error> {
        let mut holds = Holds::default();
        let stdin = match open("stdin", &self.stdin, OpenOptions::new().read(true))? {
            None => Input::default(),
            Some((guest, hold)) => {
                holds.stdin = hold;
                Input::from_fd(guest).map_err(Error::Engine)?
            }
        };
        let mut output = |stream, path: &str| {
            Ok::<_, Error>(match open(stream, path, OpenOptions::new().append(true))? {
                None => Output::default(),
                Some((guest, hold)) => {
                    holds._outputs.extend(hold);
                    Output::from_fd(guest).map_err(Error::Engine)?
                }
            })
        };
        let stdout = output("stdout", &self.stdout)?;
        let stderr = output("stderr", &self.stderr)?;
        let guest = GuestStdio {
            stdin,
            stdout,
            stderr,
        };
        Ok((holds, guest))
    }
}

impl Holds {
    /// The guest's input ends when its other writers are gone, too.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

/// The guest's end of `path`, and if it is a fifo, the shim's.
fn open(
    stream: &'static str,
    path: &str,
    guest: &OpenOptions,
) -> Result<Option<(OwnedFd, Option<File>)>, Error> {
    if path.is_empty() {
        return Ok(None);
    }
    let (file, create) = match path.split_once("://") {
        None | Some(("fifo", _)) => (path.trim_start_matches("fifo://"), false),
        Some(("file", file)) => (file, true),
        Some((scheme, _)) => {
            return Err(Error::Unimplemented(format!(
                "{stream} to {scheme}:// URIs"
            )));
        }
    };
    let open = || -> io::Result<(OwnedFd, Option<File>)> {
        if create {
            create_file(Path::new(file))?;
        }
        let mut both = OpenOptions::new();
        both.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let hold = if std::fs::metadata(file)?.file_type().is_fifo() {
            // First, so that opening one direction finds the other open.
            Some(both.open(file)?)
        } else {
            None
        };
        let guest = guest.clone().custom_flags(libc::O_NONBLOCK).open(file)?;
        Ok((guest.into(), hold))
    };
    open().map(Some).map_err(|source| Error::Stdio {
        stream,
        path: path.to_owned(),
        source,
    })
}

/// As runc's shim has it for `file://`: with its folders, readable for all.
fn create_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut create = OpenOptions::new();
    create.append(true).create(true).mode(0o644);
    create.open(path).map(drop)
}
