//! A guest and the other side of its pipes, each doing anything in any order: no byte is lost, made up or
//! out of order, and each side hears of the other's end.

#![no_main]
#![allow(
    unsafe_code,
    reason = "`target!` makes the function that libFuzzer calls"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what must not fail and does is a finding"
)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use arbitrary::Arbitrary;
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use wasi_runtime::{Input, Output};
use wasmtime_wasi::cli::{StdinStream, StdoutStream};
use wasmtime_wasi::p2::StreamError;

/// What may wait for a slow reader, in bytes.
const MAX_PENDING: usize = 64 << 10;
/// The most one read takes, in bytes.
const MAX_READ: usize = 64 << 10;

#[derive(Arbitrary, Debug)]
enum Step {
    /// The guest asks how much it may write, and writes as much of this as it may.
    Write(u32),
    /// The reader takes so many bytes.
    Take(u16),
    /// The reader goes away.
    Leave,
    /// Somebody writes to stdin.
    Feed(u16),
    /// The guest reads.
    Read(u32),
    /// Stdin ends.
    End,
}

/// The bytes of a stream, of which no two within 251 are alike.
fn stream(from: usize, length: usize) -> Vec<u8> {
    let bytes = from..from + length;
    bytes
        .map(|index| u8::try_from(index % 251).unwrap())
        .collect()
}

fn pipe() -> (std::fs::File, std::fs::File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

fn unblock(file: &std::fs::File) {
    let flags = rustix::fs::fcntl_getfl(file).unwrap();
    rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK).unwrap();
}

wasi_fuzz::target!(|steps: Vec<Step>| {
    let mut written = Written::new();
    let mut read = Fed::new();
    for step in steps {
        match step {
            Step::Write(length) => {
                written.write(usize::try_from(length).unwrap() % (3 * MAX_PENDING));
            }
            Step::Take(length) => written.take(length.into()),
            Step::Leave => written.reader = None,
            Step::Feed(length) => read.feed(length.into()),
            Step::Read(length) => read.read(usize::try_from(length).unwrap()),
            Step::End => read.writer = None,
        }
    }
    written.finish();
    read.finish();
});

/// A guest's stdout.
struct Written {
    stream: Box<dyn wasmtime_wasi::p2::OutputStream>,
    reader: Option<std::fs::File>,
    /// What the guest wrote, and what of it was read, in bytes.
    wrote: usize,
    taken: usize,
    closed: bool,
}

impl Written {
    fn new() -> Self {
        let (reader, writer) = pipe();
        unblock(&reader);
        Self {
            stream: Output::from_fd(OwnedFd::from(writer)).unwrap().p2_stream(),
            reader: Some(reader),
            wrote: 0,
            taken: 0,
            closed: false,
        }
    }

    fn write(&mut self, length: usize) {
        match self.stream.check_write() {
            Ok(permit) => {
                assert!(!self.closed, "who is gone comes back");
                assert!(permit <= MAX_PENDING);
                let length = length.min(permit);
                let bytes = stream(self.wrote, length);
                self.stream.write(bytes.into()).unwrap();
                self.wrote += length;
            }
            Err(StreamError::Closed) => {
                assert!(self.reader.is_none(), "the reader is there");
                self.closed = true;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn take(&mut self, most: usize) {
        let Some(reader) = &mut self.reader else {
            return;
        };
        let mut bytes = vec![0; most];
        match reader.read(&mut bytes) {
            Ok(count) => {
                assert!(bytes[..count] == stream(self.taken, count), "other bytes");
                self.taken += count;
                assert!(self.taken <= self.wrote);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    /// All that the guest wrote arrives, if somebody reads; if not, the guest hears of it.
    fn finish(mut self) {
        while self.reader.is_some() && self.taken < self.wrote {
            // What the pipe has no room for moves on when the guest, or its end, looks again.
            self.write(0);
            let before = self.taken;
            self.take(MAX_PENDING);
            assert!(
                self.taken > before,
                "it is neither in the pipe nor on its way"
            );
        }
        if self.reader.is_none() {
            // What is lost is told by the write after it.
            self.write(1);
            self.write(1);
            assert!(self.closed || self.wrote == 0);
        }
    }
}

/// A guest's stdin.
struct Fed {
    stream: Box<dyn wasmtime_wasi::p2::InputStream>,
    writer: Option<std::fs::File>,
    fed: usize,
    read: usize,
}

impl Fed {
    fn new() -> Self {
        let (reader, writer) = pipe();
        unblock(&writer);
        Self {
            stream: Input::from_fd(OwnedFd::from(reader)).unwrap().p2_stream(),
            writer: Some(writer),
            fed: 0,
            read: 0,
        }
    }

    fn feed(&mut self, length: usize) {
        if let Some(writer) = &mut self.writer {
            match writer.write(&stream(self.fed, length)) {
                Ok(count) => self.fed += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    fn read(&mut self, size: usize) {
        match self.stream.read(size) {
            Ok(bytes) => {
                assert!(bytes.len() <= size.min(MAX_READ));
                assert!(bytes == stream(self.read, bytes.len()), "other bytes");
                self.read += bytes.len();
                assert!(self.read <= self.fed);
                let nothing = size == 0 || (self.read == self.fed && self.writer.is_some());
                assert!(!bytes.is_empty() || nothing, "it is there and not read");
            }
            Err(StreamError::Closed) => {
                assert!(self.writer.is_none() && self.read == self.fed);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn finish(mut self) {
        self.writer = None;
        while self.read < self.fed {
            self.read(MAX_READ);
        }
        assert!(matches!(self.stream.read(1), Err(StreamError::Closed)));
    }
}
