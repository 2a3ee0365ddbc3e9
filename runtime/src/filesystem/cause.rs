//! Why an operation failed that wasmtime-wasi calls an I/O error: the numbers it has no name for are
//! those of a read-only file system and of two places on different mounts (`EROFS`, `EXDEV`).
//!
//! The number is lost, so the places are looked at afterwards.

use std::fs::File;

use rustix::fs::{AtFlags, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p3::bindings::filesystem::types::ErrorCode as ErrorCode03;

use super::{Place, look, split};

/// What wasmtime-wasi has no name for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    CrossDevice,
    ReadOnly,
}

impl From<Cause> for ErrorCode {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::CrossDevice => Self::CrossDevice,
            Cause::ReadOnly => Self::ReadOnly,
        }
    }
}

impl From<Cause> for ErrorCode03 {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::CrossDevice => Self::CrossDevice,
            Cause::ReadOnly => Self::ReadOnly,
        }
    }
}

/// Why what is at `places`, all of it, could not be changed; `None` if it is not for where they are.
pub(super) async fn of(places: Vec<Place>) -> Option<Cause> {
    let looked = spawn_blocking(move || {
        let mounts: Vec<u64> = places.iter().filter_map(mount).collect();
        if mounts.windows(2).any(|pair| pair[0] != pair[1]) {
            return Some(Cause::CrossDevice);
        }
        let readonly = places.iter().any(is_readonly);
        readonly.then_some(Cause::ReadOnly)
    });
    looked.await.ok().flatten()
}

/// What WASI calls an error of the kernel.
pub(super) fn code(errno: Errno) -> ErrorCode {
    match errno {
        Errno::ROFS => ErrorCode::ReadOnly,
        // Out of the directory, says `openat2`.
        Errno::XDEV => ErrorCode::NotPermitted,
        errno => std::io::Error::from(errno).into(),
    }
}

/// The same for WASI 0.3.
pub(super) fn code_0_3(errno: Errno) -> ErrorCode03 {
    match errno {
        Errno::ROFS => ErrorCode03::ReadOnly,
        Errno::XDEV => ErrorCode03::NotPermitted,
        errno => std::io::Error::from(errno).into(),
    }
}

fn is_readonly(place: &Place) -> bool {
    let on_readonly = |file: File| {
        rustix::fs::fstatvfs(file)
            .is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    // A file may have a mount of its own.
    let (object, empty) = (OFlags::empty(), ResolveFlags::empty());
    look(&place.directory, &place.path, object, empty).is_ok_and(on_readonly)
        || parent(place).is_some_and(on_readonly)
}

/// The mount that the parent directory of a place is on.
fn mount(place: &Place) -> Option<u64> {
    let stat = rustix::fs::statx(parent(place)?, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
    stat.ok().map(|stat| stat.stx_mnt_id)
}

fn parent(place: &Place) -> Option<File> {
    let (parent, _) = split(&place.path);
    look(
        &place.directory,
        parent,
        OFlags::DIRECTORY,
        ResolveFlags::empty(),
    )
    .ok()
}
