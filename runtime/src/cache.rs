//! The artifact cache: each content is compiled once on a node, and mapped ever after.
//!
//! An entry's name is the SHA-256 of the wasm and the [fingerprint](wasi_settings::fingerprint) of the
//! settings. Entries are written once: compiled into `NAME.tmp`, sealed, made read-only, renamed to
//! `NAME.cwasm`. Who wants to write an entry holds an exclusive `flock` on `NAME.lock`; the others
//! wait for it and then find the entry, so that a hundred pods of one image compile it once. A
//! process that dies leaves its lock to the kernel and its `NAME.tmp` to the next writer.
//!
//! The folder belongs to the user of the process and is closed to all others: who can write there can
//! run native code in every pod.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::{self, Digest};
use crate::{Artifact, Compiler, Engine, Error};

/// Compiled programs of this node.
#[derive(Debug)]
pub struct Cache {
    directory: OwnedFd,
    compiler: Compiler,
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
    Found(Artifact),
    Missing,
    Damaged(String),
}

impl Cache {
    /// The cache in `directory`, an open folder; `compiler` is run for what is not in it.
    ///
    /// # Errors
    ///
    /// [`Error::CacheOpen`] when others than this process's user could write there.
    pub fn new(directory: OwnedFd, compiler: Compiler) -> Result<Self, Error> {
        let stat = rustix::fs::fstat(&directory)
            .map_err(|error| Error::cache("look at its folder")(error.into()))?;
        let wanted = rustix::process::geteuid().as_raw();
        let mode = stat.st_mode & 0o7777;
        if stat.st_uid != wanted || mode & 0o077 != 0 {
            return Err(Error::CacheOpen {
                uid: stat.st_uid,
                mode,
                wanted,
            });
        }
        Ok(Self {
            directory,
            compiler,
        })
    }

    /// The code of `wasm`, an open regular file with a module or component in it. Blocks while it is
    /// compiled, here or by another process.
    ///
    /// # Errors
    ///
    /// [`Error::Compile`] when the compiler refuses it; [`Error::Compiler`] and [`Error::Cache`] when
    /// the host fails.
    pub fn load(&self, engine: &Engine, wasm: &File) -> Result<Loaded, Error> {
        let digest = wasm
            .metadata()
            .and_then(|metadata| Digest::of(wasm, metadata.len()))
            .map_err(Error::cache("read the module"))?;
        let name = format!("{digest}-{}", wasi_settings::fingerprint());
        if let Lookup::Found(artifact) = self.lookup(engine, &name)? {
            return Ok(Loaded {
                artifact,
                origin: Origin::Mapped,
            });
        }
        let lock = self.lock(&name)?;
        // Another process may have published while this one waited for the lock.
        let replaced = match self.lookup(engine, &name)? {
            Lookup::Found(artifact) => {
                self.unlock(&name, lock)?;
                return Ok(Loaded {
                    artifact,
                    origin: Origin::Mapped,
                });
            }
            Lookup::Missing => None,
            Lookup::Damaged(reason) => Some(reason),
        };
        let begun = Instant::now();
        let compiled = self.compile(&name, wasm, &digest);
        self.unlock(&name, lock)?;
        compiled?;
        match self.lookup(engine, &name)? {
            Lookup::Found(artifact) => Ok(Loaded {
                artifact,
                origin: Origin::Compiled {
                    took: begun.elapsed(),
                    replaced,
                },
            }),
            Lookup::Missing => Err(Error::Engine {
                reason: format!("the entry {name} vanished while it was loaded"),
            }),
            Lookup::Damaged(reason) => Err(Error::Engine {
                reason: format!("what the compiler made cannot be loaded: {reason}"),
            }),
        }
    }

    fn lookup(&self, engine: &Engine, name: &str) -> Result<Lookup, Error> {
        let file = match self.open(&format!("{name}.cwasm"), OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Missing),
            Err(error) => return Err(Error::cache(format!("open {name}.cwasm"))(error)),
        };
        let whole = entry::check(&file).map_err(Error::cache(format!("read {name}.cwasm")))?;
        if let Err(damage) = whole {
            return Ok(Lookup::Damaged(damage.to_owned()));
        }
        Ok(match Artifact::map(engine, &file) {
            Ok(artifact) => Lookup::Found(artifact),
            Err(reason) => Lookup::Damaged(reason),
        })
    }

    /// Compiles and publishes; the caller holds the lock of `name`.
    fn compile(&self, name: &str, wasm: &File, digest: &Digest) -> Result<(), Error> {
        let temporary = format!("{name}.tmp");
        self.remove(&temporary)?;
        let mut file = self
            .open(&temporary, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(Error::cache(format!("create {temporary}")))?;
        let compiled = self.compiler.compile(wasm, digest, &file).and_then(|()| {
            entry::seal(&mut file)
                .and_then(|()| Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(0o400))?))
                .and_then(|()| {
                    let published = format!("{name}.cwasm");
                    Ok(rustix::fs::renameat(
                        &self.directory,
                        &temporary,
                        &self.directory,
                        published,
                    )?)
                })
                .map_err(Error::cache(format!("publish {name}.cwasm")))
        });
        if compiled.is_err() {
            self.remove(&temporary)?;
        }
        compiled
    }

    /// Waits until this process is the only one that writes the entry `name`.
    fn lock(&self, name: &str) -> Result<File, Error> {
        let path = format!("{name}.lock");
        let lock = || -> io::Result<Option<File>> {
            let file = self.open(&path, OFlags::RDWR | OFlags::CREATE)?;
            rustix::io::retry_on_intr(|| {
                rustix::fs::flock(file.as_fd(), FlockOperation::LockExclusive)
            })?;
            // The holder before unlinks the file: what was locked then is no lock any more.
            Ok((rustix::fs::fstat(&file)?.st_nlink > 0).then_some(file))
        };
        loop {
            if let Some(file) = lock().map_err(Error::cache(format!("lock {path}")))? {
                return Ok(file);
            }
        }
    }

    /// Ends the exclusion: the file goes first, so that who waits for it starts anew.
    fn unlock(&self, name: &str, lock: File) -> Result<(), Error> {
        let removed = self.remove(&format!("{name}.lock"));
        drop(lock);
        removed
    }

    fn open(&self, path: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.directory, path, flags, Mode::from_raw_mode(0o600))?.into())
    }

    fn remove(&self, path: &str) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.directory, path, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::cache(format!("remove {path}"))(error.into())),
        }
    }
}
