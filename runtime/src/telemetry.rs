//! OpenTelemetry: a service tells a collector of each request (a span) and of all of them (metrics), by OTLP over HTTP.
//!
//! ```text
//! request ─ begin ─► Pending ─ end ─┬─► Queue ────┐
//!          (traceparent)            └─► Measures ─┴─► Exporter: thread, runtime ──POST──► collector
//! ```
//!
//! The SDK of OpenTelemetry is not used, nor its exporters: they read the environment of the process, which is the shim's
//! and not the container's, and start threads where their first user is. Here the thread is born of the guest's when
//! this runs, so that it is in the container's namespaces and has the rights of its user; it reaches whom the guest's
//! [`Network`](crate::Network) lets it reach, and its processor time is the guest's. What is left is
//! five messages of protobuf, for which the shim has a library, and a POST.
//!
//! Nobody waits for a collector: spans that the queue has no room for are lost and counted, a delivery that fails is
//! tried again a few times, and the end of a service waits for what is left no longer than [`Exporter::finish`]
//! says. The thread sleeps until there is something to tell. Without settings there is no thread, and nothing is
//! done for a request.

mod collector;
mod complaints;
mod context;
mod courier;
mod exporter;
mod measures;
mod messages;
mod queue;
mod request;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Uri};

pub(crate) use self::exporter::{Exporter, Means};
use self::measures::Measures;
use self::queue::Queue;
pub(crate) use self::request::{Ended, Pending};

/// What a service tells collectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// Who tells it: attributes of the resource, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// A span for each request.
    pub traces: Option<Traces>,
    /// Histograms of all requests.
    pub metrics: Option<Metrics>,
    /// Lines about its settings for the guest's stderr, told when the service begins.
    pub warnings: Vec<String>,
}

/// Who takes OTLP over HTTP in protobuf.
#[derive(Debug, Clone, PartialEq)]
pub struct Collector {
    /// Where to POST: `http` or `https`, with a host.
    pub endpoint: Uri,
    /// Sent with everything.
    pub headers: HeaderMap,
    /// How long one delivery may take.
    pub timeout: Duration,
}

/// How spans are made and told.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// Who is told.
    pub collector: Collector,
    /// How many of the traces that begin here are told, from 0 to 1.
    pub ratio: f64,
    /// Whether a trace that has begun elsewhere is told if it is told there; else the ratio holds for it, too.
    pub follow: bool,
    /// Whether `traceparent` of a request says its trace, and the guest is told ours by it.
    pub propagate: bool,
    /// How many spans wait at most; more are lost.
    pub queue: usize,
    /// How many are told at once, at most.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
    /// How long the end of the service waits for what is not told yet, at most 2 s.
    pub flush: Duration,
}

/// How metrics are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// Who is told.
    pub collector: Collector,
    /// How often.
    pub interval: Duration,
}

/// Where requests leave what is told of them.
#[derive(Debug)]
pub(crate) struct Sources {
    spans: Option<Spans>,
    measures: Option<Measures>,
}

/// How spans are made, and where they wait.
#[derive(Debug)]
struct Spans {
    ratio: f64,
    follow: bool,
    propagate: bool,
    queue: Arc<Queue>,
}

impl Sources {
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        Self {
            spans: telemetry.traces.as_ref().map(|traces| Spans {
                ratio: traces.ratio,
                follow: traces.follow,
                propagate: traces.propagate,
                queue: Arc::new(Queue::new(traces.queue, traces.batch)),
            }),
            measures: telemetry.metrics.as_ref().map(|_| Measures::new(now())),
        }
    }
}

/// The time as OTLP has it: nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
