//! What is told of one request: a span of the kind SERVER, and its share of the metrics, by the semantic conventions
//! for HTTP.
//!
//! A request that says its trace belongs to it; the guest, and by it whom it asks, is told ours in the same header.
//! Its query is not told, as it may hold secrets, and no text of it is told beyond [`LONGEST`].

use std::net::SocketAddr;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Version, header};

use super::context::{Context, TRACEPARENT, TRACESTATE};
use super::messages::{KeyValue, Span, SpanKind, Status, StatusCode, number, text};
use super::{Sources, Spans, now};

/// The most of a text that is told, in bytes.
const LONGEST: usize = 1024;
/// The methods that are told by name; the last is all others.
pub(super) const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "_OTHER",
];
/// Bits of a span's flags: it is known whether the parent is of another process, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// A request that is not over.
#[derive(Debug)]
pub(crate) struct Pending {
    /// If it is told.
    span: Option<Box<Span>>,
    /// Its place among [`METHODS`].
    method: usize,
    version: &'static str,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` if its client did not wait for one.
    pub(crate) status: Option<u16>,
    /// Whether the guest did not break off in the answer's body.
    pub(crate) whole: bool,
    /// The bytes of the answer's body.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

/// Requests that the metrics do not tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) method: usize,
    version: &'static str,
    status: Option<u16>,
    whole: bool,
}

impl Kind {
    /// What is told of them all.
    pub(super) fn attributes(&self) -> Vec<KeyValue> {
        let mut attributes = vec![
            text("http.request.method", METHODS[self.method]),
            text("url.scheme", "http"),
            text("network.protocol.version", self.version),
        ];
        attributes.extend(self.outcome());
        attributes
    }

    /// What is known at their end.
    fn outcome(&self) -> impl Iterator<Item = KeyValue> {
        let status = self.status.map(|status| number(STATUS, status.into()));
        let error = self.error().map(|error| text("error.type", error));
        status.into_iter().chain(error)
    }

    fn error(&self) -> Option<String> {
        match self.status {
            None => Some("canceled".to_owned()),
            Some(_) if !self.whole => Some("incomplete".to_owned()),
            Some(status @ 500..) => Some(status.to_string()),
            Some(_) => None,
        }
    }
}

const STATUS: &str = "http.response.status_code";

impl Sources {
    /// A request begins. Its headers say its span from now on.
    pub(crate) fn begin<B>(&self, client: SocketAddr, request: &mut Request<B>) -> Pending {
        let other = METHODS.len() - 1;
        let name = request.method().as_str();
        let known = METHODS[..other].iter().position(|known| *known == name);
        let method = known.unwrap_or(other);
        let version = match request.version() {
            Version::HTTP_10 => "1.0",
            Version::HTTP_2 => "2",
            _ => "1.1",
        };
        if let Some(measures) = &self.measures {
            measures.begin(method);
        }
        let span = self.spans.as_ref().and_then(|spans| {
            let (context, parent, state) = spans.place(request.headers_mut());
            let span = || span(client, request, (method, version), (context, parent, state));
            context.sampled.then(span).map(Box::new)
        });
        Pending {
            span,
            method,
            version,
        }
    }

    /// It is over.
    pub(crate) fn end(&self, pending: Pending, ended: &Ended) {
        let kind = Kind {
            method: pending.method,
            version: pending.version,
            status: ended.status,
            whole: ended.whole,
        };
        if let Some(measures) = &self.measures {
            measures.end(kind, ended.took, ended.bytes);
        }
        if let (Some(spans), Some(mut span)) = (&self.spans, pending.span) {
            span.attributes.extend(kind.outcome());
            #[allow(
                clippy::cast_possible_wrap,
                clippy::cast_possible_truncation,
                reason = "no body has that many"
            )]
            span.attributes
                .push(number("http.response.body.size", ended.bytes as i64));
            if kind.error().is_some() {
                span.status = Some(Status {
                    code: StatusCode::STATUS_CODE_ERROR.into(),
                    ..Status::default()
                })
                .into();
            }
            let took = u64::try_from(ended.took.as_nanos()).unwrap_or(u64::MAX);
            span.end_time_unix_nano = span.start_time_unix_nano.saturating_add(took);
            spans.queue.push(*span);
        }
    }
}

impl Spans {
    /// The span of a request that has these headers, which say it from now on; its parent, and what vendors say of the
    /// trace.
    fn place(&self, headers: &mut HeaderMap) -> (Context, Option<Context>, String) {
        if !self.propagate {
            let own = Context::child(None, self.ratio, self.follow);
            return (own, None, String::new());
        }
        let parent = Context::of(headers);
        let own = Context::child(parent.as_ref(), self.ratio, self.follow);
        let mut state = String::new();
        if parent.is_some() {
            let lines = headers.get_all(TRACESTATE).iter();
            let lines: Vec<_> = lines.filter_map(|line| line.to_str().ok()).collect();
            state = lines.join(",");
            state.truncate(state.floor_char_boundary(LONGEST));
        } else {
            // It is of a trace that is not known.
            headers.remove(TRACESTATE);
        }
        let said = HeaderValue::try_from(own.to_string()).expect("it is of digits");
        headers.insert(TRACEPARENT, said);
        (own, parent, state)
    }
}

fn span<B>(
    client: SocketAddr,
    request: &Request<B>,
    (method, version): (usize, &'static str),
    (context, parent, state): (Context, Option<Context>, String),
) -> Span {
    let known = METHODS[method];
    let mut attributes = vec![
        text("http.request.method", known),
        text("url.scheme", "http"),
        text("url.path", short(request.uri().path())),
        text("network.protocol.version", version),
        text("client.address", client.ip().to_string()),
        text("network.peer.address", client.ip().to_string()),
        number("network.peer.port", client.port().into()),
    ];
    let other = method == METHODS.len() - 1;
    if other {
        let said = short(request.method().as_str());
        attributes.push(text("http.request.method_original", said));
    }
    let headers = request.headers();
    let said = headers.get(header::HOST);
    let host = || Authority::try_from(said?.as_bytes()).ok();
    if let Some(authority) = request.uri().authority().cloned().or_else(host) {
        attributes.push(text("server.address", short(authority.host())));
        if let Some(port) = authority.port_u16() {
            attributes.push(number("server.port", port.into()));
        }
    }
    let agent = headers.get(header::USER_AGENT);
    if let Some(agent) = agent.and_then(|agent| agent.to_str().ok()) {
        attributes.push(text("user_agent.original", short(agent)));
    }
    let remote = if parent.is_some() { IS_REMOTE } else { 0 };
    Span {
        trace_id: context.trace.to_vec(),
        span_id: context.span.to_vec(),
        trace_state: state,
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span.to_vec()),
        name: if other { "HTTP" } else { known }.to_owned(),
        kind: SpanKind::SPAN_KIND_SERVER.into(),
        start_time_unix_nano: now(),
        attributes,
        flags: u32::from(context.flags()) | HAS_IS_REMOTE | remote,
        ..Span::default()
    }
}

fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

#[cfg(test)]
mod tests;
