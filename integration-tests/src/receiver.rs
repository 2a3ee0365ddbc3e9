//! The one service that containerd offers to shims: `Events.Forward`.
//!
//! Every forward is recorded in the order of arrival. The first ones can be made to fail or to hang, and the
//! whole service can go away and come back, as containerd's does when it is restarted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::{Events, create_events};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use ttrpc::{Code, Server, TtrpcContext, get_status};

const PATIENCE: Duration = Duration::from_secs(20);

/// One forwarded event.
#[derive(Clone, Debug)]
pub struct Forwarded {
    /// The full topic, as `/tasks/start`.
    pub topic: String,
    /// The namespace of the container.
    pub namespace: String,
    /// The event itself.
    pub event: Any,
}

impl Forwarded {
    /// The event as what it says it is.
    ///
    /// # Errors
    ///
    /// When it is another one.
    pub fn decode<M: Message>(&self) -> Result<M> {
        let name = self
            .event
            .type_url
            .rsplit(['.', '/'])
            .next()
            .unwrap_or_default();
        if name != M::NAME {
            bail!(
                "{} carries a {}, not a {}",
                self.topic,
                self.event.type_url,
                M::NAME
            );
        }
        M::parse_from_bytes(&self.event.value).with_context(|| format!("decode {name}"))
    }
}

#[derive(Debug, Default)]
struct Book {
    accepted: Vec<Forwarded>,
    refused: usize,
    refuse: usize,
    hang: usize,
    /// Grows when hanging forwards are to end; each waits for a change.
    release: usize,
}

#[derive(Debug, Default)]
struct Desk {
    book: Mutex<Book>,
    changed: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Service(Arc<Desk>);

impl Events for Service {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut book = self.0.lock();
        if book.hang > 0 {
            book.hang -= 1;
            let release = book.release;
            book = self
                .0
                .changed
                .wait_while(book, |book| book.release == release)
                .unwrap_or_else(PoisonError::into_inner);
            book.refused += 1;
            return Err(ttrpc::Error::RpcStatus(get_status(
                Code::UNAVAILABLE,
                "released",
            )));
        }
        if book.refuse > 0 {
            book.refuse -= 1;
            book.refused += 1;
            self.0.changed.notify_all();
            return Err(ttrpc::Error::RpcStatus(get_status(
                Code::UNAVAILABLE,
                "refused by the test",
            )));
        }
        let envelope = request.envelope.unwrap_or_default();
        book.accepted.push(Forwarded {
            topic: envelope.topic,
            namespace: envelope.namespace,
            event: envelope.event.unwrap_or_default(),
        });
        self.0.changed.notify_all();
        Ok(Empty::new())
    }
}

/// The receiving end of events.
pub struct Receiver {
    socket: PathBuf,
    desk: Arc<Desk>,
    server: Option<Server>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("socket", &self.socket)
            .field("desk", &self.desk)
            .finish_non_exhaustive()
    }
}

impl Receiver {
    /// Listens on `socket`.
    pub(crate) fn listen(socket: &Path) -> Result<Self> {
        let mut receiver = Self {
            socket: socket.to_path_buf(),
            desk: Arc::default(),
            server: None,
        };
        receiver.resume()?;
        Ok(receiver)
    }

    /// Lets the next `n` forwards fail; they are not recorded.
    pub fn refuse(&self, n: usize) {
        self.desk.lock().refuse = n;
    }

    /// Lets the next `n` forwards hang until [`Receiver::release`]; they are not recorded.
    pub fn hang(&self, n: usize) {
        self.desk.lock().hang = n;
    }

    /// Ends the hanging forwards, as failures.
    pub fn release(&self) {
        let mut book = self.desk.lock();
        book.hang = 0;
        book.release += 1;
        self.desk.changed.notify_all();
    }

    /// Goes away: connections break, and new ones are refused.
    pub fn stop(&mut self) {
        self.release();
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
        // What is not there needs no removing.
        std::fs::remove_file(&self.socket).ok();
    }

    /// Comes back, with everything recorded before.
    ///
    /// # Errors
    ///
    /// When the socket cannot be bound.
    pub fn resume(&mut self) -> Result<()> {
        let methods = create_events(Arc::new(Service(Arc::clone(&self.desk))));
        let address = format!("unix://{}", self.socket.display());
        let bound = Server::new()
            .bind(&address)
            .with_context(|| format!("bind {address}"))?;
        let mut server = bound.register_service(methods);
        server.start().context("serve Events")?;
        self.server = Some(server);
        Ok(())
    }

    /// What was accepted so far, in order.
    #[must_use]
    pub fn all(&self) -> Vec<Forwarded> {
        self.desk.lock().accepted.clone()
    }

    /// How many were refused, or hung and were released.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.desk.lock().refused
    }

    /// The accepted topics so far, in order, without `/tasks/`.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        let book = self.desk.lock();
        book.accepted
            .iter()
            .map(|event| event.topic.trim_start_matches("/tasks/").to_owned())
            .collect()
    }

    /// The first accepted event of this topic (`exit`), which was or will be forwarded.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn wait_for(&self, topic: &str) -> Result<Forwarded> {
        self.wait_until(topic, |events| {
            events
                .iter()
                .find(|event| event.topic.trim_start_matches("/tasks/") == topic)
                .cloned()
        })
    }

    /// Waits until the accepted events are such that `found` finds something.
    ///
    /// # Errors
    ///
    /// When they do not become so.
    pub fn wait_until<T>(
        &self,
        what: &str,
        found: impl Fn(&[Forwarded]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut book = self.desk.lock();
        loop {
            if let Some(value) = found(&book.accepted) {
                return Ok(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let topics: Vec<&str> = book
                    .accepted
                    .iter()
                    .map(|event| event.topic.as_str())
                    .collect();
                bail!(
                    "no {what} within {PATIENCE:?}; accepted {topics:?}, refused {}",
                    book.refused
                );
            }
            book = self
                .desk
                .changed
                .wait_timeout(book, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop();
    }
}
