//! The async side of standard streams, which WASI 0.3 and a splice between descriptors use.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use wasi_runtime::{Input, Output};
use wasmtime_wasi::cli::{StdinStream, StdoutStream};

use crate::fixture::{pipe, runtime};

fn reader(fd: impl Into<OwnedFd>) -> Pin<Box<dyn AsyncRead + Send + Sync>> {
    Input::from_fd(fd.into()).unwrap().async_stream().into()
}

fn writer(fd: impl Into<OwnedFd>) -> Pin<Box<dyn AsyncWrite + Send + Sync>> {
    Output::from_fd(fd.into()).unwrap().async_stream().into()
}

#[test]
fn a_read_waits_and_takes_nothing_ahead() {
    runtime().block_on(async {
        let (theirs, ours) = pipe();
        let mut kept = File::from(theirs.try_clone().unwrap());
        let mut stream = reader(theirs);
        let mut ours = File::from(ours);
        let mut buffer = [0; 4];
        let (read, ()) = tokio::join!(stream.read_exact(&mut buffer), async {
            ours.write_all(b"mine yours").unwrap();
        });
        read.unwrap();
        assert_eq!(&buffer, b"mine");
        drop(ours);
        let mut rest = String::new();
        kept.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, " yours");
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    });
}

#[test]
fn more_than_a_pipe_holds_waits_for_its_reader() {
    let (ours, theirs) = pipe();
    let back = std::thread::spawn(move || {
        let mut all = Vec::new();
        File::from(ours).read_to_end(&mut all).unwrap();
        all
    });
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    runtime().block_on(async {
        let mut stream = writer(theirs);
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    assert!(back.join().unwrap() == bytes);
}

#[test]
fn a_reader_that_went_away_is_an_error() {
    let (ours, theirs) = pipe();
    drop(ours);
    runtime().block_on(async {
        let mut stream = writer(theirs);
        let written = async {
            stream.write_all(b"to nobody").await?;
            stream.write_all(b"to nobody").await
        };
        let error = written.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

/// That all was written is what a flush says, so it says when it was not: of a reader that is gone for ever.
#[test]
fn a_flush_tells_that_the_reader_has_gone() {
    let (ours, theirs) = pipe();
    drop(ours);
    runtime().block_on(async {
        let mut stream = writer(theirs);
        stream.flush().await.unwrap();
        assert_eq!(stream.write(b"to nobody").await.unwrap(), 9);
        for _ in 0..2 {
            let error = stream.flush().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        let error = stream.shutdown().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_flush_that_waits_ends_with_its_reader() {
    let (ours, theirs) = pipe();
    runtime().block_on(async {
        let mut stream = writer(theirs);
        let full = vec![b'x'; 1 << 20];
        let mut taken = 0;
        // As much as the pipe holds, and what is held for it.
        while let Some(Ok(count)) = stream.write(&full[taken..]).now_or_never() {
            taken += count;
        }
        let mut flush = std::pin::pin!(stream.flush());
        assert!(flush.as_mut().now_or_never().is_none());
        drop(ours);
        let error = flush.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

/// A disk that is full may have room again: what is written next may go.
#[test]
fn a_flush_tells_once_that_the_disk_was_full() {
    runtime().block_on(async {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let mut stream = writer(full.unwrap());
        assert_eq!(stream.write(b"text").await.unwrap(), 4);
        let error = stream.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        stream.flush().await.unwrap();
    });
}

#[test]
fn a_regular_file_is_read_and_written() {
    runtime().block_on(async {
        let mut file = tempfile::tempfile().unwrap();
        let mut stream = writer(file.try_clone().unwrap());
        stream.write_all(b"text").await.unwrap();
        stream.flush().await.unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        reader(file).read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "text");
    });
}

#[test]
fn by_default_stdin_has_ended_and_output_is_discarded() {
    runtime().block_on(async {
        let mut stdin = Box::into_pin(Input::default().async_stream());
        assert_eq!(stdin.read(&mut [0]).await.unwrap(), 0);
        let mut stdout = Box::into_pin(Output::default().async_stream());
        stdout.write_all(&[0; 100_000]).await.unwrap();
        stdout.flush().await.unwrap();
    });
}
