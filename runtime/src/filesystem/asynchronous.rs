//! `wasi:filesystem` 0.3: wasmtime-wasi's, asked again where a path leads through an absolute link.
//!
//! The rules are those of 0.2 ([`super::components`]). Many of these functions may be under way at once,
//! so nothing of the store is held while one waits, and one that the guest gives up leaves nothing in
//! the table: a detour starts at the descriptor that was given, or at one that stays for its preopen.

use std::fs::File;
use std::sync::Arc;

use wasmtime::AsContextMut as _;
use wasmtime::component::{
    Access, Accessor, FutureReader, HasData, Linker, Resource, StreamReader,
};
use wasmtime_wasi::filesystem::{
    Descriptor, WasiFilesystem, WasiFilesystemCtxView, WasiFilesystemView as _,
};
use wasmtime_wasi::p3::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode,
    Filesize, HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

use super::route::{Last, Route, Start};
use super::{Place, cause, flows, next_entry, unseekable};
use crate::host::Host;

#[macro_use]
mod ask;

/// Puts the functions in place of wasmtime-wasi's.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = types::add_to_linker::<Host, HasFiles>(linker, files);
    linker.allow_shadowing(false);
    added
}

/// What the functions below are on; the data is wasmtime-wasi's.
pub(super) struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = WasiFilesystemCtxView<'a>;
}

fn files(host: &mut Host) -> WasiFilesystemCtxView<'_> {
    host.wasi.filesystem()
}

type Files = Accessor<Host, HasFiles>;
type Fd = Resource<Descriptor>;
/// How a stream ended.
type Ended = FutureReader<Result<(), ErrorCode>>;
/// What comes of a descriptor, and how that ended.
pub(super) type Streamed<T> = (StreamReader<T>, Ended);

/// A path, and the descriptor that it starts at.
type Way = (Fd, String);

/// Functions that take no path.
macro_rules! forward {
    ($(async $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(async fn $name(store: &Files, $($argument: $type),*) -> $answer {
            WasiFilesystem::$name(&upstream(store), $($argument),*).await
        })*
    };
}

/// What wasmtime-wasi's functions that start streams take.
fn above<'a>(store: &'a mut Access<'_, Host, HasFiles>) -> Access<'a, Host, WasiFilesystem> {
    Access::<_, WasiFilesystem>::new(store.as_context_mut(), files)
}

/// The file that a descriptor is, if that has no positions.
fn unseekable(store: &mut Access<'_, Host, HasFiles>, fd: &Fd) -> Option<Arc<File>> {
    match store.get().table.get(fd) {
        Ok(Descriptor::File(file)) if unseekable::is(&file.file) => Some(file.file.clone()),
        Ok(Descriptor::File(_) | Descriptor::Dir(_)) | Err(_) => None,
    }
}

fn upstream(store: &Files) -> Accessor<Host, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(files)
}

