//! `wasi:filesystem` 0.2: wasmtime-wasi's, asked again where a path leads through an absolute link.

use std::fs::File;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode,
    Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult, ReaddirIterator};

use super::cause;
use super::files::{Detour, Files, explain};
use super::route::Last;
use super::unseekable::{self, Unseekable};
use crate::host::Host;

/// Puts the functions in place of wasmtime-wasi's.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = types::add_to_linker::<Host, HasFiles>(linker, files)
        .and_then(|()| preopens::add_to_linker::<Host, HasFiles>(linker, files));
    linker.allow_shadowing(false);
    added
}

fn files(host: &mut Host) -> Files<'_> {
    Files {
        upstream: host.wasi.filesystem(),
        preopens: &host.preopens,
        handles: host.handles,
    }
}

/// The directories are this crate's to tell: an instance of a service has no others.
impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let mut given = Vec::new();
        for (name, directory) in self.preopens.iter() {
            let descriptor = Descriptor::Dir(directory.clone());
            given.push((self.upstream.table.push(descriptor)?, name.to_owned()));
        }
        Ok(given)
    }
}

struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = Files<'a>;
}

/// Asks wasmtime-wasi with what the guest said, then with the detour, if there is one. What it answers
/// last, and the place it was asked about.
macro_rules! ask {
    ($files:ident, $given:ident, $path:ident, $last:expr, |$fd:ident, $to:ident| $question:expr) => {{
        let first = {
            let ($fd, $to) = (borrow(&$given), $path.clone());
            $question.await
        };
        match first {
            Ok(answer) => Ok(answer),
            Err(error) => match $files.detour(&$given, &$path, $last, &error).await? {
                None => {
                    let place = $files.place(&$given, &$path);
                    Err((error, place))
                }
                Some(Detour { start, path }) => {
                    let second = {
                        let ($fd, $to) = (borrow(&start), path.clone());
                        $question.await
                    };
                    let place = $files.place(&start, &path);
                    $files.upstream.table.delete(start)?;
                    second.map_err(|error| (error, place))
                }
            },
        }
    }};
}

/// What changes something, which may be on a read-only file system.
macro_rules! change {
    ($files:ident, $given:ident, $path:ident, $last:expr, |$fd:ident, $to:ident| $question:expr) => {
        match ask!($files, $given, $path, $last, |$fd, $to| $question) {
            Ok(answer) => Ok(answer),
            Err((error, place)) => Err(explain(error, vec![place]).await),
        }
    };
}

/// What changes two names.
macro_rules! change_both {
    ($files:ident, $from:expr, $to:expr, |$a:ident, $b:ident| $question:expr) => {{
        let (from, to) = ($from, $to);
        let first = {
            let $a = (borrow(&from.0), from.1.clone());
            let $b = (borrow(&to.0), to.1.clone());
            $question.await
        };
        let Err(error) = first else {
            return Ok(());
        };
        let (given, wanted) = ((&from.0, from.1.as_str()), (&to.0, to.1.as_str()));
        let Some((old, new)) = $files.detours(given, wanted, &error).await? else {
            let places = vec![
                $files.place(given.0, given.1),
                $files.place(wanted.0, wanted.1),
            ];
            return Err(explain(error, places).await);
        };
        let second = {
            let $a = (borrow(&old.start), old.path.clone());
            let $b = (borrow(&new.start), new.path.clone());
            $question.await
        };
        let places = vec![
            $files.place(&old.start, &old.path),
            $files.place(&new.start, &new.path),
        ];
        $files.upstream.table.delete(old.start)?;
        $files.upstream.table.delete(new.start)?;
        match second {
            Ok(()) => Ok(()),
            Err(error) => Err(explain(error, places).await),
        }
    }};
}

/// Functions that take no path.
macro_rules! upstream {
    ($(async $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(async fn $name(&mut self, $($argument: $type),*) -> $answer {
            self.upstream.$name($($argument),*).await
        })*
    };
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&mut self, $($argument: $type),*) -> $answer {
            self.upstream.$name($($argument),*)
        })*
    };
}

type Fd = Resource<Descriptor>;
type Entries = Resource<ReaddirIterator>;

/// A slash at the end of a path asks for what a link leads to, which wasmtime-wasi overlooks.
fn trailing(path: &str) -> PathFlags {
    if path.ends_with('/') {
        PathFlags::SYMLINK_FOLLOW
    } else {
        PathFlags::empty()
    }
}

/// For one call, which gives it back.
fn borrow(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

impl Files<'_> {
    fn write_unseekable(&mut self, file: &File) -> FsResult<Resource<DynOutputStream>> {
        let stream: DynOutputStream = Box::new(unseekable::output(file)?);
        Ok(self.upstream.table.push(stream)?)
    }
}

