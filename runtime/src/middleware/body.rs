//! Bodies: what is held of one, and what is still to come.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use wasmtime_wasi_http::Error;

use crate::Budget;

/// A body that the guest wanted more of to be held than may be.
#[derive(Debug, thiserror::Error)]
#[error("a body is longer than the {limit} bytes that are held of it (http-buffer-bytes)")]
pub(super) struct TooLong {
    limit: usize,
}

/// Bytes of a body, of the memory of a budget.
pub(super) struct Held {
    bytes: BytesMut,
    limit: usize,
    budget: Budget,
    taken: u64,
}

impl Held {
    pub(super) fn new(limit: usize, budget: Budget) -> Self {
        Self {
            bytes: BytesMut::new(),
            limit,
            budget,
            taken: 0,
        }
    }

    pub(super) fn push(&mut self, more: &[u8]) -> wasmtime::Result<()> {
        if more.len() > self.limit.saturating_sub(self.bytes.len()) {
            return Err(TooLong { limit: self.limit }.into());
        }
        self.budget.take(more.len() as u64)?;
        self.taken += more.len() as u64;
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// Has no more of the first `count`.
    fn forget(&mut self, count: usize) {
        self.bytes.advance(count);
        self.budget.give_back(count as u64);
        self.taken -= count as u64;
    }

    fn copy(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}

/// The body of a request or an answer, as the guest sees it.
pub(super) struct Content {
    held: Held,
    /// How much of what is held the guest has read.
    read: usize,
    rest: Option<Incoming>,
    /// What the guest has written in its place.
    written: Option<Held>,
    pub(super) trailers: HeaderMap,
}

impl Content {
    pub(super) fn new(limit: usize, budget: Budget, rest: Option<Incoming>) -> Self {
        Self {
            held: Held::new(limit, budget),
            read: 0,
            rest,
            written: None,
            trailers: HeaderMap::new(),
        }
    }

    /// Holds one frame more. Whether there was one.
    async fn more(&mut self) -> wasmtime::Result<bool> {
        let Some(rest) = &mut self.rest else {
            return Ok(false);
        };
        match rest.frame().await {
            None => self.rest = None,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.held.push(&data)?,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.trailers = trailers;
                    }
                }
            },
            Some(Err(error)) => {
                return Err(wasmtime::Error::new(error).context("the body broke off"));
            }
        }
        Ok(true)
    }

    /// Holds all of it.
    pub(super) async fn fill(&mut self) -> wasmtime::Result<()> {
        while self.more().await? {}
        Ok(())
    }

    /// At most `want` bytes, fewer only at the end; and whether that was the end. What is not to be `kept` is gone then.
    pub(super) async fn read(
        &mut self,
        want: usize,
        kept: bool,
    ) -> wasmtime::Result<(Bytes, bool)> {
        let want = want.min(self.held.limit);
        while self.held.bytes.len() - self.read < want && self.more().await? {}
        let end = self.held.bytes.len().min(self.read.saturating_add(want));
        let bytes = Bytes::copy_from_slice(&self.held.bytes[self.read..end]);
        if kept {
            self.read = end;
        } else {
            self.held.forget(end);
            self.read = 0;
        }
        let over = self.read == self.held.bytes.len()
            && self.rest.as_ref().is_none_or(Body::is_end_stream);
        Ok((bytes, over))
    }

    /// The first time in place of all there is, then after what was written.
    pub(super) fn write(&mut self, more: &[u8]) -> wasmtime::Result<()> {
        let (limit, budget) = (self.held.limit, &self.held.budget);
        let written = &mut self.written;
        written
            .get_or_insert_with(|| Held::new(limit, budget.clone()))
            .push(more)
    }

    /// What goes on to the next. The guest can read again what was held of it.
    pub(super) fn pass(&mut self) -> Joined {
        if let Some(written) = self.written.take() {
            self.held = written;
            self.rest = None;
        }
        self.read = 0;
        let trailers = std::mem::take(&mut self.trailers);
        Joined {
            first: Some(self.held.copy()).filter(|first| !first.is_empty()),
            rest: self.rest.take(),
            trailers: Some(trailers).filter(|trailers| !trailers.is_empty()),
        }
    }
}

/// What was held of a body, what comes after that, and trailers in place of those that may come.
#[derive(Default)]
pub(crate) struct Joined {
    pub(super) first: Option<Bytes>,
    rest: Option<Incoming>,
    trailers: Option<HeaderMap>,
}

impl Joined {
    /// The same once more, if nothing is to come that can come once only.
    pub(super) fn again(&self) -> Option<Self> {
        let over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        over.then(|| Self {
            first: self.first.clone(),
            rest: None,
            trailers: self.trailers.clone(),
        })
    }

    /// Those that are known before the body is sent.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl Body for Joined {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(rest) = &mut self.rest {
            let polled = Pin::new(rest).poll_frame(cx);
            let replaced = match &polled {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers() && self.trailers.is_some(),
                Poll::Ready(None) => true,
                Poll::Ready(Some(Err(_))) | Poll::Pending => false,
            };
            if !replaced {
                return polled;
            }
            self.rest = None;
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            // With a length there would be no place for them.
            return SizeHint::default();
        }
        let rest = self.rest.as_ref().map(Body::size_hint).unwrap_or_default();
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match (&self.rest, rest.exact()) {
            (None, _) => SizeHint::with_exact(first),
            (Some(_), Some(rest)) => SizeHint::with_exact(first.saturating_add(rest)),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

pub(super) type Sender = mpsc::Sender<Result<Frame<Bytes>, Error>>;

/// The body of an answer, as it is pumped.
pub(super) struct Passed {
    frames: mpsc::Receiver<Result<Frame<Bytes>, Error>>,
    hint: SizeHint,
    empty: bool,
}

impl Passed {
    pub(super) fn new(body: &Joined) -> (Self, Sender) {
        let (sender, frames) = mpsc::channel(1);
        let passed = Self {
            frames,
            hint: body.size_hint(),
            empty: body.is_end_stream(),
        };
        (passed, sender)
    }
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.frames.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.empty
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Moves a body to the client. Whether all of it has gone: a client that has gone itself is not made to wait for
/// what is still to come.
pub(super) async fn pump(mut body: Joined, client: &Sender) -> bool {
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            // Its end may have come with the body's.
            () = client.closed(), if !body.is_end_stream() => return false,
        };
        let Some(frame) = frame else {
            return true;
        };
        let broken = frame.is_err();
        if client.send(frame.map_err(Error::from)).await.is_err() || broken {
            return false;
        }
    }
}
