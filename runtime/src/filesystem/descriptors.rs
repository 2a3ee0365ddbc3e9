//! What the descriptors of a WASI 0.1 guest are, and asking wasmtime-wasi about paths that are not in the
//! guest's memory.
//!
//! wasmtime-wasi does not tell which directory a descriptor is. Preopens are known by their names. For
//! another one it is asked to open `.` there, and what was not in the table before is it.

use std::fs::File;
use std::sync::Arc;

use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::types::{
    Errno, Error, Fd, Fdflags, Lookupflags, Oflags, Prestat, PrestatDir, Rights,
};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wiggle::{GuestMemory, GuestPtr};

use super::route::{Last, Start};
use super::{Place, cause};
use crate::host::Host;

/// The first preopen (`wasi-libc`, `preopens.c`).
const FIRST_PREOPEN: u32 = 3;

/// A memory with one or two paths in it.
pub(super) struct Scratch {
    bytes: Vec<u8>,
    pub(super) first: u32,
}

impl Scratch {
    pub(super) fn new(first: &str, second: &str) -> Self {
        Self {
            bytes: [first.as_bytes(), second.as_bytes()].concat(),
            first: length(first.len()),
        }
    }

    /// What a question about it may copy of it.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn memory(&mut self) -> GuestMemory<'_> {
        GuestMemory::Unshared(&mut self.bytes)
    }

    pub(super) fn first(&self) -> GuestPtr<str> {
        GuestPtr::new((0, self.first))
    }

    pub(super) fn second(&self) -> GuestPtr<str> {
        GuestPtr::new((self.first, length(self.bytes.len()) - self.first))
    }
}

pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).expect("paths are shorter than a guest's memory")
}

/// Another way to a path.
pub(super) struct Detour {
    pub(super) fd: Fd,
    pub(super) path: String,
}

impl Host {
    /// Another way to a path that an operation was not permitted to go.
    pub(super) async fn detour(
        &mut self,
        fd: Fd,
        path: &str,
        last: Last,
    ) -> Result<Option<Detour>, Error> {
        let Some(place) = self.place(fd, path).await else {
            return Ok(None);
        };
        let route = self.preopens.route(place, last).await;
        let Some(route) = route.map_err(cause::code).map_err(Errno::from)? else {
            return Ok(None);
        };
        let start = match route.start {
            Start::Given => Some(fd),
            // One that the guest has closed, it does without.
            Start::Preopen(index) => self.open_preopen(index),
        };
        Ok(start.map(|fd| Detour {
            fd,
            path: route.path,
        }))
    }

    /// The reason of an error, if wasmtime-wasi did not know it.
    pub(super) async fn explain(&mut self, errno: Errno, paths: &[(Fd, &str)]) -> Error {
        if errno != Errno::Io {
            return errno.into();
        }
        let mut places = Vec::new();
        for (fd, path) in paths {
            places.extend(self.place(*fd, path).await);
        }
        let cause = cause::of(places).await.map(ErrorCode::from);
        cause.map_or(errno, Errno::from).into()
    }

    pub(super) async fn place(&mut self, fd: Fd, path: &str) -> Option<Place> {
        let directory = match self.preopen(fd) {
            Some(index) => self.preopens.0[index].directory.dir.clone(),
            None => self.directory(fd).await?,
        };
        Some(Place {
            directory,
            path: path.to_owned(),
        })
    }

    /// Which preopen a descriptor is, if it is one.
    fn preopen(&mut self, fd: Fd) -> Option<usize> {
        let Ok(Prestat::Dir(PrestatDir { pr_name_len })) = self
            .wasi
            .fd_prestat_get(&mut GuestMemory::Unshared(&mut []), fd)
        else {
            return None;
        };
        let mut name = vec![0; usize::try_from(pr_name_len).ok()?];
        let mut memory = GuestMemory::Unshared(&mut name);
        let named = self
            .wasi
            .fd_prestat_dir_name(&mut memory, fd, GuestPtr::new(0), pr_name_len);
        named.ok()?;
        let mut preopens = self.preopens.0.iter();
        preopens.position(|preopen| preopen.name.as_bytes() == name)
    }

    /// The descriptor that a preopen had from the beginning, if it still has it.
    fn open_preopen(&mut self, index: usize) -> Option<Fd> {
        let fd = Fd::from(FIRST_PREOPEN + u32::try_from(index).ok()?);
        (self.preopen(fd) == Some(index)).then_some(fd)
    }

    /// The directory that a descriptor of the guest is.
    async fn directory(&mut self, fd: Fd) -> Option<Arc<File>> {
        let before = self.directories();
        let mut scratch = Scratch::new(".", "");
        let path = scratch.first();
        self.wasi.set_hostcall_fuel(scratch.len());
        let mut memory = scratch.memory();
        let opened = self.wasi.path_open(
            &mut memory,
            fd,
            Lookupflags::empty(),
            path,
            Oflags::DIRECTORY,
            Rights::FD_READ,
            Rights::empty(),
            Fdflags::empty(),
        );
        let opened = opened.await.ok()?;
        let mut found = self.directories();
        found.retain(|directory| !before.iter().any(|known| Arc::ptr_eq(known, directory)));
        let closed = self.wasi.fd_close(&mut memory, opened);
        closed.await.ok()?;
        found.pop()
    }

    /// Every directory in the table.
    fn directories(&mut self) -> Vec<Arc<File>> {
        let entries = self.wasi.ctx().table.iter_mut();
        entries
            .filter_map(|entry| match entry.downcast_ref() {
                Some(Descriptor::Dir(dir)) => Some(dir.dir.clone()),
                Some(Descriptor::File(_)) | None => None,
            })
            .collect()
    }
}
