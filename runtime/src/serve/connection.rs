//! One connection: HTTP/1.1 or HTTP/2, as its first bytes say.
//!
//! It is closed when it has had no request for some time, when the service finishes, and in both cases
//! politely first: HTTP/2 has a word for it, HTTP/1.1 closes after the answer. Who takes nothing of the answers
//! that there are for that time is hung up on: what is not read keeps a request from its end, and the place among
//! the connections with it. Such a client does not read, or gives no window of HTTP/2 (RFC 9113, 5.2).

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::exchange::exchange;
use super::instance::Handler;
use super::record::Record;
use super::worker::Local;

/// How many requests of one HTTP/2 connection are read before the first is answered.
const STREAMS: u32 = 100;
/// How much of a request's body, and of all on a connection, is read ahead of a guest that does not read, in
/// bytes: RFC 9113's own window for the first, where hyper has a mebibyte for both.
const STREAM_WINDOW: u32 = 65_535;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// Serves `stream` to its end.
pub(super) async fn serve(local: Rc<Local>, stream: TcpStream, _place: OwnedSemaphorePermit) {
    let (patience, header) = (local.server.idle_timeout, local.server.header_bytes);
    let mut drain = local.server.drain.clone();
    let activity = Rc::new(Activity::new());
    let mut builder = Builder::new(Here);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(header);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(header).unwrap_or(u32::MAX));
    // It is gone already, if it has none.
    let Ok(client) = stream.peer_addr() else {
        return;
    };
    let service = service_fn(|mut request: Request<Incoming>| {
        if matches!(local.server.handler, Handler::Middleware(_)) {
            // It can ask for that.
            request.extensions_mut().insert(client);
        }
        let observer = local.server.observer.as_ref();
        let record = observer.map(|observer| Record::new(observer, client, &mut request));
        let busy = activity.begin(record);
        let exchange = exchange(Rc::clone(&local), busy, request);
        async { Ok::<_, Infallible>(exchange.await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            biased;
            // An error is the client's: it went away, or does not speak HTTP.
            _ended = &mut connection => return,
            _ = drain.wait_for(|drain| *drain), if !closing => {
                connection.as_mut().graceful_shutdown();
                closing = true;
                activity.touch();
            }
            () = activity.idle(patience) => {
                if closing || activity.offered.get() > 0 {
                    // It does not take what there is for it, or not even the end.
                    return;
                }
                connection.as_mut().graceful_shutdown();
                closing = true;
                activity.touch();
            }
        }
    }
}

/// Spawns what a connection needs beside itself where the connection is.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        drop(tokio::task::spawn_local(task));
    }
}

/// Whether a connection is in use, or since when it is not.
pub(super) struct Activity {
    requests: Cell<usize>,
    /// Those of them whose answers wait for the client.
    offered: Cell<usize>,
    since: Cell<Instant>,
}

impl Activity {
    fn new() -> Self {
        Self {
            requests: Cell::new(0),
            offered: Cell::new(0),
            since: Cell::new(Instant::now()),
        }
    }

    /// A request begins, and lasts as long as what is returned.
    fn begin(self: &Rc<Self>, record: Option<Record>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        Busy {
            activity: Rc::clone(self),
            offers: false,
            record,
        }
    }

    fn touch(&self) {
        self.since.set(Instant::now());
    }

    /// Waits until there has been no request for `time` but those whose answers the client does not take. Looks
    /// no more often than that.
    async fn idle(&self, time: Duration) {
        loop {
            let from = if self.works() {
                Instant::now()
            } else {
                self.since.get()
            };
            tokio::time::sleep_until(from + time).await;
            if !self.works() && self.since.get() + time <= Instant::now() {
                return;
            }
        }
    }

    /// Whether a guest has something to do for it.
    fn works(&self) -> bool {
        self.requests.get() > self.offered.get()
    }
}

/// A request that is not done.
pub(super) struct Busy {
    activity: Rc<Activity>,
    /// Its answer has something that the client has not taken.
    offers: bool,
    record: Option<Record>,
}

impl Busy {
    /// Its answer has something for the client, which takes it now, or waits for the guest.
    pub(super) fn offers(&mut self, offers: bool) {
        let offered = &self.activity.offered;
        let others = offered.get() - usize::from(self.offers);
        offered.set(others + usize::from(offers));
        self.offers = offers;
        self.activity.touch();
    }

    /// Its answer has this status, for the client to take.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.offers(true);
        if let Some(record) = &mut self.record {
            record.answered(status);
        }
    }

    /// So much more of its answer's body is on its way.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes);
        }
    }

    /// Its answer's body breaks off.
    pub(super) fn broke_off(&mut self) {
        if let Some(record) = &mut self.record {
            record.broke_off();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.offers(false);
        let requests = &self.activity.requests;
        requests.set(requests.get() - 1);
    }
}
