//! The metrics of a service, by the semantic conventions for HTTP. They count from its start on (cumulative).
//!
//! Not the numbers that Prometheus is shown: the conventions want each told apart by method, version and status. A
//! guest may answer with any status, so beyond [`MOST`] kinds of requests all others are one, as the SDKs do it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::messages::{
    AggregationTemporality, Histogram, HistogramDataPoint, KeyValue, Metric, NumberDataPoint, Sum,
    any_value, metric, number_data_point, text,
};
use super::request::{Kind, METHODS};

/// The kinds of requests that are told apart (metrics SDK specification, "Cardinality limits").
const MOST: usize = 2000;
/// Upper bounds of the duration's buckets, in seconds: those that the conventions advise.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
/// Of the body's size, in bytes.
const BYTES: [f64; 10] = [
    0.0,
    100.0,
    1000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
    10_000_000.0,
    100_000_000.0,
    1_000_000_000.0,
    10_000_000_000.0,
];

/// The numbers since a service began.
#[derive(Debug)]
pub(super) struct Measures {
    since: u64,
    /// Requests that are not over, by method.
    active: [AtomicI64; METHODS.len()],
    /// Those that are; all that are too many are `None`.
    ended: Mutex<BTreeMap<Option<Kind>, Series>>,
}

/// Requests of one kind.
#[derive(Debug)]
struct Series {
    seconds: Distribution,
    bytes: Distribution,
}

#[derive(Debug)]
struct Distribution {
    bounds: &'static [f64],
    /// One more than bounds.
    buckets: Vec<u64>,
    sum: f64,
}

impl Distribution {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    fn record(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|most| *most < value);
        self.buckets[bucket] += 1;
        self.sum += value;
    }

    fn point(&self, attributes: &[KeyValue], (since, now): (u64, u64)) -> HistogramDataPoint {
        HistogramDataPoint {
            start_time_unix_nano: since,
            time_unix_nano: now,
            count: self.buckets.iter().sum(),
            sum: Some(self.sum),
            bucket_counts: self.buckets.clone(),
            explicit_bounds: self.bounds.to_vec(),
            attributes: attributes.to_vec(),
            ..HistogramDataPoint::default()
        }
    }
}

impl Measures {
    /// From `since` on, in nanoseconds since 1970.
    pub(super) fn new(since: u64) -> Self {
        Self {
            since,
            active: Default::default(),
            ended: Mutex::default(),
        }
    }

    /// What is added up there stays so, whatever panics elsewhere.
    fn ended(&self) -> MutexGuard<'_, BTreeMap<Option<Kind>, Series>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of this method begins.
    pub(super) fn begin(&self, method: usize) {
        self.active[method].fetch_add(1, Relaxed);
    }

    /// One is over.
    pub(super) fn end(&self, kind: Kind, took: Duration, bytes: u64) {
        self.active[kind.method].fetch_sub(1, Relaxed);
        let mut ended = self.ended();
        let known = ended.len() < MOST || ended.contains_key(&Some(kind));
        let series = ended
            .entry(known.then_some(kind))
            .or_insert_with(|| Series {
                seconds: Distribution::new(&SECONDS),
                bytes: Distribution::new(&BYTES),
            });
        series.seconds.record(took.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "a bucket needs no more")]
        series.bytes.record(bytes as f64);
    }

    /// What there is to tell at `now`, in nanoseconds since 1970.
    pub(super) fn messages(&self, now: u64) -> Vec<Metric> {
        let times = (self.since, now);
        let ended = self.ended();
        let (mut seconds, mut bytes) = (Vec::new(), Vec::new());
        let mut seen = [false; METHODS.len()];
        for (kind, series) in &*ended {
            let attributes = match kind {
                Some(kind) => {
                    seen[kind.method] = true;
                    kind.attributes()
                }
                None => vec![overflow()],
            };
            seconds.push(series.seconds.point(&attributes, times));
            bytes.push(series.bytes.point(&attributes, times));
        }
        drop(ended);
        let mut active = Vec::new();
        for (method, seen) in seen.into_iter().enumerate() {
            let count = self.active[method].load(Relaxed);
            if seen || count != 0 {
                active.push(NumberDataPoint {
                    start_time_unix_nano: self.since,
                    time_unix_nano: now,
                    value: Some(number_data_point::Value::AsInt(count)),
                    attributes: vec![
                        text("http.request.method", METHODS[method]),
                        text("url.scheme", "http"),
                    ],
                    ..NumberDataPoint::default()
                });
            }
        }
        let metrics = [
            histogram(
                ("http.server.request.duration", "s"),
                "Duration of HTTP server requests.",
                seconds,
            ),
            histogram(
                ("http.server.response.body.size", "By"),
                "Size of HTTP server response bodies.",
                bytes,
            ),
            gauge(active),
        ];
        metrics.into_iter().flatten().collect()
    }
}

/// For all that are too many to be told apart.
fn overflow() -> KeyValue {
    let mut overflow = text("otel.metric.overflow", "");
    let value = overflow.value.mut_or_insert_default();
    value.value = Some(any_value::Value::BoolValue(true));
    overflow
}

