//! Spans, as the requests and their ends make them.

use std::sync::Arc;

use super::super::messages::any_value::Value;
use super::super::queue::Queue;
use super::*;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn sources(ratio: f64, propagate: bool) -> Sources {
    Sources {
        spans: Some(Spans {
            ratio,
            follow: true,
            propagate,
            queue: Arc::new(Queue::new(4, 4)),
        }),
        measures: None,
    }
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut builder = Request::get("/orders?secret=1");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap()
}

const WELL: Ended = Ended {
    status: Some(200),
    whole: true,
    bytes: 5,
    took: Duration::from_millis(2),
};

/// The span of a request that ended so, if it is told.
fn told(sources: &Sources, mut request: Request<()>, ended: &Ended) -> Option<Span> {
    let client = "10.0.0.7:4321".parse().unwrap();
    let pending = sources.begin(client, &mut request);
    sources.end(pending, ended);
    sources.spans.as_ref().unwrap().queue.take().pop()
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

#[test]
fn a_span_is_what_the_conventions_say() {
    let request = request(&[("host", "shop.example:8080"), ("user-agent", "curl/8")]);
    let span = told(&sources(1.0, true), request, &WELL).unwrap();
    assert_eq!(span.name, "GET");
    assert_eq!(span.kind, SpanKind::SPAN_KIND_SERVER.into());
    assert_eq!(
        shown(&span.attributes),
        [
            "http.request.method=GET",
            "url.scheme=http",
            "url.path=/orders",
            "network.protocol.version=1.1",
            "client.address=10.0.0.7",
            "network.peer.address=10.0.0.7",
            "network.peer.port=4321",
            "server.address=shop.example",
            "server.port=8080",
            "user_agent.original=curl/8",
            "http.response.status_code=200",
            "http.response.body.size=5",
        ]
    );
    assert!(span.status.is_none());
    assert_eq!(
        span.end_time_unix_nano - span.start_time_unix_nano,
        2_000_000
    );
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
    assert_eq!(span.parent_span_id, [0; 0]);
    assert_eq!(span.flags, 0x101);
}

#[test]
fn failures_are_told_apart() {
    let error = |ended: &Ended| {
        let span = told(&sources(1.0, true), request(&[]), ended).unwrap();
        let attributes = shown(&span.attributes);
        let mut errors = attributes.iter();
        let error = errors.find_map(|shown| shown.strip_prefix("error.type="));
        assert_eq!(span.status.is_some(), error.is_some());
        error.map(str::to_owned)
    };
    let ended = |status, whole| Ended {
        status,
        whole,
        ..WELL
    };
    assert_eq!(error(&ended(Some(404), true)), None);
    assert_eq!(error(&ended(Some(504), true)).unwrap(), "504");
    assert_eq!(error(&ended(Some(200), false)).unwrap(), "incomplete");
    assert_eq!(error(&ended(None, true)).unwrap(), "canceled");
}

#[test]
fn the_trace_of_a_request_goes_on() {
    let sources = sources(0.0, true);
    let mut request = request(&[
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
    ]);
    let pending = sources.begin("10.0.0.7:1".parse().unwrap(), &mut request);
    let span = pending.span.as_ref().unwrap();
    let parent = Context::of(&HeaderMap::from_iter([(
        TRACEPARENT,
        HeaderValue::from_static(PARENT),
    )]));
    let parent = parent.unwrap();
    assert_eq!(span.trace_id, parent.trace);
    assert_eq!(span.parent_span_id, parent.span);
    assert_eq!(span.trace_state, "a=1,b=2");
    assert_eq!(span.flags, 0x301);
    // The guest is told ours.
    let seen = Context::of(request.headers()).unwrap();
    assert_eq!(seen.trace, parent.trace);
    assert_eq!(seen.span.as_slice(), span.span_id);
    assert!(seen.sampled);
    assert_eq!(request.headers().get_all(TRACESTATE).iter().count(), 2);
}

#[test]
fn a_trace_that_is_not_told_goes_on_silently() {
    let sources = sources(1.0, true);
    let silent = PARENT.replace("-01", "-00");
    let mut request = request(&[("traceparent", &silent)]);
    let pending = sources.begin("10.0.0.7:1".parse().unwrap(), &mut request);
    assert!(pending.span.is_none());
    let seen = Context::of(request.headers()).unwrap();
    assert!(!seen.sampled);
    assert_ne!(seen.to_string(), silent);
    sources.end(pending, &WELL);
    assert_eq!(sources.spans.unwrap().queue.take().len(), 0);
}

#[test]
fn a_trace_that_cannot_be_read_is_begun_anew() {
    let sources = sources(1.0, true);
    let mut request = request(&[("traceparent", "nonsense"), ("tracestate", "a=1")]);
    let pending = sources.begin("10.0.0.7:1".parse().unwrap(), &mut request);
    assert_eq!(pending.span.unwrap().parent_span_id, [0; 0]);
    assert!(Context::of(request.headers()).is_some());
    assert!(!request.headers().contains_key(TRACESTATE));
}

#[test]
fn headers_are_left_alone_if_that_is_asked_for() {
    let sources = sources(1.0, false);
    let mut request = request(&[("traceparent", PARENT), ("tracestate", "a=1")]);
    let pending = sources.begin("10.0.0.7:1".parse().unwrap(), &mut request);
    assert_eq!(pending.span.unwrap().parent_span_id, [0; 0]);
    assert_eq!(request.headers()["traceparent"], PARENT);
    assert_eq!(request.headers()["tracestate"], "a=1");
}

#[test]
fn what_clients_choose_is_bounded() {
    let mut request = request(&[("user-agent", &"x".repeat(5000))]);
    *request.method_mut() = http::Method::from_bytes(b"BREW").unwrap();
    *request.uri_mut() = format!("/{}", "y".repeat(5000)).parse().unwrap();
    let span = told(&sources(1.0, true), request, &WELL).unwrap();
    assert_eq!(span.name, "HTTP");
    let attributes = shown(&span.attributes);
    assert!(attributes.contains(&"http.request.method=_OTHER".to_owned()));
    assert!(attributes.contains(&"http.request.method_original=BREW".to_owned()));
    assert!(attributes.iter().all(|shown| shown.len() < 1100));
}
