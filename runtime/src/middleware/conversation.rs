//! What an instance and the host know of the request that it has: what the guest may look at and change, and when.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::TE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use wasmtime::bail;

use super::Middleware;
use super::body::{Content, Joined, TooLong};
use super::headers::{announced, between_two, host, unmeasured};
use crate::Budget;

pub(super) const BUFFER_REQUEST: u32 = 1;
pub(super) const BUFFER_RESPONSE: u32 = 2;
pub(super) const TRAILERS: u32 = 4;
/// All there are.
pub(super) const FEATURES: u32 = BUFFER_REQUEST | BUFFER_RESPONSE | TRAILERS;

/// What of a message is meant; the numbers of the ABI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Response,
    RequestTrailers,
    ResponseTrailers,
}

impl Part {
    pub(super) fn new(kind: u32) -> wasmtime::Result<Self> {
        Ok(match kind {
            0 => Self::Request,
            1 => Self::Response,
            2 => Self::RequestTrailers,
            3 => Self::ResponseTrailers,
            _ => bail!("there is no kind {kind} of headers"),
        })
    }

    fn is_trailers(self) -> bool {
        matches!(self, Self::RequestTrailers | Self::ResponseTrailers)
    }
}

/// A request, and its answer.
pub(super) struct Message {
    pub(super) method: Method,
    pub(super) uri: PathAndQuery,
    pub(super) version: Version,
    pub(super) client: Option<SocketAddr>,
    pub(super) headers: HeaderMap,
    pub(super) body: Content,
    pub(super) status: StatusCode,
    pub(super) answer_headers: HeaderMap,
    pub(super) answer: Content,
    /// Whether the upstream has been asked.
    next: bool,
    features: u32,
}

/// An instance's side of all its requests.
pub(crate) struct Conversation {
    pub(super) given: Arc<Middleware>,
    budget: Budget,
    /// What was enabled when it was made.
    features: u32,
    message: Option<Message>,
}

impl Conversation {
    pub(super) fn new(given: Arc<Middleware>, budget: Budget) -> Self {
        Self {
            given,
            budget,
            features: 0,
            message: None,
        }
    }

    fn content(&self, rest: Option<Incoming>) -> Content {
        Content::new(self.given.buffer_bytes, self.budget.clone(), rest)
    }

    /// There is a request.
    pub(super) fn begin(&mut self, request: Request<Incoming>) {
        let (mut parts, body) = request.into_parts();
        between_two(&mut parts.headers);
        host(&mut parts.headers, &parts.uri);
        let path = parts.uri.into_parts().path_and_query;
        self.message = Some(Message {
            method: parts.method,
            uri: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            version: parts.version,
            client: parts.extensions.get().copied(),
            headers: parts.headers,
            body: self.content(Some(body)),
            status: StatusCode::OK,
            answer_headers: HeaderMap::new(),
            answer: self.content(None),
            next: false,
            features: self.features,
        });
    }

    /// The request is over.
    pub(super) fn end(&mut self) {
        self.message = None;
    }

    pub(super) fn message(&mut self) -> wasmtime::Result<&mut Message> {
        let message = self.message.as_mut();
        message.ok_or_else(|| wasmtime::Error::msg("there is no request yet"))
    }

    pub(super) fn enable(&mut self, features: u32) -> u32 {
        let enabled = match &mut self.message {
            Some(message) => &mut message.features,
            None => &mut self.features,
        };
        *enabled |= features & FEATURES;
        *enabled
    }

    pub(super) fn has(&self, feature: u32) -> bool {
        let message = self.message.as_ref();
        message.map_or(self.features, |message| message.features) & feature != 0
    }

    /// What the upstream is asked, or what is answered instead.
    pub(super) async fn upstream_request(
        &mut self,
    ) -> wasmtime::Result<Result<Request<Joined>, Response<Joined>>> {
        let hold = self.has(BUFFER_REQUEST);
        let message = self.message()?;
        if hold && let Err(error) = message.body.fill().await {
            if error.downcast_ref::<TooLong>().is_none() {
                return Err(error);
            }
            let mut refused = Response::new(Joined::default());
            *refused.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            return Ok(Err(refused));
        }
        message.next = true;
        // Who takes them is to be given them: HTTP/2 has them always.
        let trailers = message.version == Version::HTTP_2 || message.has(TRAILERS);
        let mut request = Request::new(message.body.pass());
        *request.method_mut() = message.method.clone();
        *request.uri_mut() = Uri::from(message.uri.clone());
        let mut headers = message.headers.clone();
        unmeasured(&mut headers);
        announced(&mut headers, request.body().trailers());
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        *request.headers_mut() = headers;
        Ok(Ok(request))
    }

