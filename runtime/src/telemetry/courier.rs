//! What collectors are told, and when.
//!
//! It sleeps until a span has waited for [`Traces::delay`], or there is a batch, or metrics are due. A delivery that may
//! succeed later is tried again, up to [`ATTEMPTS`] times and ever later; meanwhile the queue fills, and what it has no
//! room for is lost. Metrics are not tried again: the next ones say it all.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protobuf::Message;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::complaints::Complaints;
use super::exporter::{Means, say};
use super::messages::{
    ExportMetricsServiceRequest, ExportTraceServiceRequest, Resource, ResourceMetrics,
    ResourceSpans, SCHEMA, ScopeMetrics, ScopeSpans, Span, resource, scope,
};
use super::{Collector, Metrics, Sources, Telemetry, Traces, now};

/// How often a delivery is tried.
const ATTEMPTS: u32 = 5;
/// How long nothing is tried after the first failure; twice that after the next.
const PAUSE: Duration = Duration::from_secs(1);
/// The most that the end of a service waits, in any case.
const FLUSH: Duration = Duration::from_secs(2);

/// Who does it all, on the thread.
pub(super) struct Courier {
    resource: Resource,
    traces: Option<Route<Traces>>,
    metrics: Option<Route<Metrics>>,
    sources: Arc<Sources>,
    pub(super) means: Means,
    /// Since when there are spans, and no batch of them.
    waiting: Option<Instant>,
    held: Option<Held>,
}

/// To one collector.
struct Route<T> {
    settings: T,
    complaints: Complaints,
}

impl<T> Route<T> {
    fn new(settings: T) -> Self {
        Self {
            settings,
            complaints: Complaints::default(),
        }
    }
}

/// Spans on their way.
#[derive(Clone)]
struct Held {
    body: Bytes,
    count: usize,
    attempts: u32,
    /// When the next attempt is.
    again: Instant,
}

impl Courier {
    pub(super) fn new(telemetry: Telemetry, sources: Arc<Sources>, means: Means) -> Self {
        Self {
            resource: resource(&telemetry),
            traces: telemetry.traces.map(Route::new),
            metrics: telemetry.metrics.map(Route::new),
            sources,
            means,
            waiting: None,
            held: None,
        }
    }

    /// Delivers until it is told to finish, or until nobody is there to tell it.
    pub(super) async fn work(&mut self, mut orders: watch::Receiver<bool>) {
        tokio::select! {
            biased;
            told = orders.wait_for(|flush| *flush) => if told.is_err() {
                return;
            },
            never = self.deliver() => match never {},
        }
        let traces = self.traces.as_ref();
        let limit = traces.map_or(FLUSH, |traces| traces.settings.flush.min(FLUSH));
        tokio::select! {
            biased;
            // Nobody waits any more; the order does not change.
            _ = orders.changed() => {}
            _in_time = timeout(limit, self.flush()) => {}
        }
        self.count_lost();
    }

    /// Tells what there is to tell, when it is time.
    async fn deliver(&mut self) -> Infallible {
        let interval = |courier: &Self| {
            let metrics = courier.metrics.as_ref();
            metrics.map(|metrics| Instant::now() + metrics.settings.interval)
        };
        let mut metrics = interval(self);
        loop {
            let spans = self.spans_due();
            tokio::select! {
                biased;
                () = until(metrics) => {
                    metrics = interval(self);
                    self.tell_metrics().await;
                }
                () = until(spans) => {
                    self.tell_spans().await;
                }
                () = self.changed() => {}
            }
        }
    }

    async fn changed(&self) {
        match &self.sources.spans {
            Some(spans) => spans.queue.changed().await,
            None => pending().await,
        }
    }

    /// When spans are to be told, if there are any.
    fn spans_due(&mut self) -> Option<Instant> {
        let (traces, spans) = (self.traces.as_ref()?, self.sources.spans.as_ref()?);
        if let Some(held) = &self.held {
            return Some(held.again);
        }
        match spans.queue.fill() {
            (false, _) => {
                self.waiting = None;
                None
            }
            (true, true) => Some(Instant::now()),
            (true, false) => {
                let since = *self.waiting.get_or_insert_with(Instant::now);
                Some(since + traces.settings.delay)
            }
        }
    }

