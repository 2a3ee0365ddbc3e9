//! The async side of standard streams, which WASI 0.3 and a splice between descriptors use.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;

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
