//! One delivery: a POST of protobuf, by a connection of its own.

use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use protobuf::Message as _;
use tokio::time::timeout;
use wasmtime_wasi_http::io::TokioIo;

use super::Collector;
use super::messages::{ExportResponse, PartialSuccess};
use crate::Network;
use crate::error::because;
use crate::http::connect;
use crate::tls::Trust;

/// The most that is read of an answer, in bytes.
const ANSWER: usize = 16 << 10;

/// Why something was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Whether it may be taken later (OTLP specification, "Failures").
    pub(super) passing: bool,
}

impl Failure {
    fn passing(reason: String) -> Self {
        Self {
            reason,
            passing: true,
        }
    }
}

impl Collector {
    /// Delivers `body`. What of it the collector has refused, if it says so.
    pub(super) async fn take(
        &self,
        by: (&Network, &Trust),
        body: Bytes,
    ) -> Result<Option<PartialSuccess>, Failure> {
        match timeout(self.timeout, self.post(by, body)).await {
            Ok(taken) => taken,
            Err(_) => {
                let reason = format!("it took longer than {:?}", self.timeout);
                Err(Failure::passing(reason))
            }
        }
    }

    async fn post(
        &self,
        by: (&Network, &Trust),
        body: Bytes,
    ) -> Result<Option<PartialSuccess>, Failure> {
        let transport = connect(by, &self.endpoint).await;
        let transport = transport.map_err(|error| Failure::passing(because(&error)))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(transport)).await;
        let broken = |error: hyper::Error| Failure::passing(because(&error));
        let (mut sender, connection) = shaken.map_err(broken)?;
        let request = self.request(body);
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            // What cannot be read says nothing.
            let body = Limited::new(body, ANSWER).collect().await;
            Ok((
                head.status,
                body.map(|body| body.to_bytes()).unwrap_or_default(),
            ))
        };
        // Whoever drives the connection may see its end before the answer has been read.
        let answer = match select(pin!(exchange), pin!(connection)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((_, exchange)) => exchange.await,
        };
        let (status, body) = answer?;
        if status.is_success() {
            let response = ExportResponse::parse_from_bytes(&body).unwrap_or_default();
            let partial = response.partial_success.into_option();
            return Ok(partial.filter(|partial| partial.rejected > 0));
        }
        Err(Failure {
            reason: format!("it answers {status}"),
            passing: matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            ),
        })
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        if let Some(path) = self.endpoint.path_and_query() {
            *request.uri_mut() = Uri::from(path.clone());
        }
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        // How the body is framed is not for others to say.
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
        let host = self.endpoint.authority().map(http::uri::Authority::as_str);
        let host = host.and_then(|host| HeaderValue::from_str(host).ok());
        let ours = [
            (header::HOST, host),
            (
                header::CONTENT_TYPE,
                Some(HeaderValue::from_static("application/x-protobuf")),
            ),
            (header::USER_AGENT, Some(HeaderValue::from_static(AGENT))),
        ];
        for (name, value) in ours {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        request
    }
}

/// Who we are.
const AGENT: &str = concat!(
    env!("CARGO_PKG_NAME"),
    "/",
    env!("CARGO_PKG_VERSION"),
    " OTLP"
);
