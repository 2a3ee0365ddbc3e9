//! Standard streams as tokio has them, for the worlds that ask for these.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::PollFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Input, MAX_PENDING, Output};

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(endpoint) = &self.0 else {
            return Poll::Ready(Ok(()));
        };
        loop {
            if let Some(bytes) = endpoint.read(buffer.remaining())? {
                buffer.put_slice(&bytes);
                return Poll::Ready(Ok(()));
            }
            if let Some(registration) = endpoint.registered() {
                let mut guard = ready!(registration.poll_read_ready(cx))?;
                if !endpoint.is_ready_now(PollFlags::IN) {
                    guard.clear_ready();
                }
            }
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(sink) = &self.0 else {
            return Poll::Ready(Ok(bytes.len()));
        };
        ready!(Pin::new(&mut self.clone()).poll_flush(cx))?;
        let taken = bytes.len().min(MAX_PENDING);
        sink.push(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(sink) = &self.0 else {
            return Poll::Ready(Ok(()));
        };
        while !sink.advance() {
            if let Some(registration) = sink.endpoint.registered() {
                let mut guard = ready!(registration.poll_write_ready(cx))?;
                if !sink.endpoint.is_ready_now(PollFlags::OUT) {
                    guard.clear_ready();
                }
            }
        }
        // Whoever waits until all is out is to know that it is not.
        Poll::Ready(sink.failure().map_or(Ok(()), |error| Err(error.into())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
