//! The compile child: a program of its own, so that the engine's process has no compiler in it.

use std::fs::File;
use std::io::{self, Seek};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Error;
use crate::entry::Digest;

/// How much of the child's complaint is passed on, in bytes.
const MAX_REASON: usize = 4096;

/// The program `containerd-shim-wasi-compile`.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
}

impl Compiler {
    /// The compiler at `program`, an absolute path. It is run, not opened, and only on a cache miss.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Compiles `wasm` into `artifact`, on this thread; when the thread ends the child does, too.
    pub(crate) fn compile(
        &self,
        wasm: &File,
        digest: &Digest,
        artifact: &File,
    ) -> Result<(), Error> {
        let output = self
            .run(wasm, digest, artifact)
            .map_err(|source| Error::Compiler {
                program: self.program.display().to_string(),
                source,
            })?;
        if output.status.success() {
            return Ok(());
        }
        let words = &output.stderr[..output.stderr.len().min(MAX_REASON)];
        let words = String::from_utf8_lossy(words).trim().to_owned();
        let reason = if words.is_empty() {
            format!(
                "the compiler ended with {} (a module that takes too much memory or time)",
                output.status
            )
        } else {
            words
        };
        Err(Error::Compile { reason })
    }

    fn run(
        &self,
        wasm: &File,
        digest: &Digest,
        artifact: &File,
    ) -> io::Result<std::process::Output> {
        let mut wasm = wasm.try_clone()?;
        wasm.rewind()?;
        Command::new(&self.program)
            .arg(digest.to_string())
            .env_clear()
            .stdin(wasm)
            .stdout(artifact.try_clone()?)
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()
    }
}
