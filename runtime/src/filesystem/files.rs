//! The files of a component, and where to ask about them again.

use std::fs::File;
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::{FsError, FsResult};

use super::route::{Last, Start};
use super::{Place, Preopens, RESERVE, cause, next_entry, unseekable};

/// The files of one guest.
pub(super) struct Files<'a> {
    pub(super) upstream: WasiFilesystemCtxView<'a>,
    pub(super) preopens: &'a Preopens,
    /// How many resources the guest may have.
    pub(super) handles: usize,
}

/// Where to try again. The descriptor is in the table only until then.
pub(super) struct Detour {
    pub(super) start: Resource<Descriptor>,
    pub(super) path: String,
}

impl Files<'_> {
    /// Refuses to open one more file than the guest may have.
    pub(super) fn has_room(&mut self) -> FsResult<()> {
        // WASI 0.2 has no word for too many files.
        let entry = next_entry(self.upstream.table, self.handles);
        entry.map(drop).ok_or(ErrorCode::InsufficientMemory.into())
    }

    /// The same for a stream of a file, which has a place where no file has one.
    pub(super) fn has_room_for_stream(&mut self) -> FsResult<()> {
        let entry = next_entry(
            self.upstream.table,
            self.handles.saturating_add(RESERVE / 2),
        );
        entry.map(drop).ok_or(ErrorCode::InsufficientMemory.into())
    }

    /// The file that a descriptor is, if that has no positions.
    pub(super) fn unseekable(&self, fd: &Resource<Descriptor>) -> Option<Arc<File>> {
        match self.upstream.table.get(fd) {
            Ok(Descriptor::File(file)) if unseekable::is(&file.file) => Some(file.file.clone()),
            Ok(Descriptor::File(_) | Descriptor::Dir(_)) | Err(_) => None,
        }
    }

    pub(super) fn place(&self, fd: &Resource<Descriptor>, path: &str) -> Option<Place> {
        match self.upstream.table.get(fd) {
            Ok(Descriptor::Dir(dir)) => Some(Place {
                directory: dir.dir.clone(),
                path: path.to_owned(),
            }),
            Ok(Descriptor::File(_)) | Err(_) => None,
        }
    }

    /// Another way to a path that an operation was not permitted to go.
    async fn way(
        &mut self,
        fd: &Resource<Descriptor>,
        path: &str,
        last: Last,
        error: &FsError,
    ) -> FsResult<Option<(Descriptor, String)>> {
        if !matches!(error.downcast_ref(), Some(ErrorCode::NotPermitted)) {
            return Ok(None);
        }
        let Some(place) = self.place(fd, path) else {
            return Ok(None);
        };
        let route = self.preopens.route(place, last).await;
        let Some(route) = route.map_err(cause::code)? else {
            return Ok(None);
        };
        let start = match route.start {
            Start::Given => self.upstream.table.get(fd)?.clone(),
            Start::Preopen(index) => Descriptor::Dir(self.preopens.0[index].directory.clone()),
        };
        Ok(Some((start, route.path)))
    }

    /// The same, ready to be gone.
    pub(super) async fn detour(
        &mut self,
        fd: &Resource<Descriptor>,
        path: &str,
        last: Last,
        error: &FsError,
    ) -> FsResult<Option<Detour>> {
        let way = self.way(fd, path, last, error).await?;
        way.map(|way| self.begin(way)).transpose()
    }

    /// Both ways of an operation on two names: the other one, or what the guest said.
    pub(super) async fn detours(
        &mut self,
        from: (&Resource<Descriptor>, &str),
        to: (&Resource<Descriptor>, &str),
        error: &FsError,
    ) -> FsResult<Option<(Detour, Detour)>> {
        let old = self.way(from.0, from.1, Last::Name, error).await?;
        let new = self.way(to.0, to.1, Last::Name, error).await?;
        if old.is_none() && new.is_none() {
            return Ok(None);
        }
        let table = &self.upstream.table;
        let old = old.map_or_else(|| given(table, from), Ok)?;
        let new = new.map_or_else(|| given(table, to), Ok)?;
        let old = self.begin(old)?;
        Ok(Some((old, self.begin(new)?)))
    }

    fn begin(&mut self, (start, path): (Descriptor, String)) -> FsResult<Detour> {
        // A full table is the guest's own doing, and no reason to end it for a path.
        let start = self.upstream.table.push(start);
        let start = start.map_err(|_| ErrorCode::InsufficientMemory)?;
        Ok(Detour { start, path })
    }
}

fn given(
    table: &ResourceTable,
    (fd, path): (&Resource<Descriptor>, &str),
) -> FsResult<(Descriptor, String)> {
    Ok((table.get(fd)?.clone(), path.to_owned()))
}

/// The reason of an error, if wasmtime-wasi did not know it.
pub(super) async fn explain(error: FsError, places: Vec<Option<Place>>) -> FsError {
    if !matches!(error.downcast_ref(), Some(ErrorCode::Io)) {
        return error;
    }
    match cause::of(places.into_iter().flatten().collect()).await {
        Some(cause) => ErrorCode::from(cause).into(),
        None => error,
    }
}
