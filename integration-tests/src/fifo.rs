//! A fifo that a client of containerd has made for a stream.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
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
}
