//! Programs of this shim: one engine and one cache for all its containers, made when the first needs
//! them.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use wasi_bundles::Kind;
use wasi_runtime::{Artifact, Cache, Compiler, Engine, Loaded, Origin, Pool, Progress};

use crate::content::Layer;
use crate::{Error, StartError, cgroup};

/// The file name of the compile child, which lies beside the shim.
const COMPILER: &str = "containerd-shim-wasi-compile";

/// Names the folder of the cache.
const CACHE: &str = "CONTAINERD_SHIM_WASI_CACHE";
/// Bounds the cache, in bytes.
const CACHE_LIMIT: &str = "CONTAINERD_SHIM_WASI_CACHE_LIMIT";

/// Where compiled programs are kept, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// Their folder, which is made if it is missing.
    pub folder: PathBuf,
    /// How many bytes they may have together.
    pub limit: u64,
}

impl CacheOptions {
    /// What containerd's environment says, or the defaults.
    ///
    /// # Errors
    ///
    /// [`StartError::CacheLimit`] when the limit is no number.
    pub fn from_environment() -> Result<Self, StartError> {
        let limit = std::env::var_os(CACHE_LIMIT);
        Ok(Self {
            folder: std::env::var_os(CACHE)
                .map_or_else(|| "/var/cache/containerd-shim-wasi".into(), PathBuf::from),
            limit: limit.as_deref().map_or(Ok(Cache::LIMIT), bytes)?,
        })
    }
}

fn bytes(value: &OsStr) -> Result<u64, StartError> {
    let number = value.to_str().and_then(|value| value.parse().ok());
    number.ok_or_else(|| StartError::CacheLimit {
        name: CACHE_LIMIT,
        value: value.to_string_lossy().into_owned(),
    })
}

/// Where programs are loaded.
#[derive(Debug)]
pub struct Programs {
    cache: CacheOptions,
    compiler: Compiler,
    loaded: OnceLock<(Engine, Cache)>,
    /// For components of WASI 0.3; made when a container asks for it.
    asynchronous: OnceLock<Engine>,
    /// For services; made with the first. A host may not have the addresses for it.
    pool: OnceLock<Option<Pool>>,
}

impl Programs {
    /// Programs compiled by the compiler beside `program` into `cache`. Touches nothing.
    #[must_use]
    pub fn new(program: &Path, cache: CacheOptions) -> Self {
        Self {
            cache,
            compiler: Compiler::new(program.with_file_name(COMPILER)),
            loaded: OnceLock::new(),
            asynchronous: OnceLock::new(),
            pool: OnceLock::new(),
        }
    }

    /// Has the compiler run at `origin`. What it makes is for all containers of the host, so its memory and its
    /// time are charged to none: they may be more than a pod has.
    #[must_use]
    pub fn compiled_at(mut self, origin: cgroup::Origin) -> Self {
        let prepare = move |command: &mut Command| origin.apply_to(command);
        self.compiler = self.compiler.prepared_by(prepare);
        self
    }

    /// The code of `file`, a container's entrypoint at `path`, which may be of WASI 0.3 if `wasi_0_3` says
    /// so. Blocks while it is compiled.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] when the program is at fault, [`Error::Engine`] or [`Error::Host`] when the
    /// host is.
    pub fn load(
        &self,
        path: &str,
        file: &File,
        kind: Kind,
        wasi_0_3: bool,
    ) -> Result<Artifact, Error> {
        let (_, cache) = self.engine_and_cache()?;
        let engine = self.engine_for(kind, wasi_0_3)?;
        loaded(path, |watch| cache.load_watched(engine, file, watch))
    }

    /// The code of a wasm layer that is called `path`. Its content is read only if the cache has no code
    /// for its digest. Blocks while it is read and compiled.
    ///
    /// # Errors
    ///
    /// [`Error::LayerContent`] when it cannot be read, and those of [`Programs::load`].
    pub fn load_layer(&self, path: &str, layer: &Layer, wasi_0_3: bool) -> Result<Artifact, Error> {
        let (_, cache) = self.engine_and_cache()?;
        // What it is only its content says. A module of a container with WASI 0.3 is read each time.
        let engine = self.engine_for(Kind::Component, wasi_0_3)?;
        let composition = layer.composition();
        let key = match &composition {
            Some(composition) => composition.key(),
            None => *layer.blobs[0].sha256(),
        };
        let known = cache.find(engine, &key);
        if let Some(artifact) = known.map_err(Error::Engine)? {
            return Ok(artifact);
        }
        let file = layer
            .file(Cache::LARGEST)
            .map_err(|source| Error::LayerContent {
                image: layer.image.clone(),
                source: Box::new(source),
            })?;
        match composition {
            Some(composition) => loaded(path, |watch| {
                cache.load_composed(engine, &composition, &file, watch)
            }),
            None => self.load(path, &file, kind(&file), wasi_0_3),
        }
    }