impl HostDescriptor for Files<'_> {
    upstream! {
        async advise(fd: Fd, offset: Filesize, len: Filesize, advice: Advice) -> FsResult<()>;
        async sync_data(fd: Fd) -> FsResult<()>;
        async get_flags(fd: Fd) -> FsResult<DescriptorFlags>;
        async get_type(fd: Fd) -> FsResult<DescriptorType>;
        async set_size(fd: Fd, size: Filesize) -> FsResult<()>;
        async set_times(fd: Fd, accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<()>;
        async read_directory(fd: Fd) -> FsResult<Entries>;
        async sync(fd: Fd) -> FsResult<()>;
        async stat(fd: Fd) -> FsResult<DescriptorStat>;
        async is_same_object(a: Fd, b: Fd) -> wasmtime::Result<bool>;
        async metadata_hash(fd: Fd) -> FsResult<MetadataHashValue>;
    }
    async fn read(&mut self, fd: Fd, len: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)> {
        let Some(file) = self.unseekable(&fd) else {
            return self.upstream.read(fd, len, offset).await;
        };
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let bytes = Unseekable::new(&file)?.read(size, true).await?;
        Ok((bytes.to_vec(), bytes.is_empty()))
    }

    async fn write(&mut self, fd: Fd, buffer: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let Some(file) = self.unseekable(&fd) else {
            return self.upstream.write(fd, buffer, offset).await;
        };
        Ok(Unseekable::new(&file)?.write(&buffer).await? as Filesize)
    }

    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.has_room_for_stream()?;
        let Some(file) = self.unseekable(&fd) else {
            return self.upstream.read_via_stream(fd, offset);
        };
        let stream: DynInputStream = Box::new(unseekable::input(&file)?);
        Ok(self.upstream.table.push(stream)?)
    }

    fn write_via_stream(
        &mut self,
        fd: Fd,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.has_room_for_stream()?;
        match self.unseekable(&fd) {
            Some(file) => self.write_unseekable(&file),
            None => self.upstream.write_via_stream(fd, offset),
        }
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.has_room_for_stream()?;
        match self.unseekable(&fd) {
            Some(file) => self.write_unseekable(&file),
            None => self.upstream.append_via_stream(fd),
        }
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.upstream, fd)
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        follow: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        self.has_room()?;
        // A new file takes no link for its name.
        let last = if how.contains(OpenFlags::EXCLUSIVE) {
            Last::Name
        } else {
            Last::follow(follow.contains(PathFlags::SYMLINK_FOLLOW))
        };
        let changes = how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
            || flags.contains(DescriptorFlags::WRITE);
        let opened = ask!(self, fd, path, last, |fd, path| {
            self.upstream.open_at(fd, follow, path, how, flags)
        });
        match opened {
            Ok(opened) => Ok(opened),
            Err((error, place)) if changes => Err(explain(error, vec![place]).await),
            Err((error, _)) => Err(error),
        }
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        follow: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        let follow = follow | trailing(&path);
        let last = Last::follow(follow.contains(PathFlags::SYMLINK_FOLLOW));
        ask!(self, fd, path, last, |fd, path| {
            self.upstream.stat_at(fd, follow, path)
        })
        .map_err(|(error, _)| error)
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        follow: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        let follow = follow | trailing(&path);
        let last = Last::follow(follow.contains(PathFlags::SYMLINK_FOLLOW));
        ask!(self, fd, path, last, |fd, path| {
            self.upstream.metadata_hash_at(fd, follow, path)
        })
        .map_err(|(error, _)| error)
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        let place = self.place(&fd, &path).ok_or(ErrorCode::NotDirectory)?;
        let target = self.preopens.readlink(place).await;
        Ok(target.map_err(cause::code)?)
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        follow: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        let last = Last::follow(follow.contains(PathFlags::SYMLINK_FOLLOW));
        change!(self, fd, path, last, |fd, path| {
            self.upstream
                .set_times_at(fd, follow, path, accessed, modified)
        })
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        change!(self, fd, path, Last::Name, |fd, path| {
            self.upstream.create_directory_at(fd, path)
        })
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let path = super::without_slash(&path).to_owned();
        change!(self, fd, path, Last::Name, |fd, path| {
            self.upstream.remove_directory_at(fd, path)
        })
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        change!(self, fd, path, Last::Name, |fd, path| {
            self.upstream.unlink_file_at(fd, path)
        })
    }

    async fn symlink_at(&mut self, fd: Fd, target: String, path: String) -> FsResult<()> {
        let place = self.place(&fd, &path).ok_or(ErrorCode::NotDirectory)?;
        let made = self.preopens.symlink(target, place).await;
        Ok(made.map_err(cause::code)?)
    }

    async fn link_at(
        &mut self,
        from: Fd,
        follow: PathFlags,
        old: String,
        to: Fd,
        new: String,
    ) -> FsResult<()> {
        change_both!(self, (from, old), (to, new), |old, new| {
            self.upstream.link_at(old.0, follow, old.1, new.0, new.1)
        })
    }

    async fn rename_at(&mut self, from: Fd, old: String, to: Fd, new: String) -> FsResult<()> {
        change_both!(self, (from, old), (to, new), |old, new| {
            self.upstream.rename_at(old.0, old.1, new.0, new.1)
        })
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    upstream! {
        async read_directory_entry(entries: Entries) -> FsResult<Option<DirectoryEntry>>;
    }

    fn drop(&mut self, entries: Entries) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.upstream, entries)
    }
}

impl types::Host for Files<'_> {
    upstream! {
        convert_error_code(error: FsError) -> wasmtime::Result<ErrorCode>;
        filesystem_error_code(error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>>;
    }
}
