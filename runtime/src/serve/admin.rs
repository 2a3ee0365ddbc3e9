//! The numbers of a service, for Prometheus: `GET /metrics` at a socket of its own, by a thread of its own, so
//! that they are there when guests use all the others.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::record::Observer;
use crate::Error;

/// How long one who asks may take for it all. They are answered one after the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Admin {
    /// Dropped to end the thread.
    alive: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    pub(super) fn new(listener: StdListener, observer: Arc<Observer>) -> Result<Self, Error> {
        let cannot = |source| Error::Thread {
            what: "shows the metrics",
            source,
        };
        listener.set_nonblocking(true).map_err(cannot)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(cannot)?;
        let (alive, mut over) = oneshot::channel();
        let thread = std::thread::Builder::new().name("wasi-metrics".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = &mut over => {}
                    () = answer(listener, &observer) => {}
                }
            });
        });
        Ok(Self {
            alive: Some(alive),
            thread: Some(thread.map_err(cannot)?),
        })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            // At once. It must be gone before the guest's thread, whose namespaces it is in.
            drop(thread.join());
        }
    }
}

async fn answer(listener: StdListener, observer: &Observer) {
    // It was made not to block, and the runtime is up.
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // A lack of descriptors, mostly.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = service_fn(async |request| Ok::<_, Infallible>(page(observer, &request)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // Late or broken, it is the client's loss.
        drop(timeout(PATIENCE, connection).await);
    }
}

fn page(observer: &Observer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" || request.method() != Method::GET {
        let mut response = Response::new(Full::from("the metrics are at /metrics\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = Response::new(Full::from(observer.numbers.to_string()));
    let format = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}
