//! The way to a path of the guest, found by reading links: from a directory that the guest holds or from
//! a preopen, and without symlinks.
//!
//! Only names are looked up, one at a time and following nothing; `..` takes the name before it off
//! again. So the kernel is never asked for anything outside of the directory a way starts at.

use std::borrow::Cow;
use std::fs::File;

use rustix::fs::{FileType, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Place, Preopen, look, split};

/// How many links one path may lead through, as in the kernel (path_resolution(7)).
const LINKS: usize = 40;

/// What an operation does with the last name of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// It works on what a link there leads to.
    Follow,
    /// It works on a link there, unless a slash comes after the name.
    Keep,
    /// It makes, moves or removes the name.
    Name,
}

impl Last {
    pub(super) fn follow(follow: bool) -> Self {
        if follow { Self::Follow } else { Self::Keep }
    }
}

/// A path without symlinks, as far as it leads to something.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) start: Start,
    pub(super) path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The directory that the guest named.
    Given,
    /// The preopen of this index.
    Preopen(usize),
}

/// The way to `path` from the directory `given`. `None` if there is none, or none that wasmtime-wasi does
/// not find by itself: without an absolute link, and without a `..` at the container's root, which
/// stays there.
///
/// # Errors
///
/// `ELOOP`.
pub(super) fn find(
    preopens: &[Preopen],
    given: &File,
    path: &str,
    last: Last,
) -> Result<Option<Route>, Errno> {
    // WASI's own paths are relative (wasi-filesystem, path-resolution.md).
    if path.is_empty() || path.starts_with('/') || path.contains('\0') {
        return Ok(None);
    }
    let walk = Walk {
        preopens,
        given,
        start: Start::Given,
        names: Vec::new(),
        pending: path.rsplit('/').map(str::to_owned).collect(),
        suffix: suffix(path),
        links: 0,
        detoured: false,
    };
    walk.finish(last)
}

/// Makes a symlink at a place. The target may be any text: who follows it stays in.
pub(super) fn symlink(preopens: &[Preopen], target: &str, place: &Place) -> Result<(), Errno> {
    let (directory, path) = place.end(preopens, Last::Name)?;
    let (parent, name) = split(&path);
    let parent = look(directory, parent, OFlags::DIRECTORY, ResolveFlags::empty())?;
    // A slash at its end makes it the name of a directory, of which there is none.
    rustix::fs::symlinkat(target, parent, name)
}

/// Reads the symlink at a place.
pub(super) fn readlink(preopens: &[Preopen], place: &Place) -> Result<String, Errno> {
    let (directory, path) = place.end(preopens, Last::Keep)?;
    let link = look(directory, &path, OFlags::NOFOLLOW, ResolveFlags::empty())?;
    let mode = rustix::fs::fstat(&link)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Symlink {
        return Err(Errno::INVAL);
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    target.into_string().map_err(|_| Errno::ILSEQ)
}

impl Place {
    /// Where its path leads, as what [`look`] needs.
    fn end<'a>(
        &'a self,
        preopens: &'a [Preopen],
        last: Last,
    ) -> Result<(&'a File, Cow<'a, str>), Errno> {
        let route = find(preopens, &self.directory, &self.path, last)?;
        Ok(match route {
            Some(Route { start, path }) => {
                (start_of(preopens, &self.directory, start), path.into())
            }
            None => (&self.directory, self.path.as_str().into()),
        })
    }
}

fn start_of<'a>(preopens: &'a [Preopen], given: &'a File, start: Start) -> &'a File {
    match start {
        Start::Given => given,
        Start::Preopen(index) => &preopens[index].directory.dir,
    }
}

/// What the end of a path says about what it leads to: a directory.
fn suffix(path: &str) -> &'static str {
    if path.ends_with("/.") || path == "." {
        "/."
    } else if path.ends_with('/') {
        "/"
    } else {
        ""
    }
}

struct Walk<'a> {
    preopens: &'a [Preopen],
    given: &'a File,
    start: Start,
    /// The directories walked into since the start; no link is among them.
    names: Vec<String>,
    /// What is still to be walked, the next name last.
    pending: Vec<String>,
    suffix: &'static str,
    links: usize,
    /// Whether it went where wasmtime-wasi does not go.
    detoured: bool,
}

