//! HTTP services: a component that exports `wasi:http/incoming-handler@0.2` is made anew for each request, asked
//! once, and dropped; one that exports `wasi:http/handler@0.3` is asked again when it has answered.
//!
//! ```text
//! listening socket ─┬─ Worker: thread, runtime, Interrupter ─┬─ connection ─┬─ exchange: instance, Interrupter below
//!   (handed in)     │                                        │              └─ exchange
//!                   │                                        └─ connection
//!                   └─ Worker ...
//! ```
//!
//! All that a [`Worker`] does, connections and guests, is one future on one thread, which its interrupter stops
//! as it stops a command: a service that is paused, throttled or killed does nothing at all. A request that
//! takes too long is stopped alone. What a request's instance is given, and what it may use, is what the
//! container's other guests are given and may use; what goes wrong in one is a status for its client and a
//! line for the container's log.
//!
//! It is told to finish, by [`Interrupter::drain`]: then nobody accepts any more, connections close after the
//! answers that they owe, and the workers end.
//!
//! Whoever has to wait, waits where it costs least: beyond [`Service::connections`] clients are not accepted,
//! and beyond [`Service::requests`] not read from. No body is ever held as a whole.

mod admin;
mod answer;
mod connection;
mod exchange;
mod instance;
mod patience;
mod record;
mod worker;

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use self::admin::Admin;
pub(crate) use self::instance::Handler;
use self::patience::Patience;
use self::record::{Numbers, Observer};
pub use self::worker::Worker;
use self::worker::{Farewell, Handed};
use crate::host::Template;
use crate::pool::Reserved;
use crate::telemetry::{Exporter, Means, Sources};
use crate::{Error, Guest, Interrupter, Middleware, Telemetry};

/// Where and how a component serves HTTP/1.1 and HTTP/2 (without TLS).
#[derive(Debug)]
pub struct Service {
    /// The socket, which listens already.
    pub listener: TcpListener,
    /// How many threads answer: see [`Prepared::workers`](crate::Prepared::workers).
    pub workers: NonZeroUsize,
    /// How many requests are answered at once, all threads together; others wait.
    pub requests: usize,
    /// How many clients may be connected; others are not accepted. At least one for each worker.
    pub connections: usize,
    /// The most that the head of a request may have, in bytes; at least 8,192.
    pub header_bytes: usize,
    /// How long a guest may take for a request, the bodies of both sides included.
    pub request_timeout: Option<Duration>,
    /// How long a connection may be without a request, or take to send the head of one.
    pub idle_timeout: Duration,
    /// Whether each request is told on the guest's stdout: `CLIENT "METHOD PATH VERSION" STATUS BYTES SECONDS`.
    /// Lines that its reader is too slow for are lost, and counted.
    pub access_log: bool,
    /// A socket that listens, for who asks for `/metrics`: Prometheus' text format.
    pub metrics: Option<TcpListener>,
    /// What collectors of OpenTelemetry are told.
    pub telemetry: Option<Telemetry>,
    /// What a [module that is middleware](Middleware) is given, and nothing else is.
    pub middleware: Option<Middleware>,
}

/// The smallest that hyper takes for [`Service::header_bytes`].
const LEAST_HEADER: usize = 8192;

/// What all workers share.
pub(crate) struct Server {
    handler: Handler,
    template: Template,
    header_bytes: usize,
    idle_timeout: Duration,
    /// A permit for each request that is answered.
    requests: Arc<Semaphore>,
    /// A permit for each connection.
    connections: Arc<Semaphore>,
    patience: Option<Patience>,
    /// Told of each request.
    observer: Option<Arc<Observer>>,
    /// Shows what it was told.
    _admin: Option<Admin>,
    /// For as many instances as there are permits of requests.
    _room: Option<Arc<Reserved>>,
    /// Set when the service is to finish.
    drain: watch::Receiver<bool>,
    /// How connections get to each worker, and how many it has.
    desks: Vec<Desk>,
}

/// Where a worker gets connections that others have accepted.
struct Desk {
    sender: mpsc::UnboundedSender<Handed>,
    load: AtomicUsize,
}

impl Server {
    pub(crate) fn guest(&self) -> &Guest {
        &self.template.guest
    }

    /// Whether the guest may talk to `client`.
    fn hears(&self, client: SocketAddr) -> bool {
        self.guest().network.hears(client)
    }

    /// The worker that has the fewest connections; `own`, if there is no better one.
    fn least_loaded(&self, own: usize) -> usize {
        let load = |index: usize| self.desks[index].load.load(Relaxed);
        let all = 0..self.desks.len();
        all.min_by_key(|index| (load(*index), *index != own))
            .unwrap_or(own)
    }
}

/// All workers of a service.
pub(crate) struct Team {
    server: Arc<Server>,
    first: Worker,
    helpers: Vec<Worker>,
    count: usize,
    ended: mpsc::UnboundedReceiver<Farewell>,
    /// What is to be told, from when it runs.
    telemetry: Option<(Telemetry, Arc<Sources>)>,
}

