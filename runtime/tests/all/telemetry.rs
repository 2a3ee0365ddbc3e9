//! What collectors of OpenTelemetry are told of services.

use std::convert::Infallible;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use protobuf::Message as _;
use wasi_runtime::{Collector, Guest, Metrics, Middleware, Network, Outcome, Telemetry, Traces};

use self::messages::any_value::Value;
use self::messages::metric::Data;
use self::messages::{
    ExportMetricsServiceRequest, ExportTraceServiceRequest, KeyValue, Metric, Span,
};
use crate::fixture::{Fixture, Running, args, runtime, start};
use crate::http::{Client, PATIENCE, get, serve_with, service};

#[allow(
    clippy::all,
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction,
    dead_code,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated from runtime/protos/"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/protos/mod.rs"));
    pub(crate) use self::otlp::*;
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// What a collector got: the path, the headers, the body.
pub(crate) type Got = (String, HeaderMap, Bytes);

/// Takes all, on a thread that ends with the test's process, and answers with `statuses` and then 200.
pub(crate) fn collector(statuses: &'static [u16]) -> (SocketAddr, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (sender, got) = channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let mut statuses = statuses.iter();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let status = *statuses.next().unwrap_or(&200);
                let service = service_fn(async |request: Request<Incoming>| {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    // The test may have seen enough.
                    drop(sender.send((head.uri.to_string(), head.headers, body)));
                    let mut response = Response::new(Full::<Bytes>::default());
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    Ok::<_, Infallible>(response)
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // Who goes away has got its answer.
                drop(connection.await);
            }
        });
    });
    (address, got)
}

fn to(address: SocketAddr, path: &str) -> Collector {
    Collector {
        endpoint: format!("http://{address}{path}").parse().unwrap(),
        headers: HeaderMap::new(),
        timeout: PATIENCE,
    }
}

pub(crate) fn traces(address: SocketAddr) -> Telemetry {
    Telemetry {
        resource: vec![("service.name".to_owned(), "shop".to_owned())],
        traces: Some(Traces {
            collector: to(address, "/v1/traces"),
            ratio: 1.0,
            follow: true,
            propagate: true,
            queue: 16,
            batch: 16,
            delay: Duration::ZERO,
            flush: PATIENCE,
        }),
        metrics: None,
        warnings: Vec::new(),
    }
}

fn metrics(address: SocketAddr, interval: Duration) -> Telemetry {
    Telemetry {
        traces: None,
        metrics: Some(Metrics {
            collector: to(address, "/v1/metrics"),
            interval,
        }),
        ..traces(address)
    }
}

pub(crate) fn serve(fixture: &Fixture, telemetry: Telemetry) -> (SocketAddr, Running) {
    let (address, mut service) = service(1);
    service.telemetry = Some(telemetry);
    (address, serve_with(fixture, service, args(["handler"])))
}

pub(crate) fn next(got: &Receiver<Got>) -> Got {
    got.recv_timeout(PATIENCE).expect("the collector is told")
}

/// The spans of one delivery, whose resource and scope are as they have to be.
fn spans((path, _, body): &Got) -> Vec<Span> {
    assert_eq!(path, "/v1/traces");
    let mut request = ExportTraceServiceRequest::parse_from_bytes(body).unwrap();
    assert_eq!(request.resource_spans.len(), 1);
    let mut told = request.resource_spans.remove(0);
    let resource = shown(&told.resource.attributes);
    assert!(resource.contains(&"service.name=shop".to_owned()));
    assert!(resource.contains(&"telemetry.sdk.language=rust".to_owned()));
    assert_eq!(told.scope_spans.len(), 1);
    let scope = told.scope_spans.remove(0);
    assert_eq!(scope.scope.name, "wasi-runtime");
    scope.spans
}

fn numbers((path, _, body): &Got) -> Vec<Metric> {
    assert_eq!(path, "/v1/metrics");
    let mut request = ExportMetricsServiceRequest::parse_from_bytes(body).unwrap();
    let mut told = request.resource_metrics.remove(0);
    assert!(shown(&told.resource.attributes).contains(&"service.name=shop".to_owned()));
    told.scope_metrics.remove(0).metrics
}

fn shown(attributes: &[KeyValue]) -> Vec<String> {
    let shown = attributes.iter().map(|attribute| {
        let value = match &attribute.value.value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{other:?}"),
        };
        format!("{}={value}", attribute.key)
    });
    shown.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_request_is_a_span() {
    let fixture = Fixture::new();
    let (collector, got) = collector(&[]);
    let mut telemetry = traces(collector);
    let traces = telemetry.traces.as_mut().unwrap();
    let secret = "secret".parse().unwrap();
    traces.collector.headers.insert("authorization", secret);
    telemetry.warnings = vec!["a warning".to_owned()];
    let (address, running) = serve(&fixture, telemetry);
    let mut client = Client::new(address);
    let request =
        format!("GET /env?secret HTTP/1.1\r\nHost: test:81\r\ntraceparent: {PARENT}\r\n\r\n");
    client.0.get_mut().write_all(request.as_bytes()).unwrap();
    assert_eq!(client.answer().0, 200);
    let told = next(&got);
    assert_eq!(told.1["content-type"], "application/x-protobuf");
    assert_eq!(told.1["authorization"], "secret");
    assert_eq!(told.1["host"], collector.to_string());
    let spans = spans(&told);
    let [span] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(hex(&span.trace_id), PARENT[3..35]);
    assert_eq!(hex(&span.parent_span_id), PARENT[36..52]);
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
    let attributes = shown(&span.attributes);
    for attribute in [
        "http.request.method=GET",
        "url.path=/env",
        "server.address=test",
        "server.port=81",
        "client.address=127.0.0.1",
        "http.response.status_code=200",
    ] {
        assert!(
            attributes.iter().any(|known| known == attribute),
            "{attribute}: {attributes:?}"
        );
    }
    // One of a trace of its own, which fails.
    assert_eq!(client.get("/trap").0, 500);
    let spans = self::spans(&next(&got));
    assert_eq!(spans[0].parent_span_id, [0; 0]);
    assert_ne!(hex(&spans[0].trace_id), PARENT[3..35]);
    assert!(shown(&spans[0].attributes).contains(&"error.type=500".to_owned()));
    assert!(spans[0].status.is_some());
    let ran = running.kill();
    assert!(
        ran.stderr.starts_with("OpenTelemetry: a warning\n"),
        "{ran:?}"
    );
    assert!(!ran.stderr.contains("cannot"), "{ran:?}");
}

