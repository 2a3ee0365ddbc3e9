//! Files of WASI 0.1: wasmtime-wasi's, asked again where a path leads through an absolute link.
//!
//! wasmtime-wasi's functions read their paths out of the guest's memory. A second question has its path in
//! a memory of its own.

use wasmtime::Linker;
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p1::types::*;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self, WasiSnapshotPreview1};
use wiggle::{GuestMemory, GuestPtr};

use super::descriptors::{Detour, Scratch, length};
use super::route::Last;
use super::{Place, cause, next_entry};
use crate::host::Host;

#[macro_use]
mod ask;

/// The longest path there is (limits.h).
const PATH_MAX: u32 = 4096;

/// Puts all of WASI 0.1 into the linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasi_snapshot_preview1::add_to_linker(linker, |host| host)
}

/// Functions that take no path.
macro_rules! upstream {
    ($(async $name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(async fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> Result<$answer, Error> {
            self.wasi.$name(memory, $($argument),*).await
        })*
    };
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&mut self, memory: &mut GuestMemory<'_>, $($argument: $type),*) -> Result<$answer, Error> {
            self.wasi.$name(memory, $($argument),*)
        })*
    };
}

impl Host {
    /// A place that the guest names.
    async fn named(
        &mut self,
        memory: &GuestMemory<'_>,
        fd: Fd,
        path: Path,
    ) -> Result<Place, Error> {
        if path.len() > PATH_MAX {
            return Err(Errno::Nametoolong.into());
        }
        let path = memory.as_cow_str(path)?.into_owned();
        let place = self.place(fd, &path).await;
        Ok(place.ok_or(Errno::Badf)?)
    }
}

type Bytes = GuestPtr<u8>;
type Path = GuestPtr<str>;