    /// The upstream has answered, which counts more than what the guest has said before.
    pub(super) fn answered(&mut self, response: Response<Incoming>) {
        let (mut parts, body) = response.into_parts();
        between_two(&mut parts.headers);
        let answer = self.content(Some(body));
        if let Some(message) = &mut self.message {
            message.status = parts.status;
            for name in parts.headers.keys() {
                message.answer_headers.remove(name);
            }
            message.answer_headers.extend(parts.headers);
            message.answer = answer;
        }
    }

    /// There is no upstream that answers.
    pub(super) fn failed(&mut self) {
        let answer = self.content(None);
        if let Some(message) = &mut self.message {
            message.status = StatusCode::BAD_GATEWAY;
            message.answer = answer;
        }
    }

    /// What the client gets.
    pub(super) fn response(&mut self) -> wasmtime::Result<Response<Joined>> {
        let message = self.message()?;
        let mut headers = message.answer_headers.clone();
        // The answer to HEAD has the length of another one.
        if message.method != Method::HEAD && message.status != StatusCode::NOT_MODIFIED {
            unmeasured(&mut headers);
        }
        let mut response = Response::new(message.answer.pass());
        announced(&mut headers, response.body().trailers());
        *response.status_mut() = message.status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

impl Message {
    fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    /// Refuses what comes after the upstream was asked.
    pub(super) fn before_next(&self, what: &str) -> wasmtime::Result<()> {
        if self.next {
            bail!("cannot {what} after the next handler");
        }
        Ok(())
    }

    /// Refuses what comes after the upstream was asked without a feature.
    pub(super) fn before_next_or(&self, feature: u32, what: &str) -> wasmtime::Result<()> {
        if self.next && !self.has(feature) {
            let name = match feature {
                BUFFER_REQUEST => "buffer_request",
                _ => "buffer_response",
            };
            bail!("cannot {what} after the next handler without the feature {name}");
        }
        Ok(())
    }

    /// Those headers, for who looks; none, if they are trailers and those are off.
    pub(super) async fn shown(&mut self, part: Part) -> wasmtime::Result<Option<&HeaderMap>> {
        if part.is_trailers() && !self.has(TRAILERS) {
            return Ok(None);
        }
        match part {
            Part::Request | Part::RequestTrailers => {}
            Part::Response | Part::ResponseTrailers => {
                self.before_next_or(BUFFER_RESPONSE, "look at the response's headers")?;
            }
        }
        self.part(part).await.map(|headers| Some(&*headers))
    }

    /// Those headers, for who changes them.
    pub(super) async fn changed(&mut self, part: Part) -> wasmtime::Result<&mut HeaderMap> {
        if part.is_trailers() && !self.has(TRAILERS) {
            bail!("cannot change trailers without the feature trailers");
        }
        match part {
            Part::Request | Part::RequestTrailers => {
                self.before_next("change the request's headers")?;
            }
            Part::Response | Part::ResponseTrailers => {
                self.before_next_or(BUFFER_RESPONSE, "change the response's headers")?;
            }
        }
        self.part(part).await
    }

    /// Trailers come after the body, which is held for them.
    async fn part(&mut self, part: Part) -> wasmtime::Result<&mut HeaderMap> {
        Ok(match part {
            Part::Request => &mut self.headers,
            Part::Response => &mut self.answer_headers,
            Part::RequestTrailers => {
                self.body.fill().await?;
                &mut self.body.trailers
            }
            Part::ResponseTrailers => {
                self.answer.fill().await?;
                &mut self.answer.trailers
            }
        })
    }

    /// The body, to be read; and whether what is read of it is kept.
    pub(super) fn readable(&mut self, kind: u32) -> wasmtime::Result<(&mut Content, bool)> {
        match kind {
            0 => {
                self.before_next_or(BUFFER_REQUEST, "read the request's body")?;
                let kept = self.has(BUFFER_REQUEST);
                Ok((&mut self.body, kept))
            }
            1 => {
                self.before_next_or(BUFFER_RESPONSE, "read the response's body")?;
                Ok((&mut self.answer, true))
            }
            _ => bail!("there is no kind {kind} of bodies"),
        }
    }

    /// The body, to be written.
    pub(super) fn writable(&mut self, kind: u32) -> wasmtime::Result<&mut Content> {
        match kind {
            0 => {
                self.before_next("write the request's body")?;
                Ok(&mut self.body)
            }
            1 => {
                self.before_next_or(BUFFER_RESPONSE, "write the response's body")?;
                Ok(&mut self.answer)
            }
            _ => bail!("there is no kind {kind} of bodies"),
        }
    }
}
