//! A guest's standard streams: raw descriptors, without a thread or a copy between guest and pipe.
//!
//! A descriptor is polled by the guest's own thread. Reads take what is there and nothing ahead of
//! the guest, so that the next reader of the same pipe finds the rest. Writes go straight to the
//! descriptor; what a full pipe does not take yet is kept ([`Sink`]) until it does, so a guest that
//! blocks in a write waits for its reader, and nothing is lost when it exits: [`Sink::drain`] runs
//! before the outcome is known. Regular files never block and are not polled (`epoll` refuses them).

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::Error;

/// The most one read takes, in bytes: the size of a pipe. The guest names the size, the host
/// allocates it.
const MAX_READ: usize = 64 << 10;
/// The most that waits for a slow reader, in bytes, before the guest itself has to wait.
const MAX_PENDING: usize = 64 << 10;

/// Where a guest's stdin comes from. The default is closed: end of file at once.
#[derive(Debug, Default, Clone)]
pub struct Input(Option<Arc<Endpoint>>);

/// Where a guest's stdout or stderr goes. The default discards.
#[derive(Debug, Default, Clone)]
pub struct Output(Option<Arc<Sink>>);

impl Input {
    /// Reads from `fd`, whose open file description must be the guest's alone: it is made
    /// non-blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Descriptor`] when `fd` cannot be made non-blocking.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        Endpoint::new(fd, "stdin").map(|endpoint| Self(Some(Arc::new(endpoint))))
    }
}

impl Output {
    /// Writes to `fd`, whose open file description must be the guest's alone: it is made
    /// non-blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Descriptor`] when `fd` cannot be made non-blocking.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        Endpoint::new(fd, "stdout or stderr").map(|endpoint| {
            Self(Some(Arc::new(Sink {
                endpoint,
                state: Mutex::default(),
            })))
        })
    }

    /// Appends `bytes` after all that the guest wrote, and waits until everything is out.
    ///
    /// A reader that went away is no error: nobody is left to read it.
    pub(crate) async fn finish(&self, bytes: &[u8]) {
        if let Some(sink) = &self.0 {
            sink.push(bytes);
            sink.drain().await;
        }
    }
}

/// A descriptor, and its place in the epoll of the runtime that polls the guest.
#[derive(Debug)]
struct Endpoint {
    fd: Arc<OwnedFd>,
    /// `None` inside: a regular file, always ready. Registered at first use, by the guest's thread.
    registration: OnceLock<Option<AsyncFd<Arc<OwnedFd>>>>,
}

impl Endpoint {
    fn new(fd: OwnedFd, what: &str) -> Result<Self, Error> {
        rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
            .map_err(|error| Error::Descriptor {
                what: what.to_owned(),
                source: error.into(),
            })?;
        Ok(Self {
            fd: Arc::new(fd),
            registration: OnceLock::new(),
        })
    }

