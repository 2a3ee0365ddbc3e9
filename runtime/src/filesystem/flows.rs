//! Files without positions for WASI 0.3: what fills a guest's stream from one, and what empties a guest's
//! stream into one.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Destination, FutureReader, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult,
};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::p3::bindings::filesystem::types::ErrorCode;

use super::asynchronous::{HasFiles, Streamed};
use super::unseekable;
use crate::host::Host;
use crate::{Input, Output};

/// The most that is read for a guest that does not say how much it takes, in bytes.
const PIECE: usize = 64 << 10;

/// How a stream ended: told when it has.
struct End(Option<oneshot::Sender<Result<(), ErrorCode>>>);

impl End {
    fn new() -> (Self, oneshot::Receiver<Result<(), ErrorCode>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    fn tell(&mut self, ended: Result<(), ErrorCode>) {
        if let Some(sender) = self.0.take() {
            // A guest that has dropped the future does not want to know.
            drop(sender.send(ended));
        }
    }
}

/// A stream that is dropped has ended well.
impl Drop for End {
    fn drop(&mut self) {
        self.tell(Ok(()));
    }
}

/// Starts to read a file.
pub(super) fn read(
    store: &mut Access<'_, Host, HasFiles>,
    file: &File,
) -> wasmtime::Result<Streamed<u8>> {
    let input = unseekable::input(file)?;
    let (end, ended) = End::new();
    let stream = StreamReader::new(store.as_context_mut(), Reading { input, end })?;
    Ok((stream, FutureReader::new(store.as_context_mut(), ended)?))
}

/// Starts to write what comes to a file.
pub(super) fn write(
    store: &mut Access<'_, Host, HasFiles>,
    file: &File,
    data: StreamReader<u8>,
) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
    let output = unseekable::output(file)?;
    let (end, ended) = End::new();
    data.pipe(
        store.as_context_mut(),
        Writing {
            output,
            end,
            flushing: false,
        },
    )?;
    FutureReader::new(store.as_context_mut(), ended)
}

struct Reading {
    input: Input,
    end: End,
}

impl<D> StreamProducer<D> for Reading {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        into: Destination<'a, u8, BytesMut>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // To ask whether there is something is to be told to read.
        if into.remaining(store.as_context_mut()) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let mut into = into.as_direct(store, PIECE);
        let mut buffer = ReadBuf::new(into.remaining());
        match Pin::new(&mut self.input).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                Poll::Ready(Ok(StreamResult::Dropped))
            }
            Poll::Ready(Ok(())) => {
                let count = buffer.filled().len();
                into.mark_written(count);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Poll::Ready(Err(error)) => {
                self.end.tell(Err(error.into()));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}

struct Writing {
    output: Output,
    end: End,
    /// Whether what was taken is still on its way out.
    flushing: bool,
}

impl Writing {
    /// What was taken has to be out before it counts: the guest may drop its end next.
    fn flush(&mut self, cx: &mut Context<'_>, finish: bool) -> Poll<StreamResult> {
        match Pin::new(&mut self.output).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.flushing = false;
                Poll::Ready(StreamResult::Completed)
            }
            Poll::Ready(Err(error)) => Poll::Ready(self.fail(error)),
            Poll::Pending => {
                self.flushing = !finish;
                if finish {
                    return Poll::Ready(StreamResult::Cancelled);
                }
                Poll::Pending
            }
        }
    }

    fn fail(&mut self, error: io::Error) -> StreamResult {
        self.end.tell(Err(error.into()));
        StreamResult::Dropped
    }
}

impl<D> StreamConsumer<D> for Writing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        from: Source<'_, u8>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if self.flushing {
            return self.flush(cx, finish).map(Ok);
        }
        let mut from = from.as_direct(store);
        if from.remaining().is_empty() {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        match Pin::new(&mut self.output).poll_write(cx, from.remaining()) {
            Poll::Ready(Ok(count)) => {
                from.mark_read(count);
                self.flush(cx, finish).map(Ok)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Ok(self.fail(error))),
            Poll::Pending if finish => Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => Poll::Pending,
        }
    }
}
