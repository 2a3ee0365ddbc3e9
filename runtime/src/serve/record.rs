//! What is told of requests, if anybody wants to know: a line of the access log, numbers for Prometheus, spans and
//! metrics for OpenTelemetry.
//!
//! A request has a [`Record`] from its arrival to the last byte of its answer, and only if one of these is
//! on. Without them there is nothing to pay for.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Request, StatusCode, Version};

use crate::Output;
use crate::telemetry::{Ended, Pending, Sources};

/// Upper bounds of the histogram's buckets, in milliseconds.
const BUCKETS: [u64; 14] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 60_000,
];
/// The status of a client that did not wait for its answer, as nginx has it.
const GONE: u16 = 499;
/// Statuses have three digits.
const STATUSES: usize = 1000;

/// What is watched of a service.
#[derive(Debug)]
pub(super) struct Observer {
    /// Where lines of the access log go.
    pub(super) log: Option<Output>,
    pub(super) numbers: Numbers,
    /// What OpenTelemetry is told.
    pub(super) sources: Option<Arc<Sources>>,
}

/// The numbers since the service began.
#[derive(Debug)]
pub(super) struct Numbers {
    by_status: Box<[AtomicU64]>,
    buckets: [AtomicU64; BUCKETS.len()],
    microseconds: AtomicU64,
    bytes: AtomicU64,
    in_flight: AtomicI64,
    lost_lines: AtomicU64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            by_status: (0..STATUSES).map(|_| AtomicU64::new(0)).collect(),
            buckets: Default::default(),
            microseconds: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_flight: AtomicI64::new(0),
            lost_lines: AtomicU64::new(0),
        }
    }
}

impl Numbers {
    fn count(&self, status: u16, bytes: u64, took: Duration) {
        if let Some(count) = self.by_status.get(usize::from(status)) {
            count.fetch_add(1, Relaxed);
        }
        let bucket = BUCKETS
            .iter()
            .position(|most| took <= Duration::from_millis(*most));
        if let Some(bucket) = bucket {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// In Prometheus' text format, version 0.0.4.
impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# HELP wasi_http_requests_total Requests that were answered, by status; 499 is a client that did not wait."
        )?;
        writeln!(f, "# TYPE wasi_http_requests_total counter")?;
        let mut total = 0;
        for (status, count) in self.by_status.iter().enumerate() {
            let count = count.load(Relaxed);
            if count > 0 {
                writeln!(f, "wasi_http_requests_total{{code=\"{status}\"}} {count}")?;
                total += count;
            }
        }
        writeln!(
            f,
            "# HELP wasi_http_request_duration_seconds From a request's head to the end of its answer."
        )?;
        writeln!(f, "# TYPE wasi_http_request_duration_seconds histogram")?;
        let mut sum = 0;
        for (most, count) in BUCKETS.iter().zip(&self.buckets) {
            sum += count.load(Relaxed);
            let (seconds, milliseconds) = (most / 1000, most % 1000);
            writeln!(
                f,
                "wasi_http_request_duration_seconds_bucket{{le=\"{seconds}.{milliseconds:03}\"}} {sum}"
            )?;
        }
        // Requests that end meanwhile may be in one and not in the other.
        let total = total.max(sum);
        writeln!(
            f,
            "wasi_http_request_duration_seconds_bucket{{le=\"+Inf\"}} {total}"
        )?;
        let microseconds = self.microseconds.load(Relaxed);
        let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
        writeln!(
            f,
            "wasi_http_request_duration_seconds_sum {seconds}.{rest:06}"
        )?;
        writeln!(f, "wasi_http_request_duration_seconds_count {total}")?;
        for (name, kind, help, value) in [
            (
                "wasi_http_response_bytes_total",
                "counter",
                "Bytes of the bodies of answers.",
                self.bytes.load(Relaxed).cast_signed(),
            ),
            (
                "wasi_http_requests_in_flight",
                "gauge",
                "Requests that are not answered to their end, those that wait for others included.",
                self.in_flight.load(Relaxed),
            ),
            (
                "wasi_http_access_log_lost_lines_total",
                "counter",
                "Lines of the access log that its reader was too slow for.",
                self.lost_lines.load(Relaxed).cast_signed(),
            ),
        ] {
            writeln!(
                f,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )?;
        }
        Ok(())
    }
}