/// None without points: there is nothing to tell.
fn histogram(
    (name, unit): (&str, &str),
    description: &str,
    points: Vec<HistogramDataPoint>,
) -> Option<Metric> {
    (!points.is_empty()).then(|| Metric {
        name: name.to_owned(),
        description: description.to_owned(),
        unit: unit.to_owned(),
        data: Some(metric::Data::Histogram(Histogram {
            data_points: points,
            aggregation_temporality: CUMULATIVE.into(),
            ..Histogram::default()
        })),
        ..Metric::default()
    })
}

const CUMULATIVE: AggregationTemporality =
    AggregationTemporality::AGGREGATION_TEMPORALITY_CUMULATIVE;

/// A sum that falls, too.
fn gauge(points: Vec<NumberDataPoint>) -> Option<Metric> {
    (!points.is_empty()).then(|| Metric {
        name: "http.server.active_requests".to_owned(),
        description: "Number of active HTTP server requests.".to_owned(),
        unit: "{request}".to_owned(),
        data: Some(metric::Data::Sum(Sum {
            data_points: points,
            aggregation_temporality: CUMULATIVE.into(),
            is_monotonic: false,
            ..Sum::default()
        })),
        ..Metric::default()
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::request::Ended;
    use super::super::{Pending, Sources};
    use super::*;

    fn sources() -> Sources {
        Sources {
            spans: None,
            measures: Some(Measures::new(7)),
        }
    }

    fn begin(sources: &Sources, method: &str) -> Pending {
        let mut request = Request::builder().method(method).body(()).unwrap();
        let pending = sources.begin("10.0.0.7:1".parse().unwrap(), &mut request);
        assert!(request.headers().is_empty(), "only traces have headers");
        pending
    }

    fn end(sources: &Sources, pending: Pending, status: u16, milliseconds: u64) {
        let ended = Ended {
            status: Some(status),
            whole: true,
            bytes: 500,
            took: Duration::from_millis(milliseconds),
        };
        sources.end(pending, &ended);
    }

    fn messages(sources: &Sources) -> Vec<Metric> {
        sources.measures.as_ref().unwrap().messages(9)
    }

    fn points(metric: &Metric) -> &[HistogramDataPoint] {
        match metric.data.as_ref().unwrap() {
            metric::Data::Histogram(histogram) => &histogram.data_points,
            metric::Data::Sum(sum) => panic!("{sum:?}"),
        }
    }

    #[test]
    fn requests_are_told_apart_and_added_up() {
        let sources = sources();
        assert_eq!(messages(&sources), []);
        let waiting = begin(&sources, "POST");
        for (status, milliseconds) in [(200, 3), (200, 5), (200, 30_000), (500, 1)] {
            let pending = begin(&sources, "GET");
            end(&sources, pending, status, milliseconds);
        }
        let metrics = messages(&sources);
        let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "http.server.request.duration",
                "http.server.response.body.size",
                "http.server.active_requests"
            ]
        );
        let [well, failed] = points(&metrics[0]) else {
            panic!("{metrics:?}");
        };
        assert_eq!((well.count, failed.count), (3, 1));
        assert_eq!((well.start_time_unix_nano, well.time_unix_nano), (7, 9));
        // A bound is in the bucket that it bounds.
        assert_eq!((well.bucket_counts[0], well.bucket_counts[14]), (2, 1));
        assert!((well.sum.unwrap() - 30.008).abs() < 1e-9);
        assert_eq!(well.explicit_bounds.len() + 1, well.bucket_counts.len());
        let keys = |point: &HistogramDataPoint| -> Vec<_> {
            let keys = point.attributes.iter();
            keys.map(|attribute| attribute.key.clone()).collect()
        };
        let known = [
            "http.request.method",
            "url.scheme",
            "network.protocol.version",
            "http.response.status_code",
        ];
        assert_eq!(keys(well), known);
        assert_eq!(keys(failed)[4..], ["error.type"]);
        assert_eq!(points(&metrics[1])[0].bucket_counts[2], 3);
        let active = |metrics: &[Metric]| match metrics[2].data.as_ref().unwrap() {
            metric::Data::Sum(sum) => {
                assert!(!sum.is_monotonic);
                let points = sum.data_points.iter();
                let value = |point: &NumberDataPoint| match point.value {
                    Some(number_data_point::Value::AsInt(value)) => value,
                    ref other => panic!("{other:?}"),
                };
                points.map(value).collect::<Vec<_>>()
            }
            metric::Data::Histogram(histogram) => panic!("{histogram:?}"),
        };
        assert_eq!(active(&metrics), [0, 1]);
        end(&sources, waiting, 200, 1);
        assert_eq!(active(&messages(&sources)), [0, 0]);
    }

    #[test]
    fn a_guest_cannot_make_them_endless() {
        let sources = sources();
        for method in ["GET", "POST", "PUT"] {
            for status in 100..1000 {
                let pending = begin(&sources, method);
                end(&sources, pending, status, 1);
            }
        }
        let metrics = messages(&sources);
        let points = points(&metrics[0]);
        assert_eq!(points.len(), MOST + 1);
        assert_eq!(points[0].attributes, [overflow()]);
        assert_eq!(points[0].count, 2700 - MOST as u64);
    }
}
