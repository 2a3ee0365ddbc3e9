//! Events to containerd: one queue, one forwarder, in the order of the queue.
//!
//! An event is sent until containerd takes it, and nothing overtakes it; while containerd is away, the
//! queue waits, however long. An event that containerd itself refuses `REFUSALS` times is dropped with
//! a line in the log, so that one bad event cannot hold up all others for ever. At exit the queue is
//! closed and drained, for a bounded time. (containerd `pkg/shim/publisher.go` re-queues failed events behind newer ones; order
//! is what `docker exec` and CRI rely on.)

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{MessageDyn, MessageField};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use ttrpc::r#async::transport::Socket;
use ttrpc::context;

/// Events that wait while containerd is away; then who publishes has to wait, too.
const QUEUE: usize = 1024;
/// For one attempt.
const FORWARD: Duration = Duration::from_secs(5);
/// For one event: what containerd answers so often, it means. With the pauses this is a minute.
const REFUSALS: u32 = 33;
/// Between attempts: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Where events go. Clones put into the same queue.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// None for one that says nothing.
    queue: Option<mpsc::Sender<Envelope>>,
    namespace: String,
}

/// The task that empties the queue.
#[derive(Debug)]
pub struct Forwarder {
    task: JoinHandle<()>,
    /// Closes the queue when it is dropped.
    open: oneshot::Sender<()>,
}

/// Makes a queue and its forwarder, for containerd's ttrpc socket at `address`.
///
/// Has to be called within a tokio runtime.
#[must_use]
pub fn queue(address: &str, namespace: &str) -> (Publisher, Forwarder) {
    let (queue, events) = mpsc::channel(QUEUE);
    let (open, closed) = oneshot::channel();
    let socket = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
    let publisher = Publisher {
        queue: Some(queue),
        namespace: namespace.to_owned(),
    };
    let task = tokio::spawn(forward_all(socket, events, closed));
    (publisher, Forwarder { task, open })
}

impl Publisher {
    /// containerd's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// One that says nothing, for what containerd hears of otherwise.
    #[must_use]
    pub fn muted(&self) -> Self {
        Self {
            queue: None,
            namespace: self.namespace.clone(),
        }
    }

    /// Puts an event behind all earlier ones. Waits only while the queue is full.
    pub async fn publish(&self, topic: &str, event: &dyn MessageDyn) {
        let Some(queue) = &self.queue else { return };
        let value = match event.write_to_bytes_dyn() {
            Ok(value) => value,
            Err(error) => return log::error!("cannot encode the event {topic}: {error}"),
        };
        let event = Any {
            type_url: event.descriptor_dyn().full_name().to_owned(),
            value,
            ..Any::default()
        };
        let envelope = Envelope {
            timestamp: MessageField::some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: MessageField::some(event),
            ..Envelope::default()
        };
        if queue.send(envelope).await.is_err() {
            log::error!("the event {topic} came after the queue was closed");
        }
    }
}

impl Forwarder {
    /// Closes the queue and waits until everything in it is sent, `limit` at most.
    pub async fn drain(self, limit: Duration) {
        drop(self.open);
        if timeout(limit, self.task).await.is_err() {
            log::error!("events are lost: containerd did not take all within {limit:?} at exit");
        }
    }
}

async fn forward_all(
    socket: PathBuf,
    mut events: mpsc::Receiver<Envelope>,
    mut closed: oneshot::Receiver<()>,
) {
    let mut connection = None;
    loop {
        let envelope = tokio::select! {
            biased;
            // It only ever fails: nothing is sent, the sender is dropped.
            _ = &mut closed, if !events.is_closed() => {
                events.close();
                continue;
            }
            envelope = events.recv() => envelope,
        };
        let Some(envelope) = envelope else { return };
        let topic = envelope.topic.clone();
        let request = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..ForwardRequest::default()
        };
        let mut refusals = 0;
        let mut pause = BACKOFF.0;
        while let Err(error) = forward(&mut connection, &socket, &request).await {
            connection = None;
            refusals += u32::from(is_refusal(&error));
            if refusals == REFUSALS {
                log::error!("containerd does not take the event {topic}: {error}");
                break;
            }
            log::warn!("event {topic}: {error}; trying again in {pause:?}");
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

/// Whether containerd has answered, as against one that is away, or silent.
fn is_refusal(error: &ttrpc::Error) -> bool {
    matches!(error, ttrpc::Error::RpcStatus(_))
}

async fn forward(
    connection: &mut Option<EventsClient>,
    socket: &Path,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match connection {
        Some(client) => client,
        None => {
            // ttrpc's own connect blocks while a stopped containerd has a full queue; this one fails.
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|error| ttrpc::Error::Others(format!("cannot connect: {error}")))?;
            connection.insert(EventsClient::new(Client::new(Socket::from(stream))))
        }
    };
    let nanoseconds = i64::try_from(FORWARD.as_nanos()).unwrap_or(i64::MAX);
    client
        .forward(context::with_timeout(nanoseconds), request)
        .await
        .map(|_| ())
}

/// A point in time as protobuf has it. Times before 1970 do not occur and become 1970.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_is_a_refusal() {
        let status = ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no");
        assert!(is_refusal(&ttrpc::Error::RpcStatus(status)));
        assert!(!is_refusal(&ttrpc::Error::RemoteClosed));
        assert!(!is_refusal(&ttrpc::Error::Others("deadline".to_owned())));
    }

    #[tokio::test]
    async fn a_queue_is_drained_while_publishers_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("nobody").display().to_string();
        let (publisher, forwarder) = queue(&address, "default");
        timeout(
            Duration::from_secs(5),
            forwarder.drain(Duration::from_secs(60)),
        )
        .await
        .expect("an empty queue that is closed is drained");
        drop(publisher);
    }
}
