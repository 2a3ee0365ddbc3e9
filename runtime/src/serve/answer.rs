//! The body of an answer, as the client gets it: the guest's, or a line of ours.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::connection::Busy;
use super::exchange::Progress;

/// The body of an answer. Its connection is in use until it is dropped.
pub(super) struct Answer {
    content: Content,
    busy: Busy,
}

enum Content {
    Guest {
        body: HyperOutgoingBody,
        /// Tells whether it ended because its guest did.
        progress: Rc<Progress>,
        /// Whether what came before its end has had a chance to get out.
        flushed: bool,
    },
    Own(Full<Bytes>),
}

impl Answer {
    /// What the guest answers.
    pub(super) fn guest(
        response: Response<HyperOutgoingBody>,
        progress: Rc<Progress>,
        mut busy: Busy,
    ) -> Response<Self> {
        busy.answered(response.status());
        response.map(|body| Self {
            content: Content::Guest {
                body,
                progress,
                flushed: false,
            },
            busy,
        })
    }

    /// The words for a status, and nothing about why: that is in the container's log.
    pub(super) fn status(status: StatusCode, mut busy: Busy) -> Response<Self> {
        busy.answered(status);
        let text = format!("{status}\n");
        let mut response = Response::new(Self {
            content: Content::Own(Full::from(text)),
            busy,
        });
        *response.status_mut() = status;
        let plain = header::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}

impl Content {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Own(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never: std::convert::Infallible| match never {}),
            Self::Guest {
                body,
                progress,
                flushed,
            } => match Pin::new(body).poll_frame(cx) {
                // wasmtime-wasi-http ends the body of a guest that is gone as if it were whole.
                Poll::Ready(None) if progress.has_failed() => {
                    if *flushed {
                        return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
                    }
                    // An error takes with it what hyper has not written yet; it writes when there is
                    // nothing to read.
                    *flushed = true;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                polled @ (Poll::Ready(_) | Poll::Pending) => polled,
            },
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = self.content.poll(cx);
        // It is asked for more only when there is room for it.
        self.busy.offers(polled.is_ready());
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.busy.sent(data.len());
                }
            }
            Poll::Ready(Some(Err(_))) => self.busy.broke_off(),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(full) => full.is_end_stream(),
            Content::Guest { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(full) => full.size_hint(),
            Content::Guest { body, .. } => body.size_hint(),
        }
    }
}