    /// Tells a batch, be it one that was not taken before. Whether it was.
    async fn tell_spans(&mut self) -> bool {
        let (Some(traces), Some(spans)) = (&mut self.traces, &self.sources.spans) else {
            return true;
        };
        // It stays held while it is on its way: this may be dropped.
        let held = self.held.get_or_insert_with(|| {
            let spans = spans.queue.take();
            Held {
                count: spans.len(),
                body: of_spans(&self.resource, spans),
                attempts: 0,
                again: Instant::now(),
            }
        });
        self.waiting = None;
        held.attempts += 1;
        let collector = &traces.settings.collector;
        let by = (&*self.means.network, &self.means.trust);
        let taken = collector.take(by, held.body.clone()).await;
        let to = &collector.endpoint;
        let (line, taken) = match taken {
            Ok(None) => {
                self.held = None;
                let again = format!("spans reach {to} again");
                (traces.complaints.arrived(&again), true)
            }
            Ok(Some(partial)) => {
                let refused = usize::try_from(partial.rejected).unwrap_or_default();
                spans.queue.lose(refused.min(held.count));
                self.held = None;
                let words = partial.error_message.escape_debug();
                let refused = format!("{to} has refused {refused} spans: {words}");
                (traces.complaints.failed(now_here(), &refused), true)
            }
            Err(failure) => {
                if failure.passing && held.attempts < ATTEMPTS {
                    held.again = Instant::now() + pause(held.attempts);
                } else {
                    spans.queue.lose(held.count);
                    self.held = None;
                }
                let words = format!("cannot send spans to {to}: {}", failure.reason);
                (traces.complaints.failed(now_here(), &words), false)
            }
        };
        if let Some(line) = line {
            say(&self.means.stderr, &line);
        }
        taken
    }

    async fn tell_metrics(&mut self) {
        let (Some(metrics), Some(measures)) = (&mut self.metrics, &self.sources.measures) else {
            return;
        };
        let messages = measures.messages(now());
        if messages.is_empty() {
            return;
        }
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()).into(),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()).into(),
                    metrics: messages,
                    schema_url: SCHEMA.to_owned(),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
            ..ExportMetricsServiceRequest::default()
        };
        let collector: &Collector = &metrics.settings.collector;
        let by = (&*self.means.network, &self.means.trust);
        let taken = collector.take(by, encoded(&request)).await;
        let to = &collector.endpoint;
        let line = match taken {
            Ok(None) => {
                let again = format!("metrics reach {to} again");
                metrics.complaints.arrived(&again)
            }
            Ok(Some(partial)) => {
                let words = partial.error_message.escape_debug();
                let refused = format!("{to} has refused {} metrics: {words}", partial.rejected);
                metrics.complaints.failed(now_here(), &refused)
            }
            Err(failure) => {
                let words = format!("cannot send metrics to {to}: {}", failure.reason);
                metrics.complaints.failed(now_here(), &words)
            }
        };
        if let Some(line) = line {
            say(&self.means.stderr, &line);
        }
    }

    /// Tells what is left, without patience.
    async fn flush(&mut self) {
        while self.spans_due().is_some() {
            if !self.tell_spans().await {
                break;
            }
        }
        self.tell_metrics().await;
    }

    /// Says how many spans nobody was told, at the end.
    fn count_lost(&mut self) {
        let Some(spans) = &self.sources.spans else {
            return;
        };
        if let Some(held) = self.held.take() {
            spans.queue.lose(held.count);
        }
        loop {
            match spans.queue.take().len() {
                0 => break,
                left => spans.queue.lose(left),
            }
        }
        let lost = spans.queue.lost();
        if lost > 0 {
            let line = format!("OpenTelemetry: {lost} spans were lost\n");
            say(&self.means.stderr, &line);
        }
    }
}

fn of_spans(resource: &Resource, spans: Vec<Span>) -> Bytes {
    encoded(&ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()).into(),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()).into(),
                spans,
                schema_url: SCHEMA.to_owned(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
        ..ExportTraceServiceRequest::default()
    })
}

fn encoded(message: &impl Message) -> Bytes {
    let bytes = message.write_to_bytes();
    bytes.expect("a message without required fields").into()
}

/// How long to wait after so many failures: twice as long after each, and not as long as all others do.
fn pause(failures: u32) -> Duration {
    let whole = PAUSE * 2_u32.saturating_pow(failures.saturating_sub(1));
    whole.mul_f64(rand::random_range(0.5..=1.0))
}

fn now_here() -> std::time::Instant {
    Instant::now().into_std()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