    /// `service`, with room for the instances of `requests` at once made in advance, as long as there is room. It
    /// answers the same without.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] or [`Error::Host`], when the cache cannot be read.
    pub fn pooled(&self, service: Artifact, requests: usize) -> Result<Artifact, Error> {
        let (_, cache) = self.engine_and_cache()?;
        let pool = self.pool.get_or_init(|| {
            let made = Pool::new();
            made.inspect_err(|error| log::warn!("services have no pool of instances: {error}"))
                .ok()
        });
        let Some(pool) = pool else {
            return Ok(service);
        };
        let pooled = cache.pooled(pool, &service, requests);
        Ok(pooled.map_err(Error::Engine)?.unwrap_or(service))
    }

    /// The engine of a program, which may be of WASI 0.3 if `wasi_0_3` says so. Two containers that get
    /// here at once may both make one; one is kept.
    pub(crate) fn engine_for(&self, kind: Kind, wasi_0_3: bool) -> Result<&Engine, Error> {
        // A module is the same either way, and its code is shared.
        if kind == Kind::Module || !wasi_0_3 {
            return self.engine_and_cache().map(|(engine, _)| engine);
        }
        if let Some(engine) = self.asynchronous.get() {
            return Ok(engine);
        }
        let engine = Engine::with_wasi_0_3().map_err(Error::Engine)?;
        Ok(self.asynchronous.get_or_init(|| engine))
    }

    /// Two containers that get here at once may both make them; one pair is kept.
    pub(crate) fn engine_and_cache(&self) -> Result<&(Engine, Cache), Error> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.cache.folder)
            .and_then(|()| File::open(&self.cache.folder))
            .map_err(Error::host(format!(
                "open the cache {}",
                self.cache.folder.display()
            )))
            .and_then(|folder| {
                let engine = Engine::new().map_err(Error::Engine)?;
                let compiler = self.compiler.clone();
                let cache = Cache::new(folder.into(), compiler).map_err(Error::Engine)?;
                Ok(self
                    .loaded
                    .get_or_init(|| (engine, cache.limit(self.cache.limit))))
            })
    }
}

/// The code of `path` that `load` loads; the log says how.
fn loaded(
    path: &str,
    load: impl FnOnce(&mut dyn FnMut(Progress)) -> Result<Loaded, wasi_runtime::Error>,
) -> Result<Artifact, Error> {
    let loaded = load(&mut |progress| tell(path, progress)).map_err(|source| Error::Program {
        path: path.to_owned(),
        source,
    })?;
    match loaded.origin {
        Origin::Mapped => {}
        Origin::Compiled {
            took,
            replaced: None,
        } => {
            log::info!("compiled {path} in {took:.1?}");
        }
        Origin::Compiled {
            took,
            replaced: Some(damage),
        } => {
            log::warn!(
                "compiled {path} again in {took:.1?}: its cache entry was damaged: {damage}"
            );
        }
    }
    Ok(loaded.artifact)
}

/// Says what the Create of a container waits for.
fn tell(path: &str, progress: Progress) {
    match progress {
        Progress::Waiting => log::info!("another process compiles {path}; waiting for it"),
        Progress::Compiling { elapsed, size } => log::info!(
            "still compiling {path}, {size} bytes of wasm, since {}s",
            elapsed.as_secs()
        ),
    }
}

/// What a file is. One that is nothing is a module that does not compile.
pub(crate) fn kind(file: &File) -> Kind {
    let mut preamble = [0; 8];
    let read = file.read_exact_at(&mut preamble, 0);
    let kind = read.ok().and_then(|()| Kind::of(&preamble).ok());
    kind.unwrap_or(Kind::Module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_of_bytes() {
        assert_eq!(bytes(OsStr::new("1073741824")).unwrap(), 1 << 30);
        for value in ["4G", "", "-1", "1.5"] {
            let error = bytes(OsStr::new(value)).unwrap_err();
            let expected = format!(
                "CONTAINERD_SHIM_WASI_CACHE_LIMIT is {value:?}, which is no number of bytes"
            );
            assert_eq!(error.text(), expected);
        }
    }
}
