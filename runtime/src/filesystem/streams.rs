//! Files without positions for WASI 0.1: which of a guest's descriptors they are, and how they are read
//! and written.
//!
//! wasmtime-wasi keeps to itself which file a descriptor is. But the table gives out its free entries
//! before it grows, the last one freed first; so the entry of a file is known before it is opened
//! ([`super::next_entry`]).

use wasmtime::component::Resource;
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p1::types::{CiovecArray, Errno, Error, Fd, Fdflags, IovecArray, Size};
use wasmtime_wasi::p1::wasi_snapshot_preview1::WasiSnapshotPreview1 as _;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wiggle::{GuestMemory, GuestPtr};

use super::descriptors::length;
use super::unseekable::{self, Unseekable};
use crate::host::Host;

/// The most that one call writes, in bytes. WASI lets a call write less than it was asked to.
const PIECE: u32 = 64 << 10;

/// What the guest is told of an error of the kernel.
fn told(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::WouldBlock {
        return Errno::Again.into();
    }
    Errno::from(ErrorCode::from(error)).into()
}

impl Host {
    /// Remembers a file that was opened into `entry` of the table, if it has no positions.
    pub(super) fn note_unseekable(&mut self, fd: Fd, entry: u32) -> Result<(), Error> {
        // Nobody else's: a number that was closed is not in the list any more.
        let opened: Resource<Descriptor> = Resource::new_borrow(entry);
        let file = match self.wasi.ctx().table.get(&opened) {
            Ok(Descriptor::File(file)) if unseekable::is(&file.file) => file.file.clone(),
            Ok(Descriptor::File(_) | Descriptor::Dir(_)) | Err(_) => return Ok(()),
        };
        let file = Unseekable::new(&file).map_err(told)?;
        self.unseekable.insert(fd.into(), file);
        Ok(())
    }

    pub(super) async fn read_unseekable(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: IovecArray,
    ) -> Result<Size, Error> {
        let mut into = GuestPtr::<[u8]>::new((0, 0));
        for buffer in buffers.iter() {
            let buffer = memory.read(buffer?)?;
            if buffer.buf_len > 0 {
                into = buffer.buf.as_array(buffer.buf_len);
                break;
            }
        }
        let status = self.wasi.fd_fdstat_get(memory, fd).await?;
        let wait = !status.fs_flags.contains(Fdflags::NONBLOCK);
        let file = self.unseekable.get(&fd.into()).ok_or(Errno::Badf)?;
        if into.len() == 0 {
            return Ok(0);
        }
        let bytes = file.read(into.len() as usize, wait).await.map_err(told)?;
        let count = length(bytes.len());
        let into = into.get_range(0..count).ok_or(Errno::Fault)?;
        memory.copy_from_slice(&bytes, into)?;
        Ok(count)
    }

    pub(super) async fn write_unseekable(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffers: CiovecArray,
    ) -> Result<Size, Error> {
        let mut bytes = Vec::new();
        for buffer in buffers.iter() {
            let buffer = memory.read(buffer?)?;
            let room = PIECE - length(bytes.len());
            let from = buffer.buf.as_array(buffer.buf_len.min(room));
            bytes.extend_from_slice(&memory.as_cow(from)?);
            if length(bytes.len()) == PIECE {
                break;
            }
        }
        let file = self.unseekable.get(&fd.into()).ok_or(Errno::Badf)?;
        Ok(length(file.write(&bytes).await.map_err(told)?))
    }
}
