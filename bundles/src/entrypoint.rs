//! The entrypoint: which file of the container `args[0]` is, opened.
//!
//! The rules are those of a shell where they can be. A name with a slash is a path, relative to the
//! working directory. A name without is looked for in the *container's* `PATH`, then in its working
//! directory and at last in `/`: images made `FROM scratch` have `app.wasm` in the root and say
//! `ENTRYPOINT ["app.wasm"]`, with no `PATH` at all. The execute bit does not count; nobody sets it on a
//! wasm file.
//!
//! `app.wasm#run` asks for the export `run` of `app.wasm`. A file whose name really is `app.wasm#run`
//! wins; otherwise the first `#` separates, because exports may contain `#` themselves
//! (`app.wasm#wasi:cli/run@0.2.0#run`).
//!
//! The path is resolved by the kernel inside of the root (`openat2`, `RESOLVE_IN_ROOT`): absolute
//! symlinks and `..` mean what they mean to the container and never leave it. What comes back is a
//! descriptor, so a path is never looked up a second time and cannot turn into another file.

use std::{
    fs::File,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

use rustix::{
    fs::{FileType, OFlags, fstat},
    io::Errno,
};

use crate::{Choice, Claim, Error, Kind, NotWasm, Process, open_in_root};

/// Where runc's and Docker's containers look if their environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The wasm file to run.
#[derive(Debug)]
pub struct Entrypoint {
    /// A regular file, open for reading, its offset at 0.
    pub file: File,
    /// Its path inside of the root, absolute, symlinks not resolved.
    pub path: String,
    /// The export to run, if one was asked for. Never empty.
    pub export: Option<String>,
    /// What it is.
    pub kind: Kind,
}

/// Whose program `args[0]` is.
#[derive(Debug)]
pub enum Found {
    /// Ours.
    Wasm(Entrypoint),
    /// Linux's.
    Linux {
        /// Its path inside of the root.
        path: String,
        /// What makes it one.
        why: NotWasm,
    },
}

/// Why a candidate is not the file.
enum Miss {
    Absent,
    NotAFile(&'static str),
    Unopenable(io::Error),
}

impl Entrypoint {
    /// Finds and opens `process.args[0]` inside of `root`, the directory that is the guest's `/` with
    /// everything mounted over it.
    ///
    /// # Errors
    ///
    /// [`Error::NotWasm`] if the file is something else, which is how a Linux container shows itself.
    /// [`Error::NoEntrypoint`] with the paths looked at, [`Error::NotAFile`],
    /// [`Error::OpenEntrypoint`], [`Error::InvalidEntrypoint`] for an empty name, file or export.
    pub fn resolve(root: BorrowedFd<'_>, process: &Process) -> Result<Self, Error> {
        match Self::find(root, process, Claim::None)? {
            Found::Wasm(entrypoint) => Ok(entrypoint),
            Found::Linux { path, why } => Err(Error::NotWasm { path, what: why }),
        }
    }

    /// Like [`Entrypoint::resolve`], but a program of Linux's is no error. `claim` is what was said of the
    /// container.
    ///
    /// # Errors
    ///
    /// As [`Entrypoint::resolve`]; [`Error::NotWasm`] only for what nobody can run.
    pub fn find(root: BorrowedFd<'_>, process: &Process, claim: Claim) -> Result<Found, Error> {
        let name = process.args.first().map_or("", String::as_str);
        let invalid = |reason| Error::InvalidEntrypoint {
            path: name.to_owned(),
            reason,
        };
        if name.is_empty() {
            return Err(invalid("is empty; name the wasm file"));
        }
        let (file, path, export) = match (find(root, process, name), name.split_once('#')) {
            (Ok((file, path)), _) => (file, path, None),
            (Err(error), None) => return Err(error),
            (Err(_), Some(("", _))) => {
                return Err(invalid(
                    "names an export and no file; put the file before #",
                ));
            }
            (Err(_), Some((_, ""))) => {
                return Err(invalid("names no export behind #; add one or drop the #"));
            }
            (Err(_), Some((wasm, export))) => {
                let (file, path) = find(root, process, wasm)?;
                (file, path, Some(export.to_owned()))
            }
        };
        let preamble = match read_preamble(&file) {
            Ok(preamble) => preamble,
            Err(source) => return Err(Error::OpenEntrypoint { path, source }),
        };
        match Choice::of(&preamble, claim) {
            Choice::Wasm(kind) => Ok(Found::Wasm(Self {
                file,
                path,
                export,
                kind,
            })),
            Choice::Linux { why } => Ok(Found::Linux { path, why }),
            Choice::Nobody { what } => Err(Error::NotWasm { path, what }),
        }
    }
}

/// Opens the first candidate that is a regular file. If none is, the first one that is at least there
/// is the error, as for `execvp`.
fn find(root: BorrowedFd<'_>, process: &Process, name: &str) -> Result<(File, String), Error> {
    let tried = candidates(process, name);
    let mut obstacle = None;
    for path in &tried {
        let error = match open_regular(root, path) {
            Ok(file) => return Ok((file, path.clone())),
            Err(Miss::Absent) => continue,
            Err(Miss::NotAFile(what)) => Error::NotAFile {
                path: path.clone(),
                what,
            },
            Err(Miss::Unopenable(source)) => Error::OpenEntrypoint {
                path: path.clone(),
                source,
            },
        };
        obstacle.get_or_insert(error);
    }
    Err(obstacle.unwrap_or_else(|| Error::NoEntrypoint {
        path: name.to_owned(),
        tried,
    }))
}

/// The paths a name may stand for, absolute, in order, each once.
fn candidates(process: &Process, name: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![join(&process.cwd, name)];
    }
    let path = process.variable("PATH").unwrap_or(DEFAULT_PATH);
    // An empty or relative entry of PATH is relative to the working directory.
    let listed = path.split(':').map(|entry| join(&process.cwd, entry));
    let mut candidates: Vec<String> = Vec::new();
    for dir in listed.chain([process.cwd.clone(), "/".to_owned()]) {
        let candidate = join(&dir, name);
        if !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    candidates
}

/// `..` stays: what it means depends on symlinks, and the kernel keeps it inside.
fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut path = path;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    format!("{}/{path}", dir.trim_end_matches('/'))
}

fn open_regular(root: BorrowedFd<'_>, path: &str) -> Result<File, Miss> {
    // Opening a device can do things (a watchdog starts), so what it is comes before opening it. With
    // O_NONBLOCK not even a FIFO that took the file's place in between can hang us.
    require_regular(&open(root, path, OFlags::PATH)?)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(root, path, flags)?;
    require_regular(&file)?;
    Ok(File::from(file))
}

fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Miss> {
    match open_in_root(root, Path::new(path), flags) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(Miss::Absent),
        Err(errno) => Err(Miss::Unopenable(errno.into())),
    }
}

fn require_regular(fd: &OwnedFd) -> Result<(), Miss> {
    match irregular(fd) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(Miss::NotAFile(what)),
        Err(errno) => Err(Miss::Unopenable(errno.into())),
    }
}

/// What is behind `fd`, if it is no regular file.
pub(crate) fn irregular(fd: &OwnedFd) -> rustix::io::Result<Option<&'static str>> {
    Ok(Some(match FileType::from_raw_mode(fstat(fd)?.st_mode) {
        FileType::RegularFile => return Ok(None),
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something else",
    }))
}

/// The first bytes, without moving the offset.
fn read_preamble(file: &File) -> io::Result<Vec<u8>> {
    let mut preamble = vec![0; Kind::PREAMBLE];
    let mut len = 0;
    while len < preamble.len() {
        match file.read_at(&mut preamble[len..], len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    preamble.truncate(len);
    Ok(preamble)
}

#[cfg(test)]
mod tests;