    #[allow(
        unsafe_code,
        reason = "tokio offers no safe way to poll any descriptor"
    )]
    fn registered(&self) -> Option<&AsyncFd<Arc<OwnedFd>>> {
        self.registration
            .get_or_init(|| {
                // SAFETY: `register` wants the number of the descriptor to stay open and the same
                // until the registration is dropped. The registration holds its own `Arc` of the
                // `OwnedFd`, whose `as_raw_fd` is constant, and nobody can take it out.
                let registration = unsafe { AsyncFd::register(Arc::clone(&self.fd)) };
                registration.ok()
            })
            .as_ref()
    }

    /// Waits until a read or write would do something, which `epoll`'s cached word alone does not say.
    async fn ready(&self, interest: Interest) {
        let events = if interest.is_readable() {
            PollFlags::IN
        } else {
            PollFlags::OUT
        };
        let Some(registration) = self.registered() else {
            return;
        };
        while !self.is_ready_now(events) {
            // An error is the runtime shutting down; the guest's next call will find it out.
            let Ok(mut guard) = registration.ready(interest).await else {
                return;
            };
            if !self.is_ready_now(events) {
                guard.clear_ready();
            }
        }
    }

    fn is_ready_now(&self, events: PollFlags) -> bool {
        let mut poll = [PollFd::new(&*self.fd, events)];
        // Hang-ups and errors are reported unasked; a failing poll(2) is left to the read or write.
        rustix::event::poll(&mut poll, Some(&rustix::event::Timespec::default()))
            .map_or(true, |count| count > 0)
    }

    /// Reads what is there: `None` when nothing is, empty at the end of the stream.
    fn read(&self, size: usize) -> io::Result<Option<Bytes>> {
        let mut buffer = BytesMut::zeroed(size.min(MAX_READ));
        match rustix::io::read(&*self.fd, &mut buffer[..]) {
            Ok(count) => {
                buffer.truncate(count);
                Ok(Some(buffer.freeze()))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // A terminal whose other side was closed.
            Err(Errno::IO) => Ok(Some(Bytes::new())),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what the other side takes now: `None` when it takes nothing.
    fn write(&self, bytes: &[u8]) -> Result<Option<usize>, Errno> {
        match rustix::io::write(&*self.fd, bytes) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What the guest wrote to one descriptor and the descriptor did not take yet.
#[derive(Debug)]
struct Sink {
    endpoint: Endpoint,
    state: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: BytesMut,
    /// The reader is gone, or the disk is full: the guest hears of it at its next write.
    failed: Option<Errno>,
}

impl Sink {
    /// The bytes are whole after every statement that holds the lock, so a panic elsewhere leaves
    /// nothing torn.
    fn state(&self) -> MutexGuard<'_, Pending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, bytes: &[u8]) {
        let mut pending = self.state();
        if pending.failed.is_none() {
            pending.bytes.extend_from_slice(bytes);
        }
        drop(pending);
        self.advance();
    }

    /// Writes as much as the other side takes; whether all is out.
    fn advance(&self) -> bool {
        let mut pending = self.state();
        while pending.failed.is_none() && !pending.bytes.is_empty() {
            match self.endpoint.write(&pending.bytes) {
                Ok(Some(count)) => pending.bytes.advance(count),
                Ok(None) => return false,
                Err(error) => {
                    // The guest is told that they are lost; what it writes next may go.
                    pending.bytes.clear();
                    pending.failed = Some(error);
                }
            }
        }
        true
    }

    async fn drain(&self) {
        while !self.advance() {
            self.endpoint.ready(Interest::WRITABLE).await;
        }
    }

    /// What went wrong since the guest was told last. A reader that is gone stays gone.
    fn failure(&self) -> Option<Errno> {
        let mut pending = self.state();
        match pending.failed {
            Some(Errno::PIPE) | None => pending.failed,
            Some(_) => pending.failed.take(),
        }
    }

    /// How many bytes the guest may write now without waiting.
    fn permit(&self) -> StreamResult<usize> {
        self.advance();
        match self.failure() {
            None => Ok(MAX_PENDING.saturating_sub(self.state().bytes.len())),
            Some(Errno::PIPE) => Err(StreamError::Closed),
            Some(error) => Err(StreamError::LastOperationFailed(
                io::Error::from(error).into(),
            )),
        }
    }
}

fn is_terminal(endpoint: &Endpoint) -> bool {
    rustix::termios::isatty(&*endpoint.fd)
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|endpoint| is_terminal(endpoint))
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|sink| is_terminal(&sink.endpoint))
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        if let Some(endpoint) = &self.0 {
            endpoint.ready(Interest::READABLE).await;
        }
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let Some(endpoint) = &self.0 else {
            return Err(StreamError::Closed);
        };
        if size == 0 {
            return Ok(Bytes::new());
        }
        match endpoint.read(size) {
            Ok(Some(bytes)) if bytes.is_empty() => Err(StreamError::Closed),
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Ok(Bytes::new()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        if let Some(sink) = &self.0 {
            sink.drain().await;
        }
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if let Some(sink) = &self.0 {
            sink.push(&bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match &self.0 {
            Some(sink) => sink.permit(),
            None => Ok(MAX_PENDING),
        }
    }
}

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
