//! As much of a gRPC client as reading from containerd takes: calls with one message, answered by one or
//! a stream of them, over HTTP/2 on containerd's socket.
//!
//! Framing and status are those of gRPC over HTTP/2 (grpc `PROTOCOL-HTTP2.md`). There is no compression,
//! as it is not offered, and no deadline: who waits gives up by dropping the answer, which resets the stream.

use std::io;
use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use percent_encoding::percent_decode;
use protobuf::Message;
use tokio::net::UnixStream;

/// A compressed-flag and a length before each message.
const PREFIX: usize = 5;
/// The largest message that is taken. containerd sends content in parts of 1 MiB at most.
const MESSAGE: usize = 16 << 20;
/// How many bytes may be under way.
const WINDOW: u32 = 4 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// Nobody listens, or not to us.
    #[error("cannot connect to containerd")]
    Connect(#[source] io::Error),
    /// The connection.
    #[error("the connection to containerd failed")]
    Connection(#[source] h2::Error),
    /// It answers what is no gRPC.
    #[error("containerd answered with {0}")]
    Protocol(String),
    /// The service's own word.
    #[error("containerd says: {message} (gRPC status {code})")]
    Status {
        /// The status code of gRPC.
        code: u32,
        /// What is wrong.
        message: String,
    },
}

impl GrpcError {
    /// Whether there is no such thing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 5, .. })
    }
}

/// A connection. Cloning shares it; it is closed when all are dropped.
#[derive(Debug, Clone)]
pub struct Channel(SendRequest<Bytes>);

/// The messages that answer a call.
#[derive(Debug)]
pub struct Answers {
    body: RecvStream,
    received: BytesMut,
}

impl Channel {
    /// Connects to a socket.
    ///
    /// # Errors
    ///
    /// [`GrpcError::Connect`], [`GrpcError::Connection`].
    pub async fn connect(socket: &Path) -> Result<Self, GrpcError> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(GrpcError::Connect)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(GrpcError::Connection)?;
        // Ends with the last sender. What goes wrong in it, the calls are told.
        drop(tokio::spawn(connection));
        Ok(Self(sender))
    }

    /// Calls `method` (`/service/Method`) in a namespace of containerd's.
    ///
    /// # Errors
    ///
    /// Any but [`GrpcError::Connect`].
    pub async fn call(
        &self,
        method: &str,
        namespace: &str,
        message: &impl Message,
    ) -> Result<Answers, GrpcError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", namespace)
            .body(())
            .map_err(|error| GrpcError::Protocol(error.to_string()))?;
        let mut sender = self
            .0
            .clone()
            .ready()
            .await
            .map_err(GrpcError::Connection)?;
        let (answer, mut body) = sender
            .send_request(request, false)
            .map_err(GrpcError::Connection)?;
        body.send_data(frame(message)?, true)
            .map_err(GrpcError::Connection)?;
        let (head, body) = answer.await.map_err(GrpcError::Connection)?.into_parts();
        if !head.status.is_success() {
            return Err(GrpcError::Protocol(format!("HTTP status {}", head.status)));
        }
        // An answer without any message has its status up here.
        if head.headers.contains_key("grpc-status") {
            status(&head.headers)?;
        }
        Ok(Answers {
            body,
            received: BytesMut::new(),
        })
    }
}

impl Answers {
    /// The next message, or `None` when all was said and well.
    ///
    /// # Errors
    ///
    /// Any but [`GrpcError::Connect`].
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>, GrpcError> {
        loop {
            if let Some(message) = unframe(&mut self.received)? {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else {
                break;
            };
            let data = data.map_err(GrpcError::Connection)?;
            self.received.extend_from_slice(&data);
            let flow = self.body.flow_control();
            flow.release_capacity(data.len())
                .map_err(GrpcError::Connection)?;
        }
        let trailers = self.body.trailers().await.map_err(GrpcError::Connection)?;
        status(&trailers.unwrap_or_default())?;
        if self.received.is_empty() {
            Ok(None)
        } else {
            Err(GrpcError::Protocol("half a message".to_owned()))
        }
    }

    /// The only message.
    ///
    /// # Errors
    ///
    /// Any but [`GrpcError::Connect`].
    pub async fn one<M: Message>(mut self) -> Result<M, GrpcError> {
        let message = self.next().await?;
        message.ok_or_else(|| GrpcError::Protocol("no message".to_owned()))
    }
}

fn frame(message: &impl Message) -> Result<Bytes, GrpcError> {
    let message = message.write_to_bytes();
    let message = message.map_err(|error| GrpcError::Protocol(error.to_string()))?;
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    Ok([&[0][..], &length.to_be_bytes(), &message].concat().into())
}

/// Takes the first message off `received` if it is there as a whole.
fn unframe<M: Message>(received: &mut BytesMut) -> Result<Option<M>, GrpcError> {
    let Some((&[compressed, a, b, c, d], rest)) = received.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if compressed != 0 {
        return Err(GrpcError::Protocol("a compressed message".to_owned()));
    }
    if length > MESSAGE {
        return Err(GrpcError::Protocol(format!("a message of {length} bytes")));
    }
    let Some(message) = rest.get(..length) else {
        return Ok(None);
    };
    let message = M::parse_from_bytes(message);
    received.advance(PREFIX + length);
    message
        .map(Some)
        .map_err(|error| GrpcError::Protocol(error.to_string()))
}

/// What trailers say of the call.
fn status(trailers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name| trailers.get(name).map(http::HeaderValue::as_bytes);
    let code = text("grpc-status").and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(GrpcError::Status {
            code,
            message: percent_decode(text("grpc-message").unwrap_or_default())
                .decode_utf8_lossy()
                .into_owned(),
        }),
        None => Err(GrpcError::Protocol("no gRPC status".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::messages::ContentPart;

    fn part(data: &[u8]) -> ContentPart {
        ContentPart {
            data: data.to_vec(),
            ..ContentPart::default()
        }
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let sent = [
            frame(&part(b"one")).unwrap(),
            frame(&part(b"")).unwrap(),
            frame(&part(b"three")).unwrap(),
        ]
        .concat();
        for size in 1..=sent.len() {
            let mut received = BytesMut::new();
            let mut found = Vec::new();
            for piece in sent.chunks(size) {
                received.extend_from_slice(piece);
                while let Some(part) = unframe::<ContentPart>(&mut received).unwrap() {
                    found.push(part.data);
                }
            }
            assert_eq!(found, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
        }
    }

    #[test]
    fn what_is_too_large_or_compressed_is_refused() {
        for prefix in [[0, 0xff, 0, 0, 0], [1, 0, 0, 0, 0]] {
            let mut received = BytesMut::from(&prefix[..]);
            let refused = unframe::<ContentPart>(&mut received);
            assert!(
                matches!(refused, Err(GrpcError::Protocol(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_status_is_a_number_and_an_encoded_text() {
        let mut trailers = HeaderMap::new();
        assert!(matches!(status(&trailers), Err(GrpcError::Protocol(_))));
        trailers.insert("grpc-status", "0".parse().unwrap());
        assert!(status(&trailers).is_ok());
        trailers.insert("grpc-status", "5".parse().unwrap());
        trailers.insert("grpc-message", "no%20such%20thing%0A".parse().unwrap());
        let error = status(&trailers).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("no such thing\n"), "{error}");
    }
}
