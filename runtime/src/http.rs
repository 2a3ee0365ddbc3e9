//! Outgoing HTTP: what `wasi:http/outgoing-handler` does for a guest.
//!
//! A request is a connection of its own, made on the thread that runs the guest, in its network
//! namespace; names are looked up by the pool threads that it started. Each address is one that the
//! guest's [`Network`] lets it reach, so a name that points elsewhere gets nowhere. Whom `https` trusts
//! is the guest's [`Trust`].
//! When the guest ends the connection ends with it, as it is driven by a task that its store holds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};
use wasmtime_wasi_tls::{TlsProvider as _, TlsTransport};

use crate::Network;
use crate::tls::Trust;

/// How long anything takes that the guest gave no time for; the default of wasmtime-wasi-http.
const PATIENCE: Duration = Duration::from_secs(600);

/// Sends the requests of one guest.
pub(crate) struct Client {
    network: Arc<Network>,
    trust: Trust,
}

/// A response, and the end of its connection.
type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl Client {
    pub(crate) fn new(network: Arc<Network>, trust: Trust) -> Self {
        Self { network, trust }
    }
}

impl WasiHttpHooks for Client {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _received: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let (network, trust) = (Arc::clone(&self.network), self.trust.clone());
        Box::new(
            async move { send((&network, &trust), request, options.unwrap_or_default()).await },
        )
    }
}

async fn send(
    by: (&Network, &Trust),
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Sent, Error> {
    let connected = timeout(
        options.connect_timeout.unwrap_or(PATIENCE),
        connect(by, request.uri()),
    );
    let transport = connected.await.map_err(|_| Error::ConnectionTimeout)??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(transport)).await?;
    // Driven beside the guest, until the end or until the handle is dropped.
    let driver = wasmtime_wasi::runtime::spawn(connection);
    // A server is asked for a path; host and scheme are for proxies.
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
    let response = timeout(first_byte, sender.send_request(request))
        .await
        .map_err(|_| Error::ConnectionReadTimeout)??;
    let patience = options.between_bytes_timeout.unwrap_or(PATIENCE);
    Ok((
        response.map(|body| Patient::new(body, patience).boxed_unsync()),
        Box::new(async move { Ok(driver.await?) }),
    ))
}

/// A connection to the server of `uri`, encrypted if that is `https`.
pub(crate) async fn connect(
    (network, trust): (&Network, &Trust),
    uri: &Uri,
) -> Result<Box<dyn TlsTransport>, Error> {
    let encrypted = uri.scheme() == Some(&Scheme::HTTPS);
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    let port = authority.port_u16();
    let port = port.unwrap_or(if encrypted { 443 } else { 80 });
    // An IPv6 address has brackets there.
    let host = authority.host().trim_matches(['[', ']']);
    let tcp = reach(network, host, port).await?;
    // A request is written in more than one piece; that the kernel waits for more would slow it down.
    // A socket that refuses this works without.
    drop(tcp.set_nodelay(true));
    if !encrypted {
        return Ok(Box::new(tcp));
    }
    let tls = trust.connect(host.to_owned(), Box::new(tcp));
    match tls.await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(Error::Tls(std::io::Error::other(error))),
    }
}

/// A connection to the first address of `host` that is allowed and answers.
pub(crate) async fn reach(network: &Network, host: &str, port: u16) -> Result<TcpStream, Error> {
    if !network.is_on() {
        return Err(Error::HttpRequestDenied);
    }
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| Error::DnsError {
        rcode: Some(error.to_string()),
        info_code: None,
    })?;
    let mut obstacle = Error::DestinationIpProhibited;
    for address in addresses.filter(|address| network.reaches(*address)) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => obstacle = Error::Connect(error),
        }
    }
    Err(obstacle)
}

/// The body of a response, whose pieces may be only so far apart.
struct Patient {
    body: Incoming,
    patience: Duration,
    late: Pin<Box<Sleep>>,
}

impl Patient {
    fn new(body: Incoming, patience: Duration) -> Self {
        Self {
            body,
            patience,
            late: Box::pin(tokio::time::sleep(patience)),
        }
    }
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = Instant::now() + self.patience;
            self.late.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        match self.late.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Error::ConnectionReadTimeout))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
