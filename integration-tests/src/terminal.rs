//! A command in a terminal of its own, as a person has one: what is typed, what is shown.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::pty::{Winsize, openpty};
use rustix::termios::tcgetwinsize;

use crate::invocation::{Invocation, code};
use crate::poll;

/// Longer than anything here takes on two busy cores.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command that runs in a terminal.
#[derive(Debug)]
pub struct Session {
    child: Child,
    master: File,
    shown: Vec<u8>,
}

impl Session {
    /// Starts it, in a terminal of 24 rows and 80 columns.
    ///
    /// # Errors
    ///
    /// When there is no terminal to be had, or the command cannot be started.
    pub fn start(invocation: Invocation) -> Result<Self> {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).context("open a terminal")?;
        // Not passed on to the command, which has the slave alone.
        rustix::io::fcntl_setfd(&pty.master, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&pty.master, true)?;
        let line = invocation.to_string();
        let child = invocation
            .into_command()
            .stdin(Stdio::from(pty.slave.try_clone()?))
            .stdout(Stdio::from(pty.slave.try_clone()?))
            .stderr(Stdio::from(pty.slave))
            .spawn()
            .with_context(|| format!("start `{line}`"))?;
        Ok(Self {
            child,
            master: pty.master.into(),
            shown: Vec::new(),
        })
    }

    /// Types.
    ///
    /// # Errors
    ///
    /// When the terminal takes nothing.
    pub fn types(&mut self, keys: &[u8]) -> Result<()> {
        self.master.write_all(keys).context("type")
    }

    /// Waits until the text is shown, anywhere.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn shows(&mut self, text: &str) -> Result<()> {
        poll::until(&format!("{text:?} is shown"), PATIENCE, || {
            let shown = self.shown();
            if shown.contains(text) {
                Ok(())
            } else {
                Err(format!("{shown:?}"))
            }
        })
    }

    /// All that was shown until now.
    pub fn shown(&mut self) -> String {
        let mut piece = [0; 4096];
        // Nothing more for now, or for ever.
        while let Ok(count @ 1..) = self.master.read(&mut piece) {
            self.shown.extend_from_slice(&piece[..count]);
        }
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Waits for its end, and demands this status of it.
    ///
    /// # Errors
    ///
    /// When it does not end, or otherwise.
    pub fn ends_with(mut self, status: i32) -> Result<String> {
        // Reading all the while: it may have more to show than the terminal holds.
        let ended = poll::until("it ends", PATIENCE, || {
            let shown = self.shown();
            match self.child.try_wait() {
                Ok(Some(status)) => Ok(code(status)),
                running => Err(format!("{running:?}, {shown:?}")),
            }
        })?;
        let shown = self.shown();
        ensure!(ended == status, "status {ended}, not {status}: {shown:?}");
        Ok(shown)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // One that has ended needs neither.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

/// The rows and columns of a shim's only terminal, as the kernel has it.
///
/// # Errors
///
/// When it has none.
pub fn size(shim: i32) -> Result<(u16, u16)> {
    for entry in fs::read_dir(format!("/proc/{shim}/fd"))? {
        // Any may be gone by now.
        let Ok(file) = fs::read_link(entry?.path()) else {
            continue;
        };
        if file.starts_with("/dev/pts") {
            let size = tcgetwinsize(File::open(file)?)?;
            return Ok((size.ws_row, size.ws_col));
        }
    }
    bail!("the shim has no terminal")
}
