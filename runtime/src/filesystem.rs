//! Files as a container has them, over wasmtime-wasi's.
//!
//! wasmtime-wasi opens each path below a directory that the guest holds (`openat2`, `RESOLVE_BENEATH`),
//! which is what keeps a guest in. It also refuses what every container image is full of: symlinks
//! with an absolute target. So where it answers "not permitted", the path is walked here, link by link,
//! an absolute target starting again at the preopen it lies in ([`route`]). The result is a path
//! without symlinks, and wasmtime-wasi is asked again, with that.
//!
//! ```text
//! open /etc/ssl/cert.pem            upstream ── not permitted ──► route: /etc/ssl is a link to /usr/ssl
//!                                   upstream ◄── (preopen /, "usr/ssl/cert.pem")
//! ```
//!
//! Nothing here has to be trusted to keep a guest in: a route is a proposal, made by reading links, and
//! the directory it starts at is one the guest was given. Who changes a link between the walk and the
//! second call gets an error, or another file of the same container. A path without such a link is
//! never walked and costs nothing.
//!
//! Symlinks are made and read here altogether: wasmtime-wasi neither makes one with an absolute target
//! nor tells one.
//!
//! The last thing that is added are errors. wasmtime-wasi makes "I/O error" of the numbers it does not
//! know; a file system that is read-only and a rename across mounts are told as what they are
//! ([`cause`]).
//!
//! Files that have no positions, FIFOs above all, are read and written as streams ([`unseekable`]). And
//! a guest that has too many files open is told so when it opens the next, as a process is.
//!
//! There is one implementation for each world, since WASI 0.1 keeps its descriptors to itself and 0.3 is
//! asynchronous: [`modules`], [`components`] and [`asynchronous`].

mod asynchronous;
mod cause;
mod components;
mod descriptors;
mod files;
mod flows;
mod modules;
mod route;
mod streams;
mod unseekable;

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::{Descriptor, Dir, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;

pub(crate) use self::asynchronous::add_to_linker as add_to_asynchronous_linker;
pub(crate) use self::components::add_to_linker as add_to_component_linker;
pub(crate) use self::modules::add_to_linker as add_to_module_linker;
use self::route::{Last, Route};
pub(crate) use self::unseekable::Unseekable;

/// The directories that a guest was given, by their names in the guest.
#[derive(Clone)]
pub(crate) struct Preopens(Arc<[Preopen]>);

/// One of them.
struct Preopen {
    name: String,
    directory: Dir,
}

/// A path, and the directory it starts at.
struct Place {
    directory: Arc<File>,
    path: String,
}

impl Preopens {
    /// Those of a context that was just built.
    pub(crate) fn of(context: &mut impl WasiFilesystemView) -> wasmtime::Result<Self> {
        let mut view = context.filesystem();
        let mut preopens = Vec::new();
        for (resource, name) in view.get_directories()? {
            if let Descriptor::Dir(directory) = view.table.delete(resource)? {
                preopens.push(Preopen { name, directory });
            }
        }
        Ok(Self(preopens.into()))
    }

    /// Their names, and what is there.
    fn iter(&self) -> impl Iterator<Item = (&str, &Dir)> {
        let preopens = self.0.iter();
        preopens.map(|preopen| (preopen.name.as_str(), &preopen.directory))
    }

    /// How to get to `place` where wasmtime-wasi said "not permitted". `None` if that is the answer.
    async fn route(&self, place: Place, last: Last) -> Result<Option<Route>, Errno> {
        let preopens = self.clone();
        let found =
            spawn_blocking(move || route::find(&preopens.0, &place.directory, &place.path, last));
        // It does not panic, and the runtime is up while it polls a guest.
        found.await.unwrap_or(Ok(None))
    }

    /// Makes a symlink, whose target may be absolute: wasmtime-wasi refuses that.
    async fn symlink(&self, target: String, place: Place) -> Result<(), Errno> {
        let preopens = self.clone();
        let made = spawn_blocking(move || route::symlink(&preopens.0, &target, &place));
        made.await.unwrap_or(Err(Errno::IO))
    }

    /// Reads a symlink, whose target may be absolute: wasmtime-wasi refuses that, too.
    async fn readlink(&self, place: Place) -> Result<String, Errno> {
        let preopens = self.clone();
        let read = spawn_blocking(move || route::readlink(&preopens.0, &place));
        read.await.unwrap_or(Err(Errno::IO))
    }
}

/// How many more resources than [`Limits::handles`](crate::Limits::handles) the table takes, for what is
/// made of files and sockets: opening the next is refused before the table is full, so that it is told as an
/// error.
pub(crate) const RESERVE: usize = 128;

/// The entry that a resource will get that is made next, and whether it is within the `limit`.
pub(crate) fn next_entry(table: &mut ResourceTable, limit: usize) -> Option<u32> {
    let probe = table.push(()).ok()?;
    let entry = probe.rep();
    table.delete(probe).ok()?;
    // Those that are free come first.
    usize::try_from(entry)
        .is_ok_and(|entry| entry < limit)
        .then_some(entry)
}

/// Opens what is at `path` in `directory`, without using it, and without leaving the directory.
fn look(directory: &File, path: &str, flags: OFlags, resolve: ResolveFlags) -> Result<File, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | resolve;
    rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve).map(File::from)
}

/// The directory that `path` is in, and its name there. Slashes at the end belong to the name.
fn split(path: &str) -> (&str, &str) {
    let name_ends = path.trim_end_matches('/').len();
    match path[..name_ends].rfind('/') {
        Some(0) => ("/", &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (".", path),
    }
}

/// The path of a folder to be removed. With a slash at its end wasmtime-wasi removes none; a link is none
/// either way.
fn without_slash(path: &str) -> &str {
    let kept = path.trim_end_matches('/');
    if kept.is_empty() { path } else { kept }
}