impl WasiSnapshotPreview1 for Host {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.wasi.set_hostcall_fuel(fuel);
    }

    upstream! {
        args_get(argv: GuestPtr<Bytes>, buffer: Bytes) -> ();
        args_sizes_get() -> (Size, Size);
        environ_get(environ: GuestPtr<Bytes>, buffer: Bytes) -> ();
        environ_sizes_get() -> (Size, Size);
        clock_res_get(id: Clockid) -> Timestamp;
        clock_time_get(id: Clockid, precision: Timestamp) -> Timestamp;
        fd_allocate(fd: Fd, offset: Filesize, len: Filesize) -> ();
        fd_fdstat_set_flags(fd: Fd, flags: Fdflags) -> ();
        fd_fdstat_set_rights(fd: Fd, base: Rights, inheriting: Rights) -> ();
        fd_prestat_get(fd: Fd) -> Prestat;
        fd_prestat_dir_name(fd: Fd, path: Bytes, len: Size) -> ();
        proc_raise(signal: Signal) -> ();
        sched_yield() -> ();
        random_get(buffer: Bytes, len: Size) -> ();
        sock_accept(fd: Fd, flags: Fdflags) -> Fd;
        sock_recv(fd: Fd, data: IovecArray, flags: Riflags) -> (Size, Roflags);
        sock_send(fd: Fd, data: CiovecArray, flags: Siflags) -> Size;
        sock_shutdown(fd: Fd, how: Sdflags) -> ();
    }
    upstream! {
        async fd_advise(fd: Fd, offset: Filesize, len: Filesize, advice: Advice) -> ();
        async fd_datasync(fd: Fd) -> ();
        async fd_fdstat_get(fd: Fd) -> Fdstat;
        async fd_filestat_get(fd: Fd) -> Filestat;
        async fd_filestat_set_size(fd: Fd, size: Filesize) -> ();
        async fd_filestat_set_times(fd: Fd, atim: Timestamp, mtim: Timestamp, flags: Fstflags) -> ();
        async fd_pread(fd: Fd, buffers: IovecArray, offset: Filesize) -> Size;
        async fd_pwrite(fd: Fd, buffers: CiovecArray, offset: Filesize) -> Size;
        async fd_sync(fd: Fd) -> ();
        async fd_readdir(fd: Fd, buffer: Bytes, len: Size, cookie: Dircookie) -> Size;
        async poll_oneoff(subscriptions: GuestPtr<Subscription>, events: GuestPtr<Event>, count: Size) -> Size;
    }

    async fn fd_close(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<(), Error> {
        self.wasi.fd_close(memory, fd).await?;
        self.unseekable.remove(&fd.into());
        Ok(())
    }

    async fn fd_renumber(
        &mut self,
        memory: &mut GuestMemory<'_>,
        from: Fd,
        to: Fd,
    ) -> Result<(), Error> {
        self.wasi.fd_renumber(memory, from, to).await?;
        if u32::from(from) != u32::from(to) {
            match self.unseekable.remove(&from.into()) {
                Some(file) => drop(self.unseekable.insert(to.into(), file)),
                None => drop(self.unseekable.remove(&to.into())),
            }
        }
        Ok(())
    }

    async fn fd_read(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
    ) -> Result<Size, Error> {
        if self.unseekable.contains_key(&fd.into()) {
            return self.read_unseekable(memory, fd, buffers).await;
        }
        self.wasi.fd_read(memory, fd, buffers).await
    }

    async fn fd_write(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
    ) -> Result<Size, Error> {
        if self.unseekable.contains_key(&fd.into()) {
            return self.write_unseekable(memory, fd, buffers).await;
        }
        self.wasi.fd_write(memory, fd, buffers).await
    }

    async fn fd_seek(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filedelta,
        whence: Whence,
    ) -> Result<Filesize, Error> {
        if self.unseekable.contains_key(&fd.into()) {
            return Err(Errno::Spipe.into());
        }
        self.wasi.fd_seek(memory, fd, offset, whence).await
    }

    fn fd_tell(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Result<Filesize, Error> {
        if self.unseekable.contains_key(&fd.into()) {
            return Err(Errno::Spipe.into());
        }
        self.wasi.fd_tell(memory, fd)
    }

    fn proc_exit(&mut self, memory: &mut GuestMemory<'_>, status: Exitcode) -> wasmtime::Error {
        self.wasi.proc_exit(memory, status)
    }

    async fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        follow: Lookupflags,
        path: Path,
        how: Oflags,
        base: Rights,
        inheriting: Rights,
        flags: Fdflags,
    ) -> Result<Fd, Error> {
        let limit = self.handles;
        // Its first question makes wasmtime-wasi put the standard streams into the table, which would take
        // the entry that is foretold here. What it answers does not matter.
        drop(self.wasi.fd_prestat_get(memory, fd));
        let entry = next_entry(self.wasi.ctx().table, limit).ok_or(Errno::Mfile)?;
        // A new file takes no link for its name.
        let last = if how.contains(Oflags::EXCL) {
            Last::Name
        } else {
            Last::follow(follow.contains(Lookupflags::SYMLINK_FOLLOW))
        };
        let changes =
            how.intersects(Oflags::CREAT | Oflags::TRUNC) || base.contains(Rights::FD_WRITE);
        let opened = ask!(self, memory, fd, path, last, |memory, fd, path| {
            self.wasi
                .path_open(memory, fd, follow, path, how, base, inheriting, flags)
        });
        match opened {
            Ok(opened) => {
                self.note_unseekable(opened, entry)?;
                Ok(opened)
            }
            Err((errno, fd, path)) if changes => Err(self.explain(errno, &[(fd, &path)]).await),
            Err((errno, ..)) => Err(errno.into()),
        }
    }

    async fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        follow: Lookupflags,
        path: Path,
    ) -> Result<Filestat, Error> {
        // A slash at the end asks for what a link leads to, which wasmtime-wasi overlooks.
        let follow = if memory.as_cow_str(path)?.ends_with('/') {
            follow | Lookupflags::SYMLINK_FOLLOW
        } else {
            follow
        };
        let last = Last::follow(follow.contains(Lookupflags::SYMLINK_FOLLOW));
        ask!(self, memory, fd, path, last, |memory, fd, path| {
            self.wasi.path_filestat_get(memory, fd, follow, path)
        })
        .map_err(|(errno, ..)| errno.into())
    }

    async fn path_readlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: Path,
        buffer: Bytes,
        len: Size,
    ) -> Result<Size, Error> {
        let place = self.named(memory, fd, path).await?;
        let target = self.preopens.readlink(place).await;
        let target = target.map_err(cause::code).map_err(Errno::from)?;
        // As much of it as there is room for.
        let read = length(target.len()).min(len);
        let target = target.as_bytes().iter().take(read as usize);
        let target: Vec<u8> = target.copied().collect();
        memory.copy_from_slice(&target, buffer.as_array(read))?;
        Ok(read)
    }

    async fn path_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        follow: Lookupflags,
        path: Path,
        atim: Timestamp,
        mtim: Timestamp,
        flags: Fstflags,
    ) -> Result<(), Error> {
        let last = Last::follow(follow.contains(Lookupflags::SYMLINK_FOLLOW));
        change!(self, memory, fd, path, last, |memory, fd, path| {
            self.wasi
                .path_filestat_set_times(memory, fd, follow, path, atim, mtim, flags)
        })
    }

    async fn path_create_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: Path,
    ) -> Result<(), Error> {
        change!(self, memory, fd, path, Last::Name, |memory, fd, path| {
            self.wasi.path_create_directory(memory, fd, path)
        })
    }

    async fn path_remove_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: Path,
    ) -> Result<(), Error> {
        let kept = super::without_slash(&memory.as_cow_str(path)?).len();
        let path = Path::new((path.offset().0, length(kept)));
        change!(self, memory, fd, path, Last::Name, |memory, fd, path| {
            self.wasi.path_remove_directory(memory, fd, path)
        })
    }

    async fn path_unlink_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: Path,
    ) -> Result<(), Error> {
        change!(self, memory, fd, path, Last::Name, |memory, fd, path| {
            self.wasi.path_unlink_file(memory, fd, path)
        })
    }

    async fn path_symlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        target: Path,
        fd: Fd,
        path: Path,
    ) -> Result<(), Error> {
        if target.len() > PATH_MAX {
            return Err(Errno::Nametoolong.into());
        }
        let target = memory.as_cow_str(target)?.into_owned();
        let place = self.named(memory, fd, path).await?;
        let made = self.preopens.symlink(target, place).await;
        made.map_err(|errno| Errno::from(cause::code(errno)).into())
    }

    async fn path_link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        from: Fd,
        follow: Lookupflags,
        old: Path,
        to: Fd,
        new: Path,
    ) -> Result<(), Error> {
        change_both!(self, memory, (from, old), (to, new), |memory, old, new| {
            self.wasi
                .path_link(memory, old.0, follow, old.1, new.0, new.1)
        })
    }

    async fn path_rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        from: Fd,
        old: Path,
        to: Fd,
        new: Path,
    ) -> Result<(), Error> {
        change_both!(self, memory, (from, old), (to, new), |memory, old, new| {
            self.wasi.path_rename(memory, old.0, old.1, new.0, new.1)
        })
    }
}
