//! Events to containerd: one queue, one forwarder, in the order of the queue.
//!
//! An event is sent until containerd takes it, and nothing overtakes it; while containerd restarts,
//! the queue waits. An event that containerd refuses for `GIVE_UP` is dropped with a line in the log,
//! so that one bad event cannot hold up all others for ever. At exit the queue is drained, for a
//! bounded time. (containerd `pkg/shim/publisher.go` re-queues failed events behind newer ones; order
//! is what `docker exec` and CRI rely on.)

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{MessageDyn, MessageField};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use ttrpc::context;

/// Events that wait while containerd is away; then who publishes has to wait, too.
const QUEUE: usize = 1024;
/// For one attempt.
const FORWARD: Duration = Duration::from_secs(5);
/// For one event, over all attempts.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Between attempts: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Where events go. Clones put into the same queue.
#[derive(Debug, Clone)]
pub struct Publisher {
    queue: mpsc::Sender<Envelope>,
    namespace: String,
}

/// The task that empties the queue.
#[derive(Debug)]
pub struct Forwarder(JoinHandle<()>);

/// Makes a queue and its forwarder, for containerd's ttrpc socket at `address`.
///
/// Has to be called within a tokio runtime.
#[must_use]
pub fn queue(address: &str, namespace: &str) -> (Publisher, Forwarder) {
    let (queue, events) = mpsc::channel(QUEUE);
    let address = if address.contains("://") {
        address.to_owned()
    } else {
        format!("unix://{address}")
    };
    let publisher = Publisher {
        queue,
        namespace: namespace.to_owned(),
    };
    (
        publisher,
        Forwarder(tokio::spawn(forward_all(address, events))),
    )
}

impl Publisher {
    /// Puts an event behind all earlier ones. Waits only while the queue is full.
    pub async fn publish(&self, topic: &str, event: &dyn MessageDyn) {
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
        if self.queue.send(envelope).await.is_err() {
            log::error!("the event {topic} came after the queue was closed");
        }
    }
}

impl Forwarder {
    /// Waits until everything is sent, `limit` at most. All [`Publisher`]s must be gone.
    pub async fn drain(self, limit: Duration) {
        if timeout(limit, self.0).await.is_err() {
            log::error!("events are lost: containerd took none for {limit:?} at exit");
        }
    }
}

async fn forward_all(address: String, mut events: mpsc::Receiver<Envelope>) {
    let mut connection = None;
    while let Some(envelope) = events.recv().await {
        let topic = envelope.topic.clone();
        let request = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..ForwardRequest::default()
        };
        let begun = Instant::now();
        let mut pause = BACKOFF.0;
        while let Err(error) = forward(&mut connection, &address, &request).await {
            connection = None;
            if begun.elapsed() > GIVE_UP {
                log::error!("containerd does not take the event {topic}: {error}");
                break;
            }
            log::warn!("event {topic}: {error}; trying again in {pause:?}");
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

async fn forward(
    connection: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match connection {
        Some(client) => client,
        None => connection.insert(EventsClient::new(Client::connect(address).await?)),
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
