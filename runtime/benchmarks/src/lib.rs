//! What the benchmarks share: an engine, and a cache in a temporary folder.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use wasi_runtime::{Artifact, Cache, Compiler, Engine, Error};

/// An engine and its cache.
#[derive(Debug)]
pub struct Host {
    /// The engine.
    pub engine: Engine,
    /// The cache.
    pub cache: Cache,
    folder: TempDir,
}

impl Host {
    /// A cache of its own for `engine`.
    ///
    /// # Errors
    ///
    /// When no folder can be made.
    pub fn new(engine: Engine) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let compiler = Compiler::new(target().join("release/containerd-shim-wasi-compile"));
        let directory = File::open(folder.path())?;
        Ok(Self {
            engine,
            cache: Cache::new(directory.into(), compiler)?,
            folder,
        })
    }

    /// The artifact of a program, which is compiled if it has to be.
    ///
    /// # Errors
    ///
    /// As [`Cache::load`].
    pub fn load(&self, wasm: &File) -> Result<Artifact, Error> {
        Ok(self.cache.load(&self.engine, wasm)?.artifact)
    }

    /// Where the cache is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A program as a file.
///
/// # Errors
///
/// When there is no memory.
pub fn file(wasm: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("program", MemfdFlags::CLOEXEC)?);
    file.write_all(wasm)?;
    Ok(file)
}

/// The workspace's build folder, where `make build`, `make guests` and `make setup` put what is needed here.
#[must_use]
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}
