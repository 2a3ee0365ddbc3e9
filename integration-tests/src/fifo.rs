//! A fifo that a client of containerd has made for a stream.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A fifo. Nobody has it open yet.
#[derive(Debug, Clone)]
pub struct Fifo {
    path: PathBuf,
}

impl Fifo {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o700), 0)
            .with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its path, as a request has it.
    #[must_use]
    pub fn uri(&self) -> String {
        self.path.display().to_string()
    }

    /// The reading end; waits until there is a writer.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn reader(&self) -> Result<File> {
        File::open(&self.path).with_context(|| self.uri())
    }

    /// The writing end; waits until there is a reader.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn writer(&self) -> Result<File> {
        let writer = OpenOptions::new().write(true).open(&self.path);
        writer.with_context(|| self.uri())
    }

    /// Fills one that has a reader, so that nothing more can be written to it.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn fill(path: &Path) -> Result<()> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut fifo = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)?;
        for size in [4096, 1] {
            loop {
                match fifo.write(&vec![b'.'; size]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Reads until the text has come.
///
/// # Errors
///
/// When the end comes first.
pub fn shows(stdout: &mut File, text: &str) -> Result<()> {
    let mut shown = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&shown).ends_with(text) {
        ensure!(stdout.read(&mut byte)? == 1, "{shown:?}, then the end");
        shown.push(byte[0]);
    }
    Ok(())
}
