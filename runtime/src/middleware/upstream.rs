//! The upstream: connections of HTTP/1.1, which are kept for the next request.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::Middleware;
use super::body::Joined;
use crate::Network;
use crate::error::because;
use crate::http::reach;

/// How many connections each worker keeps.
const KEPT: usize = 32;
/// For how long; less than servers usually have patience.
const IDLE: Duration = Duration::from_secs(4);

/// A connection to the upstream.
pub(crate) struct Connection(SendRequest<Joined>);

/// Those that wait for a request.
#[derive(Default)]
pub(crate) struct Connections(RefCell<Vec<(Connection, Instant)>>);

impl Connections {
    /// Sends a request, by a connection that is kept or a new one; why not.
    ///
    /// One that was kept may be closed by the upstream at any moment, and so when the request is on its way: then it is
    /// sent once more, on a new connection, if that is allowed (see [`again`]).
    pub(super) async fn send(
        &self,
        network: &Network,
        to: &Middleware,
        mut request: Request<Joined>,
    ) -> Result<(Response<Incoming>, Connection), String> {
        while let Some(mut connection) = self.take() {
            let spare = again(&request);
            match connection.0.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut error) => {
                    let message = error.take_message();
                    let error = error.into_error();
                    match (message, spare) {
                        // It was closed meanwhile, and nothing of the request has gone out.
                        (Some(back), _) => request = back,
                        (None, Some(spare)) if !error.is_parse() => {
                            request = spare;
                            break;
                        }
                        (None, _) => return Err(because(&error)),
                    }
                }
            }
        }
        let stream = reach(network, &to.host, to.port).await;
        let stream = stream.map_err(|error| because(&error))?;
        // A request is written in pieces; waiting for more of them would slow it down.
        drop(stream.set_nodelay(true));
        let shaken = handshake(TokioIo::new(stream)).await;
        let (mut sender, driver) = shaken.map_err(|error| because(&error))?;
        // It ends with the last who could ask, and what goes wrong in it they hear.
        drop(tokio::task::spawn_local(async move {
            drop(driver.await);
        }));
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| because(&error))?;
        Ok((response, Connection(sender)))
    }

    fn take(&self) -> Option<Connection> {
        let mut kept = self.0.borrow_mut();
        kept.retain(|(connection, since)| since.elapsed() < IDLE && connection.0.is_ready());
        kept.pop().map(|(connection, _)| connection)
    }

    /// Keeps a connection whose answer has been read.
    pub(super) fn keep(&self, connection: Connection) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT && !connection.0.is_closed() {
            kept.push((connection, Instant::now()));
        }
    }
}

/// `request`, to be sent a second time when the first has got no answer (RFC 9110, 9.2.2): if to do what it asks for
/// twice is to do it once, and its body is there.
fn again(request: &Request<Joined>) -> Option<Request<Joined>> {
    if !request.method().is_idempotent() {
        return None;
    }
    let mut other = Request::new(request.body().again()?);
    other.method_mut().clone_from(request.method());
    other.uri_mut().clone_from(request.uri());
    other.headers_mut().clone_from(request.headers());
    Some(other)
}