/// It passes its request on as it sees it, to a server that answers with it.
#[test]
fn the_guest_and_whom_it_asks_are_told_the_span() {
    const PASSES: &str = r#"(module (memory (export "memory") 1)
        (func (export "handle_request") (result i64) (i64.const 1))
        (func (export "handle_response") (param i32 i32)))"#;
    let fixture = Fixture::new();
    let upstream = crate::middleware::upstream();
    let (collector, got) = collector(&[]);
    for told in [Some(traces(collector)), None] {
        let (address, mut service) = service(1);
        let off = told.is_none();
        service.telemetry = told;
        service.middleware = Some(Middleware {
            host: upstream.ip().to_string(),
            port: upstream.port(),
            config: Vec::new(),
            buffer_bytes: 1,
        });
        let guest = Guest {
            http: Some(service),
            network: Network::All,
            ..args(["middleware"])
        };
        let running = start(&fixture.wat(PASSES), guest);
        let (status, seen) = get(address, "/");
        assert_eq!(status, 200);
        if off {
            assert!(!seen.contains("traceparent"), "{seen}");
        } else {
            let span = spans(&next(&got)).remove(0);
            let (trace, span) = (hex(&span.trace_id), hex(&span.span_id));
            let header = format!("traceparent: 00-{trace}-{span}-01\r\n");
            assert!(seen.contains(&header), "{header}: {seen}");
        }
        drop(running.kill());
    }
}

#[test]
fn metrics_are_told_again_and_again() {
    let fixture = Fixture::new();
    let (collector, got) = collector(&[]);
    let telemetry = metrics(collector, Duration::from_millis(50));
    let (address, running) = serve(&fixture, telemetry);
    assert_eq!(get(address, "/hello").0, 200);
    assert_eq!(get(address, "/trap").0, 500);
    // Counted when it is sent to its end, which may be after it has come.
    let metrics = loop {
        let metrics = numbers(&next(&got));
        let duration = &metrics[0];
        let Some(Data::Histogram(histogram)) = &duration.data else {
            // The only one while there is only a request that is not over.
            assert_eq!(duration.name, "http.server.active_requests");
            continue;
        };
        assert_eq!(duration.name, "http.server.request.duration");
        if histogram
            .data_points
            .iter()
            .map(|point| point.count)
            .sum::<u64>()
            == 2
        {
            break metrics;
        }
    };
    assert_eq!(metrics[0].unit, "s");
    let Some(Data::Histogram(histogram)) = &metrics[0].data else {
        panic!("{metrics:?}");
    };
    assert_eq!(histogram.data_points.len(), 2);
    let failed = shown(&histogram.data_points[1].attributes);
    assert!(failed.contains(&"http.response.status_code=500".to_owned()));
    drop(running.kill());
}

/// Nothing is told before the end, and all of it then.
#[test]
fn what_is_left_is_told_at_the_end() {
    let fixture = Fixture::new();
    let (collector, got) = collector(&[]);
    let mut telemetry = metrics(collector, NEVER);
    telemetry.traces = traces(collector).traces;
    telemetry.traces.as_mut().unwrap().delay = NEVER;
    let (address, running) = serve(&fixture, telemetry);
    for _ in 0..3 {
        assert_eq!(get(address, "/count").0, 200);
    }
    running.interrupter.drain();
    let ran = running.end();
    assert_eq!(ran.outcome, Outcome::Exited(0), "{ran:?}");
    assert_eq!(spans(&next(&got)).len(), 3);
    assert_eq!(numbers(&next(&got)).len(), 3);
    assert_eq!(ran.stderr, "");
    assert!(got.try_recv().is_err());
}

#[test]
fn a_batch_does_not_wait() {
    let fixture = Fixture::new();
    let (collector, got) = collector(&[]);
    let mut telemetry = traces(collector);
    let traces = telemetry.traces.as_mut().unwrap();
    (traces.delay, traces.batch) = (NEVER, 2);
    let (address, running) = serve(&fixture, telemetry);
    for _ in 0..4 {
        assert_eq!(get(address, "/count").0, 200);
    }
    for _ in 0..2 {
        assert_eq!(spans(&next(&got)).len(), 2);
    }
    drop(running.kill());
}
