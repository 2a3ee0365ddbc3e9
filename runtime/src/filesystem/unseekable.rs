//! Files without positions: FIFOs, terminals, some devices.
//!
//! WASI's files are read and written at positions, which the kernel refuses for these (`ESPIPE`), and so
//! does wasmtime-wasi. Here they are what standard streams are: descriptors that do not block, which the
//! guest's own thread waits for, so that a guest that waits can be killed and costs nothing. Each was
//! opened by the guest, so its open file description is nobody else's.
//!
//! To open a FIFO still waits for the other side, on a thread of the pool, as in any process.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::{Input, Output};

/// The most that one call reads, in bytes: what a pipe holds.
const PIECE: usize = 64 << 10;

/// Whether a file has no positions.
pub(super) fn is(file: &File) -> bool {
    rustix::fs::seek(file, SeekFrom::Current(0)) == Err(Errno::SPIPE)
}

/// What reads such a file.
pub(super) fn input(file: &File) -> io::Result<Input> {
    Input::from_fd(file.try_clone()?.into()).map_err(io::Error::other)
}

/// What writes such a file.
pub(super) fn output(file: &File) -> io::Result<Output> {
    Output::from_fd(file.try_clone()?.into()).map_err(io::Error::other)
}

/// One that a guest has open and reads and writes call by call.
pub(crate) struct Unseekable {
    file: File,
    input: Input,
    output: Output,
}

impl Unseekable {
    pub(super) fn new(file: &File) -> io::Result<Self> {
        Ok(Self {
            file: file.try_clone()?,
            input: input(file)?,
            output: output(file)?,
        })
    }

    /// Waits until there is something, and reads at most `size` bytes of it; nothing at the end. One that is
    /// not to `wait` fails with `EAGAIN`.
    pub(super) async fn read(&self, size: usize, wait: bool) -> io::Result<Bytes> {
        self.may(OFlags::WRONLY)?;
        let mut buffer = vec![0; size.min(PIECE)];
        let mut input = self.input.clone();
        let read = poll_fn(|cx| {
            let mut into = ReadBuf::new(&mut buffer);
            let polled = Pin::new(&mut input).poll_read(cx, &mut into);
            let polled = polled.map_ok(|()| into.filled().len());
            if polled.is_pending() && !wait {
                return Err(Errno::AGAIN.into()).into();
            }
            polled
        });
        let count = read.await?;
        buffer.truncate(count);
        Ok(buffer.into())
    }

    /// Waits until some of `bytes` are written: how many.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.may(OFlags::RDONLY)?;
        let mut output = self.output.clone();
        let count = poll_fn(|cx| Pin::new(&mut output).poll_write(cx, bytes)).await?;
        poll_fn(|cx| Pin::new(&mut output).poll_flush(cx)).await?;
        Ok(count)
    }

    /// Refuses what the file was not opened for.
    fn may(&self, refused: OFlags) -> io::Result<()> {
        let mode = rustix::fs::fcntl_getfl(&self.file)? & OFlags::RWMODE;
        if mode == refused {
            return Err(Errno::BADF.into());
        }
        Ok(())
    }
}
