//! The artifact cache: each content is compiled once on a node, and mapped ever after.
//!
//! An entry's name is the SHA-256 of the wasm and the [fingerprint](wasi_settings::fingerprint) of the
//! settings. Entries are written once: compiled into `NAME.tmp`, sealed, made read-only, renamed to
//! `NAME.cwasm`. Who wants to write an entry holds an exclusive `flock` on `NAME.lock`; the others
//! wait for it and then find the entry, so that a hundred pods of one image compile it once. A
//! process that dies leaves its lock to the kernel and its `NAME.tmp` to the next writer.
//!
//! All entries together are bounded: after each compilation those go that were not used for the
//! longest time. A guest that runs one keeps it mapped, unlinked or not.
//!
//! A process maps an entry once, however many guests run it, as long as one of them lives ([`Shared`]).
//!
//! The folder belongs to the user of the process and is closed to all others: who can write there can
//! run native code in every pod.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use wasi_settings::{Interruption, MAX_WASM};

use crate::artifact::Code;
use crate::entry::{self, Digest};
use crate::fence::Fence;
use crate::folder::{self, Folder};
use crate::interrupt::Means;
use crate::landing::Landing;
use crate::mapped::Mapped;
use crate::shared::{EntryFile, Shared};
use crate::{Artifact, Compiler, Composition, Engine, Error, Pool, Progress};

/// Compiled programs of this node.
#[derive(Debug)]
pub struct Cache {
    folder: Folder,
    compiler: Compiler,
    limit: u64,
    shared: Shared,
}

/// An artifact, and where it came from.
#[derive(Debug)]
pub struct Loaded {
    /// The code.
    pub artifact: Artifact,
    /// Whether it had to be compiled.
    pub origin: Origin,
}

/// Where an artifact came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It was in the cache: nothing was compiled.
    Mapped,
    /// It was compiled now.
    Compiled {
        /// How long that took.
        took: Duration,
        /// What was wrong with the entry that was there, if one was.
        replaced: Option<String>,
    },
}

/// What looking for an entry found.
enum Lookup {
    Found(Code, File),
    Missing,
    Damaged(String),
}

impl Cache {
    /// How many bytes all entries may have together: the machine code of some two hundred Pythons, or of
    /// thousands of ordinary programs.
    pub const LIMIT: u64 = 4 << 30;

    /// The largest program that is compiled, in bytes.
    pub const LARGEST: u64 = MAX_WASM;

    /// The cache in `directory`, an open folder; `compiler` is run for what is not in it.
    ///
    /// # Errors
    ///
    /// [`Error::CacheOpen`] when others than this process's user could write there.
    pub fn new(directory: OwnedFd, compiler: Compiler) -> Result<Self, Error> {
        Ok(Self {
            folder: Folder::new(directory)?,
            compiler,
            limit: Self::LIMIT,
            shared: Shared::default(),
        })
    }

    /// Bounds all entries together to another number of bytes than [`Cache::LIMIT`]. An entry that
    /// was just made stays, however large it is.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }

    /// The code of `wasm`, an open regular file with a module or component in it. Blocks while it is
    /// compiled, here or by another process.
    ///
    /// # Errors
    ///
    /// [`Error::Compile`] when the compiler refuses it; [`Error::Compiler`] and [`Error::Cache`] when
    /// the host fails.
    pub fn load(&self, engine: &Engine, wasm: &File) -> Result<Loaded, Error> {
        self.load_watched(engine, wasm, &mut |_| {})
    }