impl Team {
    /// The workers, and what stops them: `interrupter`, with all of them.
    pub(crate) fn new(
        (service, room): (Service, Option<Arc<Reserved>>),
        handler: Handler,
        template: Template,
        interrupter: Interrupter,
    ) -> Result<(Self, Interrupter), Error> {
        let workers = service.workers.get();
        let (order, drain) = watch::channel(false);
        let (desks, hands): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let load = AtomicUsize::new(0);
                (Desk { sender, load }, receiver)
            })
            .unzip();
        let patience = service.request_timeout.map(Patience::new).transpose()?;
        let telemetry = service.telemetry.map(|telemetry| {
            let sources = Arc::new(Sources::new(&telemetry));
            (telemetry, sources)
        });
        let watched = service.access_log || service.metrics.is_some() || telemetry.is_some();
        let observer = watched.then(|| {
            Arc::new(Observer {
                log: service.access_log.then(|| template.guest.stdout.clone()),
                numbers: Numbers::default(),
                sources: telemetry.as_ref().map(|(_, sources)| Arc::clone(sources)),
            })
        });
        let shown = service.metrics.zip(observer.clone());
        let admin = shown.map(|(listener, observer)| Admin::new(listener, observer));
        let server = Arc::new(Server {
            handler,
            template,
            header_bytes: service.header_bytes.max(LEAST_HEADER),
            idle_timeout: service.idle_timeout,
            requests: Arc::new(Semaphore::new(service.requests.max(1))),
            connections: Arc::new(Semaphore::new(service.connections.max(workers))),
            patience,
            observer,
            _admin: admin.transpose()?,
            _room: room,
            drain,
            desks,
        });
        let means = interrupter.means().clone();
        let (leave, ended) = mpsc::unbounded_channel();
        let mut helpers = Vec::with_capacity(workers);
        for (index, hand) in hands.into_iter().enumerate() {
            let shared = |source| Error::Descriptor {
                what: "the listening socket".to_owned(),
                source,
            };
            let listener = service.listener.try_clone().map_err(shared)?;
            listener.set_nonblocking(true).map_err(shared)?;
            helpers.push(Worker {
                index,
                server: Arc::clone(&server),
                listener,
                hand,
                interrupter: Interrupter::new(means.clone()),
                leave: leave.clone(),
            });
        }
        let mut first = helpers.swap_remove(0);
        let others = helpers.iter().map(|helper| helper.interrupter.clone());
        let interrupter = interrupter.with_crew(others.collect(), order);
        first.interrupter = interrupter.clone();
        let count = helpers.len();
        let team = Self {
            server,
            first,
            helpers,
            count,
            ended,
            telemetry,
        };
        Ok((team, interrupter))
    }

    pub(crate) fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server)
    }

    pub(crate) fn helpers(&mut self) -> Vec<Worker> {
        std::mem::take(&mut self.helpers)
    }

    /// Serves until the service has finished, or was killed: then `None`. When this returns no other
    /// worker has anything left.
    ///
    /// # Panics
    ///
    /// When a worker did, as the service cannot go on as if nothing had happened.
    pub(crate) async fn run(mut self, interrupter: &Interrupter) -> Option<()> {
        // Those that nobody took are not to be waited for.
        self.count -= self.helpers.len();
        self.helpers.clear();
        let mut left = self.count;
        // The streams are polled by this thread, which is the last to go.
        let guest = self.server.guest();
        guest.stdin.settle();
        guest.stdout.settle();
        guest.stderr.settle();
        // By a thread that is confined as this one is by now.
        let template = &self.server.template;
        let exporter = self.telemetry.take().and_then(|(telemetry, sources)| {
            let means = Means {
                network: Arc::clone(&template.network),
                trust: template.trust.clone(),
                stderr: guest.stderr.clone(),
                budget: guest.budget.clone(),
            };
            Exporter::begin(telemetry, sources, means)
        });
        let work = self.first.work();
        tokio::pin!(work);
        let mut finished = None;
        let mut worst = Farewell::Done;
        while finished.is_none() || left > 0 {
            tokio::select! {
                own = &mut work, if finished.is_none() => finished = Some(own),
                Some(farewell) = self.ended.recv(), if left > 0 => {
                    left -= 1;
                    if farewell == Farewell::Panicked {
                        interrupter.kill();
                    }
                    if worst != Farewell::Panicked && farewell != Farewell::Done {
                        worst = farewell;
                    }
                }
            }
        }
        assert!(
            worst != Farewell::Panicked,
            "a worker of the service was lost to a panic"
        );
        // One that was killed has left something undone.
        let done = finished.flatten().filter(|()| worst == Farewell::Done);
        if let (Some(exporter), Some(())) = (exporter, done) {
            // A second signal does not wait for a collector.
            interrupter.guard(exporter.finish()).await;
        }
        done
    }
}
