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
    pub(super) async fn send(
        &self,
        network: &Network,
        to: &Middleware,
        mut request: Request<Joined>,
    ) -> Result<(Response<Incoming>, Connection), String> {
        while let Some(mut connection) = self.take() {
            match connection.0.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                // It was closed meanwhile, and nothing of the request has gone out.
                Err(mut error) => match error.take_message() {
                    Some(back) => request = back,
                    None => return Err(because(&error.into_error())),
                },
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

/// An error and its causes, in a line.
pub(crate) fn because(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