    /// Like [`Cache::load`]; `watch` is told, on this thread, what takes so long.
    ///
    /// # Errors
    ///
    /// As [`Cache::load`].
    pub fn load_watched(
        &self,
        engine: &Engine,
        wasm: &File,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Loaded, Error> {
        self.load_content(engine, Content::of(wasm)?, watch)
    }

    /// Like [`Cache::load_watched`], of the component that the parts of `composition` are together, whose
    /// bytes are in `wasm`, one part after the other. It is known by [`Composition::key`].
    ///
    /// # Errors
    ///
    /// As [`Cache::load`]; [`Error::Compile`] also when they cannot be composed.
    pub fn load_composed(
        &self,
        engine: &Engine,
        composition: &Composition,
        wasm: &File,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Loaded, Error> {
        self.load_content(engine, Content::composed(wasm, composition)?, watch)
    }

    fn load_content(
        &self,
        engine: &Engine,
        content: Content<'_>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Loaded, Error> {
        if engine.settings().interruption == Interruption::Fence {
            // First, so that the program is what was used last.
            self.landing(engine, watch)?;
        }
        let (code, file, origin) = self.load_code(engine, &content, watch)?;
        let means = self.means(engine, code, file, watch)?;
        Ok(Loaded {
            artifact: Artifact::new(engine, means, content.digest.into()),
            origin,
        })
    }

    /// What stops the guests of some code, with that code.
    fn means(
        &self,
        engine: &Engine,
        code: Code,
        file: File,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Means, Error> {
        let entry = EntryFile::of(&file).map_err(Error::cache("read an entry"))?;
        let mapped = Mapped::new(code, file);
        let means = match engine.settings().interruption {
            Interruption::Fence => {
                let landing = self.landing(engine, watch)?;
                Means::Fence(Arc::new(Fence::new(mapped, landing)?))
            }
            Interruption::Epoch => Means::Epoch(engine.shared(), Arc::new(mapped)),
        };
        Ok(self.shared.means(engine, entry, means))
    }

    /// The code of the wasm that has this SHA-256, if it was compiled before; the wasm itself is not needed.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`] when the host fails.
    pub fn find(&self, engine: &Engine, sha256: &[u8; 32]) -> Result<Option<Artifact>, Error> {
        let name = name(engine, &Digest::from(*sha256));
        match self.lookup(engine, &name)? {
            Lookup::Found(code, file) => {
                let means = self.means(engine, code, file, &mut |_| {})?;
                Ok(Some(Artifact::new(engine, means, *sha256)))
            }
            // What is damaged, whoever has the wasm finds out again, and replaces.
            Lookup::Missing | Lookup::Damaged(_) => Ok(None),
        }
    }

    /// `service`, which was loaded before, in `pool`, for `requests` at once. `None` if there is not so much room, or it is
    /// no component of WASI 0.2, whose instances answer one request each.
    ///
    /// # Errors
    ///
    /// [`Error::Cache`] when the host fails.
    pub fn pooled(
        &self,
        pool: &Pool,
        service: &Artifact,
        requests: usize,
    ) -> Result<Option<Artifact>, Error> {
        service.pooled(pool, requests, |engine, sha256| self.find(engine, sha256))
    }

    /// What every program of `engine` needs to be killed; loaded once.
    fn landing(&self, engine: &Engine, watch: &mut dyn FnMut(Progress)) -> Result<Landing, Error> {
        if let Some(landing) = engine.landing.get() {
            return Ok(landing.clone());
        }
        let wasm = Landing::wasm().map_err(Error::cache("make the landing"))?;
        let landing = match self.load_code(engine, &Content::of(&wasm)?, watch)?.0 {
            Code::Module(module) => Landing::new(module)?,
            Code::Component(_) => unreachable!("the landing is a module"),
        };
        // Two that get here at once both have one; either will do.
        Ok(engine.landing.get_or_init(|| landing).clone())
    }

    fn load_code(
        &self,
        engine: &Engine,
        content: &Content<'_>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(Code, File, Origin), Error> {
        let name = name(engine, &content.digest);
        if let Lookup::Found(code, file) = self.lookup(engine, &name)? {
            return Ok((code, file, Origin::Mapped));
        }
        let lock = self.folder.lock(&name, || watch(Progress::Waiting))?;
        // Another process may have published while this one waited for the lock.
        let replaced = match self.lookup(engine, &name)? {
            Lookup::Found(code, file) => {
                self.folder.unlock(lock)?;
                return Ok((code, file, Origin::Mapped));
            }
            Lookup::Missing => None,
            Lookup::Damaged(reason) => Some(reason),
        };
        let begun = Instant::now();
        let compiled = self.compile(engine, &name, content, watch);
        self.folder.unlock(lock)?;
        let (code, file) = compiled?;
        let took = begun.elapsed();
        self.folder.evict(self.limit, &format!("{name}.cwasm"))?;
        Ok((code, file, Origin::Compiled { took, replaced }))
    }

    fn lookup(&self, engine: &Engine, name: &str) -> Result<Lookup, Error> {
        let file = match self.folder.open(&format!("{name}.cwasm"), OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Missing),
            Err(error) => return Err(Error::cache(format!("open {name}.cwasm"))(error)),
        };
        let read = || Error::cache(format!("read {name}.cwasm"));
        let entry = EntryFile::of(&file).map_err(read())?;
        // What runs already was whole when it was mapped.
        let code = match self.shared.code(engine, entry) {
            Some(code) => code,
            None => match entry::check(&file).map_err(read())? {
                Ok(()) => match Code::map(engine, &file) {
                    Ok(code) => code,
                    Err(reason) => return Ok(Lookup::Damaged(reason)),
                },
                Err(damage) => return Ok(Lookup::Damaged(damage.to_owned())),
            },
        };
        // A folder that cannot be written to still serves what is in it.
        drop(folder::touch(&file));
        Ok(Lookup::Found(code, file))
    }

    /// Compiles and publishes; the caller holds the lock of `name`.
    ///
    /// What is mapped is the file that was written, not the one that has the entry's name: others may
    /// evict the entry as soon as it has it.
    fn compile(
        &self,
        engine: &Engine,
        name: &str,
        content: &Content<'_>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(Code, File), Error> {
        let temporary = format!("{name}.tmp");
        let published = format!("{name}.cwasm");
        self.folder.remove(&temporary)?;
        let mut file = self
            .folder
            .open(&temporary, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(Error::cache(format!("create {temporary}")))?;
        let mut make = || {
            let Content {
                wasm, arguments, ..
            } = content;
            self.compiler
                .compile(wasm, arguments, engine.settings(), &file, watch)?;
            entry::seal(&mut file)
                .and_then(|()| Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(0o400))?))
                .map_err(Error::cache(format!("seal {temporary}")))?;
            let code = Code::map(engine, &file).map_err(|reason| Error::Engine {
                reason: format!("what the compiler made cannot be loaded: {reason}"),
            })?;
            // Not the descriptor that it was written with: this one is kept.
            let kept = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .map_err(Error::cache(format!("open {temporary}")))?;
            self.folder
                .rename(&temporary, &published)
                .map_err(Error::cache(format!("publish {published}")))?;
            Ok((code, kept))
        };
        let made = make();
        if made.is_err() {
            self.folder.remove(&temporary)?;
        }
        made
    }
}

/// What is to be compiled.
struct Content<'a> {
    wasm: &'a File,
    /// What it is known by.
    digest: Digest,
    /// What the compiler is told of it.
    arguments: Vec<String>,
}

impl<'a> Content<'a> {
    /// One module or component.
    fn of(wasm: &'a File) -> Result<Self, Error> {
        let size = size(wasm)?;
        let digest = Digest::of(wasm, size).map_err(Error::cache("read the module"))?;
        Ok(Self {
            wasm,
            arguments: vec![digest.to_string()],
            digest,
        })
    }

    /// Several components.
    fn composed(wasm: &'a File, composition: &Composition) -> Result<Self, Error> {
        size(wasm)?;
        Ok(Self {
            wasm,
            arguments: composition.arguments(),
            digest: composition.key().into(),
        })
    }
}

/// The length of `wasm`, which the compiler will take.
fn size(wasm: &File) -> Result<u64, Error> {
    let metadata = wasm.metadata().map_err(Error::cache("read the module"))?;
    match metadata.len() {
        size if size > MAX_WASM => Err(Error::Compile {
            reason: format!("the module is larger than {} MiB", MAX_WASM >> 20),
        }),
        size => Ok(size),
    }
}

/// What the entry of the wasm with this digest is called.
fn name(engine: &Engine, digest: &Digest) -> String {
    let fingerprint = wasi_settings::fingerprint(engine.settings());
    format!("{digest}-{fingerprint}")
}