impl Walk<'_> {
    fn finish(mut self, last: Last) -> Result<Option<Route>, Errno> {
        while let Some(name) = self.pending.pop() {
            match name.as_str() {
                "" | "." => {}
                ".." => {
                    if self.names.pop().is_none() && !self.leave() {
                        return Ok(None);
                    }
                }
                _ => {
                    let is_last = self
                        .pending
                        .iter()
                        .all(|name| name.is_empty() || name == ".");
                    let keep = match last {
                        Last::Follow => false,
                        Last::Keep => self.suffix.is_empty(),
                        Last::Name => true,
                    };
                    let found = self.look_at(name, is_last && keep);
                    match found {
                        Found::Directory => {}
                        Found::Link(target) => {
                            self.links += 1;
                            if self.links > LINKS {
                                return Err(Errno::LOOP);
                            }
                            if !self.follow(&target, is_last) {
                                return Ok(None);
                            }
                        }
                        Found::End => break,
                    }
                }
            }
        }
        // What is left cannot be walked: wasmtime-wasi will say why.
        let rest = std::mem::take(&mut self.pending);
        let rest = rest.into_iter().rev();
        self.names
            .extend(rest.filter(|name| !name.is_empty() && name != "."));
        let mut path = self.names.join("/");
        if path.is_empty() {
            path.push('.');
        } else {
            path.push_str(self.suffix);
        }
        let start = self.start;
        Ok(self.detoured.then_some(Route { start, path }))
    }

    /// Looks up a name where the walk is, and goes there unless it is a link to follow.
    fn look_at(&mut self, name: String, keep: bool) -> Found {
        self.names.push(name);
        let directory = start_of(self.preopens, self.given, self.start);
        let path = self.names.join("/");
        let found = look(
            directory,
            &path,
            OFlags::NOFOLLOW,
            ResolveFlags::NO_SYMLINKS,
        )
        .and_then(|file| {
            let mode = rustix::fs::fstat(&file)?.st_mode;
            let kind = FileType::from_raw_mode(mode);
            Ok(if kind.is_dir() {
                Found::Directory
            } else if kind.is_symlink() && !keep {
                let target = rustix::fs::readlinkat(&file, "", Vec::new())?;
                // No path of WASI is anything but text.
                target.into_string().map_or(Found::End, Found::Link)
            } else {
                Found::End
            })
        });
        // What cannot be looked at is not there yet, or not to be entered, or changing.
        let found = found.unwrap_or(Found::End);
        if let Found::Link(_) = found {
            self.names.pop();
        }
        found
    }

    /// Goes on at the target of a link; whether that is in the container.
    fn follow(&mut self, target: &str, is_last: bool) -> bool {
        if is_last && self.suffix.is_empty() {
            self.suffix = suffix(target);
        }
        let mut target = target;
        if target.starts_with('/') {
            let Some((index, rest)) = self.preopen_of(target) else {
                return false;
            };
            self.start = Start::Preopen(index);
            self.names.clear();
            self.detoured = true;
            target = rest;
        }
        self.pending.extend(target.rsplit('/').map(str::to_owned));
        true
    }

    /// The preopen that an absolute path lies in, and the path from there: the one with the longest name.
    fn preopen_of<'p>(&self, path: &'p str) -> Option<(usize, &'p str)> {
        let below = self
            .preopens
            .iter()
            .enumerate()
            .filter_map(|(index, preopen)| {
                let name = preopen.name.trim_end_matches('/');
                let rest = path.strip_prefix(name)?;
                let inside = rest.is_empty() || rest.starts_with('/');
                (inside && preopen.name.starts_with('/')).then_some((name.len(), index, rest))
            });
        below
            .max_by_key(|(length, ..)| *length)
            .map(|(_, index, rest)| (index, rest))
    }

    /// Goes on above the start; whether that is possible. The root is its own parent. Other preopens have
    /// theirs in the root, if the guest was given it. Above another directory is nothing: it may be
    /// all that a part of the program was trusted with.
    fn leave(&mut self) -> bool {
        let root = self.preopens.iter().position(|preopen| preopen.name == "/");
        let Some(root) = root else {
            return false;
        };
        let from = match self.start {
            Start::Preopen(index) => Some(index),
            Start::Given => {
                let mut preopens = self.preopens.iter();
                preopens.position(|preopen| is_same(self.given, &preopen.directory.dir))
            }
        };
        let Some(from) = from else {
            return false;
        };
        let names = self.preopens[from].name.split('/');
        self.names = names
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        self.names.pop();
        self.start = Start::Preopen(root);
        self.detoured = true;
        true
    }
}

enum Found {
    Directory,
    Link(String),
    /// No directory to go on in: a file, a link that is meant itself, nothing.
    End,
}

fn is_same(a: &File, b: &File) -> bool {
    let identity = |file| rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    identity(a).is_ok_and(|a| identity(b) == Ok(a))
}

#[cfg(test)]
mod tests;