/// For one call, which gives it back.
fn borrow(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

/// A slash at the end of a path asks for what a link leads to, which wasmtime-wasi overlooks.
fn trailing(path: &str) -> PathFlags {
    if path.ends_with('/') {
        PathFlags::SYMLINK_FOLLOW
    } else {
        PathFlags::empty()
    }
}

fn follows(flags: PathFlags) -> Last {
    Last::follow(flags.contains(PathFlags::SYMLINK_FOLLOW))
}

fn place(store: &Files, fd: &Fd, path: &str) -> Option<Place> {
    store.with(|mut access| match access.get().table.get(fd) {
        Ok(Descriptor::Dir(dir)) => Some(Place {
            directory: dir.dir.clone(),
            path: path.to_owned(),
        }),
        Ok(Descriptor::File(_)) | Err(_) => None,
    })
}

/// Another way to a path that an operation was not permitted to go.
async fn detour(
    store: &Files,
    fd: &Fd,
    path: &str,
    last: Last,
    error: &FilesystemError,
) -> FilesystemResult<Option<Way>> {
    if !matches!(error.downcast_ref(), Some(ErrorCode::NotPermitted)) {
        return Ok(None);
    }
    let Some(place) = place(store, fd, path) else {
        return Ok(None);
    };
    let preopens = store.with(|mut access| access.data_mut().preopens.clone());
    let Some(Route { start, path }) = preopens.route(place, last).await.map_err(cause::code_0_3)?
    else {
        return Ok(None);
    };
    let start = match start {
        Start::Given => borrow(fd),
        Start::Preopen(index) => store.with(|mut access| preopen(access.data_mut(), index))?,
    };
    Ok(Some((start, path)))
}

/// The descriptor that detours by a preopen start at.
fn preopen(host: &mut Host, index: usize) -> FilesystemResult<Fd> {
    if let Some(rep) = host.starts.get(&index) {
        return Ok(Resource::new_borrow(*rep));
    }
    let directory = Descriptor::Dir(host.preopens.0[index].directory.clone());
    // A full table is the guest's own doing, and no reason to end it for a path.
    let start = host.wasi.filesystem().table.push(directory);
    let rep = start.map_err(|_| ErrorCode::InsufficientMemory)?.rep();
    host.starts.insert(index, rep);
    Ok(Resource::new_borrow(rep))
}

/// The reason of an error, if wasmtime-wasi did not know it.
async fn explain(error: FilesystemError, places: Vec<Option<Place>>) -> FilesystemError {
    if !matches!(error.downcast_ref(), Some(ErrorCode::Io)) {
        return error;
    }
    match cause::of(places.into_iter().flatten().collect()).await {
        Some(cause) => ErrorCode::from(cause).into(),
        None => error,
    }
}

impl HostDescriptorWithStore<Host> for HasFiles {
    forward! {
        async advise(fd: Fd, offset: Filesize, len: Filesize, advice: Advice) -> FilesystemResult<()>;
        async sync_data(fd: Fd) -> FilesystemResult<()>;
        async get_flags(fd: Fd) -> FilesystemResult<DescriptorFlags>;
        async get_type(fd: Fd) -> FilesystemResult<DescriptorType>;
        async set_size(fd: Fd, size: Filesize) -> FilesystemResult<()>;
        async set_times(fd: Fd, accessed: NewTimestamp, modified: NewTimestamp) -> FilesystemResult<()>;
        async sync(fd: Fd) -> FilesystemResult<()>;
        async stat(fd: Fd) -> FilesystemResult<DescriptorStat>;
        async is_same_object(a: Fd, b: Fd) -> wasmtime::Result<bool>;
        async metadata_hash(fd: Fd) -> FilesystemResult<MetadataHashValue>;
    }
    fn read_directory(
        mut store: Access<'_, Host, Self>,
        fd: Fd,
    ) -> wasmtime::Result<Streamed<DirectoryEntry>> {
        WasiFilesystem::read_directory(above(&mut store), fd)
    }

    fn read_via_stream(
        mut store: Access<'_, Host, Self>,
        fd: Fd,
        offset: Filesize,
    ) -> wasmtime::Result<Streamed<u8>> {
        if let Some(file) = unseekable(&mut store, &fd) {
            return flows::read(&mut store, &file);
        }
        WasiFilesystem::read_via_stream(above(&mut store), fd, offset)
    }

    fn write_via_stream(
        mut store: Access<'_, Host, Self>,
        fd: Fd,
        data: StreamReader<u8>,
        offset: Filesize,
    ) -> wasmtime::Result<Ended> {
        if let Some(file) = unseekable(&mut store, &fd) {
            return flows::write(&mut store, &file, data);
        }
        WasiFilesystem::write_via_stream(above(&mut store), fd, data, offset)
    }

    fn append_via_stream(
        mut store: Access<'_, Host, Self>,
        fd: Fd,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<Ended> {
        if let Some(file) = unseekable(&mut store, &fd) {
            return flows::write(&mut store, &file, data);
        }
        WasiFilesystem::append_via_stream(above(&mut store), fd, data)
    }

    async fn open_at(
        store: &Files,
        fd: Fd,
        follow: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> FilesystemResult<Fd> {
        store.with(|mut access| {
            let host = access.data_mut();
            next_entry(host.wasi.filesystem().table, host.handles)
                .ok_or(ErrorCode::InsufficientMemory)
        })?;
        // A new file takes no link for its name.
        let last = if how.contains(OpenFlags::EXCLUSIVE) {
            Last::Name
        } else {
            follows(follow)
        };
        let changes = how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
            || flags.contains(DescriptorFlags::WRITE);
        match ask!(store, fd, path, last, |files, fd, path| {
            WasiFilesystem::open_at(files, fd, follow, path, how, flags)
        }) {
            Ok(opened) => Ok(opened),
            Err((error, place)) if changes => Err(explain(error, vec![place]).await),
            Err((error, _)) => Err(error),
        }
    }

    async fn stat_at(
        store: &Files,
        fd: Fd,
        follow: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        let follow = follow | trailing(&path);
        ask!(store, fd, path, follows(follow), |files, fd, path| {
            WasiFilesystem::stat_at(files, fd, follow, path)
        })
        .map_err(|(error, _)| error)
    }

    async fn metadata_hash_at(
        store: &Files,
        fd: Fd,
        follow: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        let follow = follow | trailing(&path);
        ask!(store, fd, path, follows(follow), |files, fd, path| {
            WasiFilesystem::metadata_hash_at(files, fd, follow, path)
        })
        .map_err(|(error, _)| error)
    }

    async fn set_times_at(
        store: &Files,
        fd: Fd,
        follow: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FilesystemResult<()> {
        change!(store, fd, path, follows(follow), |files, fd, path| {
            WasiFilesystem::set_times_at(files, fd, follow, path, accessed, modified)
        })
    }

    async fn create_directory_at(store: &Files, fd: Fd, path: String) -> FilesystemResult<()> {
        change!(store, fd, path, Last::Name, |files, fd, path| {
            WasiFilesystem::create_directory_at(files, fd, path)
        })
    }

    async fn remove_directory_at(store: &Files, fd: Fd, path: String) -> FilesystemResult<()> {
        let path = super::without_slash(&path).to_owned();
        change!(store, fd, path, Last::Name, |files, fd, path| {
            WasiFilesystem::remove_directory_at(files, fd, path)
        })
    }

    async fn unlink_file_at(store: &Files, fd: Fd, path: String) -> FilesystemResult<()> {
        change!(store, fd, path, Last::Name, |files, fd, path| {
            WasiFilesystem::unlink_file_at(files, fd, path)
        })
    }

    async fn readlink_at(store: &Files, fd: Fd, path: String) -> FilesystemResult<String> {
        let place = place(store, &fd, &path).ok_or(ErrorCode::NotDirectory)?;
        let preopens = store.with(|mut access| access.data_mut().preopens.clone());
        Ok(preopens.readlink(place).await.map_err(cause::code_0_3)?)
    }

    async fn symlink_at(
        store: &Files,
        fd: Fd,
        target: String,
        path: String,
    ) -> FilesystemResult<()> {
        let place = place(store, &fd, &path).ok_or(ErrorCode::NotDirectory)?;
        let preopens = store.with(|mut access| access.data_mut().preopens.clone());
        Ok(preopens
            .symlink(target, place)
            .await
            .map_err(cause::code_0_3)?)
    }

    async fn link_at(
        store: &Files,
        from: Fd,
        follow: PathFlags,
        old: String,
        to: Fd,
        new: String,
    ) -> FilesystemResult<()> {
        change_both!(store, (from, old), (to, new), link_at(follow))
    }

    async fn rename_at(
        store: &Files,
        from: Fd,
        old: String,
        to: Fd,
        new: String,
    ) -> FilesystemResult<()> {
        change_both!(store, (from, old), (to, new), rename_at())
    }
}