/// One request, which is told of when this is dropped.
pub(super) struct Record {
    observer: Arc<Observer>,
    begun: Instant,
    /// `CLIENT "METHOD PATH VERSION"`, if there is a log.
    what: Option<String>,
    /// If OpenTelemetry is told.
    pending: Option<Pending>,
    status: Option<StatusCode>,
    whole: bool,
    bytes: u64,
}

impl Record {
    pub(super) fn new<B>(
        observer: &Arc<Observer>,
        client: SocketAddr,
        request: &mut Request<B>,
    ) -> Self {
        observer.numbers.in_flight.fetch_add(1, Relaxed);
        let what = observer.log.is_some().then(|| {
            let version = match request.version() {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2.0",
                _ => "HTTP/1.1",
            };
            // A path has no character that ends a line, or a quotation (RFC 3986).
            let path = request.uri().path();
            format!("{} \"{} {path} {version}\"", client.ip(), request.method())
        });
        let sources = observer.sources.as_ref();
        let pending = sources.map(|sources| sources.begin(client, request));
        Self {
            observer: Arc::clone(observer),
            begun: Instant::now(),
            what,
            pending,
            status: None,
            whole: true,
            bytes: 0,
        }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(super) fn broke_off(&mut self) {
        self.whole = false;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let numbers = &self.observer.numbers;
        let took = self.begun.elapsed();
        let answered = self.status.map(|status| status.as_u16());
        let status = answered.unwrap_or(GONE);
        numbers.in_flight.fetch_sub(1, Relaxed);
        numbers.count(status, self.bytes, took);
        if let (Some(sources), Some(pending)) = (&self.observer.sources, self.pending.take()) {
            let ended = Ended {
                status: answered,
                whole: self.whole,
                bytes: self.bytes,
                took,
            };
            sources.end(pending, &ended);
        }
        if let (Some(log), Some(line)) = (&self.observer.log, &mut self.what) {
            let seconds = took.as_secs_f64();
            // Writing to a string cannot fail.
            let _ = writeln!(line, " {status} {} {seconds:.6}", self.bytes);
            if !log.say_now(line.as_bytes()) {
                numbers.lost_lines.fetch_add(1, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_the_format_of_prometheus() {
        let numbers = Numbers::default();
        numbers.count(200, 10, Duration::from_millis(3));
        numbers.count(200, 10, Duration::from_secs(100));
        numbers.count(504, 0, Duration::from_micros(500));
        let text = numbers.to_string();
        for line in [
            "wasi_http_requests_total{code=\"200\"} 2",
            "wasi_http_requests_total{code=\"504\"} 1",
            "wasi_http_request_duration_seconds_bucket{le=\"0.001\"} 1",
            "wasi_http_request_duration_seconds_bucket{le=\"0.005\"} 2",
            "wasi_http_request_duration_seconds_bucket{le=\"60.000\"} 2",
            "wasi_http_request_duration_seconds_bucket{le=\"+Inf\"} 3",
            "wasi_http_request_duration_seconds_sum 100.003500",
            "wasi_http_request_duration_seconds_count 3",
            "wasi_http_response_bytes_total 20",
            "wasi_http_requests_in_flight 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_client_that_does_not_wait_is_counted_as_gone() {
        let observer = Arc::new(Observer {
            log: None,
            numbers: Numbers::default(),
            sources: None,
        });
        let mut request = Request::new(());
        let client = "127.0.0.1:1".parse().unwrap();
        let record = Record::new(&observer, client, &mut request);
        assert!(request.headers().is_empty(), "nothing is added to it");
        assert_eq!(observer.numbers.in_flight.load(Relaxed), 1);
        drop(record);
        assert_eq!(observer.numbers.in_flight.load(Relaxed), 0);
        assert_eq!(observer.numbers.by_status[499].load(Relaxed), 1);
    }
}
