//! Programs of this shim: one engine and one cache for all its containers, made when the first needs
//! them.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use wasi_bundles::Entrypoint;
use wasi_runtime::{Artifact, Cache, Compiler, Engine, Origin};

use crate::Error;

/// The file name of the compile child, which lies beside the shim.
const COMPILER: &str = "containerd-shim-wasi-compile";

/// Where programs are loaded.
#[derive(Debug)]
pub struct Programs {
    cache: PathBuf,
    compiler: PathBuf,
    loaded: OnceLock<(Engine, Cache)>,
}

impl Programs {
    /// Programs compiled by the compiler beside `program` into the folder `cache`. Touches nothing.
    #[must_use]
    pub fn new(program: &Path, cache: PathBuf) -> Self {
        Self {
            cache,
            compiler: program.with_file_name(COMPILER),
            loaded: OnceLock::new(),
        }
    }

    /// The code of a container's entrypoint. Blocks while it is compiled.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] when the program is at fault, [`Error::Engine`] or [`Error::Host`] when the
    /// host is.
    pub fn load(&self, entrypoint: &Entrypoint) -> Result<Artifact, Error> {
        let (engine, cache) = self.engine_and_cache()?;
        let loaded = cache
            .load(engine, &entrypoint.file)
            .map_err(|source| Error::Program {
                path: entrypoint.path.clone(),
                source,
            })?;
        match loaded.origin {
            Origin::Mapped => {}
            Origin::Compiled {
                took,
                replaced: None,
            } => {
                log::info!("compiled {} in {took:.1?}", entrypoint.path);
            }
            Origin::Compiled {
                took,
                replaced: Some(damage),
            } => log::warn!(
                "compiled {} again in {took:.1?}: its cache entry was damaged: {damage}",
                entrypoint.path
            ),
        }
        Ok(loaded.artifact)
    }

    /// Two containers that get here at once may both make them; one pair is kept.
    fn engine_and_cache(&self) -> Result<&(Engine, Cache), Error> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.cache)
            .and_then(|()| File::open(&self.cache))
            .map_err(Error::host(format!(
                "open the cache {}",
                self.cache.display()
            )))
            .and_then(|folder| {
                let engine = Engine::new().map_err(Error::Engine)?;
                let compiler = Compiler::new(self.compiler.clone());
                let cache = Cache::new(folder.into(), compiler).map_err(Error::Engine)?;
                Ok(self.loaded.get_or_init(|| (engine, cache)))
            })
    }
}
