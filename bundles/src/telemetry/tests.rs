//! What the variables mean, one by one.

use super::*;
use crate::testing::BundleBuilder;
use crate::{Bundle, Plan};

fn read(env: &[(&str, &str)]) -> Result<Option<Telemetry>, Error> {
    let bundle = BundleBuilder::new();
    let bundle = env
        .iter()
        .fold(bundle, |bundle, (name, value)| bundle.env(name, value));
    let bundle = bundle.build();
    let plan = Plan::new(&Bundle::open(bundle.path()).unwrap()).unwrap();
    Telemetry::new(plan.process())
}

fn on(env: &[(&str, &str)]) -> Telemetry {
    read(env).unwrap().expect("it is on")
}

/// With an endpoint, and without a warning.
fn traces(env: &[(&str, &str)]) -> Traces {
    let mut all = vec![(ENDPOINT, "http://collector:4318")];
    all.extend(env);
    let telemetry = on(&all);
    assert_eq!(telemetry.warnings, Vec::<String>::new());
    telemetry.traces.unwrap()
}

/// The only warning, of a variable that does not turn it off.
fn warning(name: &str, value: &str) -> String {
    let telemetry = on(&[("OTEL_TRACES_EXPORTER", "otlp"), (name, value)]);
    assert_eq!(telemetry.warnings.len(), 1, "{:?}", telemetry.warnings);
    let warning = telemetry.warnings[0].clone();
    assert!(warning.starts_with(name), "{warning}");
    warning
}

#[test]
fn nothing_is_told_unless_it_is_asked_for() {
    for env in [
        &[][..],
        &[("PATH", "/bin")],
        &[("OTEL_SERVICE_NAME", "shop")],
        &[("OTEL_RESOURCE_ATTRIBUTES", "a=b"), (PROTOCOL, "grpc")],
        &[(ENDPOINT, "")],
        &[("OTEL_TRACES_EXPORTER", "none")],
        &[
            (ENDPOINT, "http://collector:4318"),
            ("OTEL_SDK_DISABLED", "True"),
        ],
        &[
            (ENDPOINT, "http://collector:4318"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ],
    ] {
        assert_eq!(read(env).unwrap(), None, "{env:?}");
    }
}

#[test]
fn an_endpoint_or_an_exporter_asks_for_it() {
    let at = |env: &[(&str, &str)]| {
        let telemetry = on(env);
        let traces = telemetry.traces.map(|traces| traces.collector.endpoint);
        let metrics = telemetry.metrics.map(|metrics| metrics.collector.endpoint);
        [traces, metrics].map(|uri| uri.map_or("-".to_owned(), |uri| uri.to_string()))
    };
    let (local, own) = ("http://localhost:4318/v1", "http://other/own");
    assert_eq!(
        at(&[("OTEL_TRACES_EXPORTER", "otlp")]),
        [format!("{local}/traces"), "-".to_owned()]
    );
    assert_eq!(
        at(&[("OTEL_METRICS_EXPORTER", "OTLP")]),
        ["-".to_owned(), format!("{local}/metrics")]
    );
    // For all kinds a path is a beginning, for one it is the path.
    assert_eq!(
        at(&[(ENDPOINT, "http://[::1]:80/a/")]),
        [
            "http://[::1]:80/a/v1/traces",
            "http://[::1]:80/a/v1/metrics"
        ]
    );
    assert_eq!(
        at(&[(ENDPOINT, "https://c"), (TRACES.endpoint[0], own)]),
        [own, "https://c/v1/metrics"]
    );
    assert_eq!(at(&[(METRICS.endpoint[0], own)]), ["-", own]);
    assert_eq!(
        at(&[(ENDPOINT, "http://c"), ("OTEL_METRICS_EXPORTER", "none")]),
        ["http://c/v1/traces", "-"]
    );
}

#[test]
fn an_endpoint_that_is_none_is_named() {
    for (name, value) in [
        (ENDPOINT, "collector:4318"),
        (ENDPOINT, "grpc://collector:4317"),
        (ENDPOINT, "unix:///run/collector"),
        (ENDPOINT, "http://"),
        (ENDPOINT, "http://c:0"),
        (TRACES.endpoint[0], "http://user:password@c/v1/traces"),
        (METRICS.endpoint[0], "http://c/?query"),
    ] {
        let error = read(&[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} with")), "{error}");
        assert!(error.contains("OTEL_SDK_DISABLED=true"), "{error}");
        assert!(!error.contains("password"), "{error}");
    }
}

#[test]
fn a_protocol_that_is_not_spoken_is_named() {
    for (name, value) in [
        (PROTOCOL, "grpc"),
        (PROTOCOL, "http/json"),
        (TRACES.protocol[0], "grpc"),
        (METRICS.protocol[0], "grpc"),
    ] {
        let error = read(&[(ENDPOINT, "http://c"), (name, value)]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("{name} with")), "{error}");
        assert!(error.contains("http/protobuf"), "{error}");
    }
    // The one for a kind comes first.
    traces(&[
        (PROTOCOL, "grpc"),
        (TRACES.protocol[0], "http/protobuf"),
        (METRICS.protocol[0], "http/protobuf"),
    ]);
    assert!(warning(PROTOCOL, "thrift").contains("`thrift`"));
}

#[test]
fn samplers_are_those_of_the_specification() {
    for (sampler, argument, follow, ratio) in [
        ("", "0.5", true, 1.0),
        ("always_on", "", false, 1.0),
        ("always_off", "", false, 0.0),
        ("traceidratio", "0.25", false, 0.25),
        ("traceidratio", "", false, 1.0),
        ("parentbased_always_on", "", true, 1.0),
        ("ParentBased_Always_Off", "", true, 0.0),
        ("parentbased_traceidratio", "1e-3", true, 0.001),
    ] {
        let read = traces(&[
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ]);
        assert_eq!((read.follow, read.ratio), (follow, ratio), "{sampler}");
    }
    assert!(warning("OTEL_TRACES_SAMPLER", "xray").contains("parentbased_always_on it is"));
    for argument in ["2", "-1", "NaN", "half"] {
        let telemetry = on(&[
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", argument),
        ]);
        assert!(telemetry.warnings[0].contains(argument), "{argument}");
        assert_eq!(telemetry.traces.unwrap().ratio, 1.0);
    }
}

#[test]
fn numbers_have_the_defaults_of_the_specification() {
    let read = traces(&[]);
    assert_eq!((read.queue, read.batch), (2048, 512));
    assert_eq!(read.delay, Duration::from_secs(5));
    assert_eq!(read.flush, Duration::from_secs(30));
    assert_eq!(read.collector.timeout, Duration::from_secs(10));
    assert!(read.propagate);
    let read = traces(&[
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "50"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2000"),
    ]);
    // No batch is larger than what may wait.
    assert_eq!((read.queue, read.batch), (100, 100));
    assert_eq!(read.delay, Duration::ZERO);
    assert_eq!(read.flush, Duration::from_millis(50));
    assert_eq!(read.collector.timeout, Duration::from_secs(2));
    for (name, value) in [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1000000000000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "5s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "18446744073709551615"),
    ] {
        assert!(warning(name, value).contains(value), "{name}");
    }
    let metrics = |value| {
        let name = "OTEL_METRIC_EXPORT_INTERVAL";
        let read = on(&[("OTEL_METRICS_EXPORTER", "otlp"), (name, value)]);
        (read.metrics.unwrap().interval, read.warnings.len())
    };
    assert_eq!(metrics(""), (Duration::from_secs(60), 0));
    assert_eq!(metrics("1000"), (Duration::from_secs(1), 0));
    assert_eq!(metrics("1"), (Duration::from_secs(60), 1));
}

#[test]
fn headers_are_decoded_and_never_shown() {
    let read = traces(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "x=general"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "Authorization=Basic%20c2VjcmV0, x-empty=,",
        ),
    ]);
    let headers = read.collector.headers;
    assert_eq!(headers.len(), 2);
    assert_eq!(headers["authorization"], "Basic c2VjcmV0");
    assert_eq!(headers["x-empty"], "");
    assert!(!format!("{headers:?}").contains("c2VjcmV0"));
    for value in ["secret", "na me=secret", "=secret", "name=secret%0a"] {
        let warning = warning(HEADERS, value);
        assert!(!warning.contains("secret"), "{warning}");
    }
}

#[test]
fn a_service_has_a_name() {
    let name = |env: &[(&str, &str)]| {
        let mut all = vec![("OTEL_TRACES_EXPORTER", "otlp")];
        all.extend(env);
        on(&all).resource
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<_> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    };
    assert_eq!(name(&[]), pairs(&[(SERVICE, "unknown_service:app.wasm")]));
    let attributes = "OTEL_RESOURCE_ATTRIBUTES";
    assert_eq!(
        name(&[(attributes, "service.name=a,zone=x%2Cy,zone=z")]),
        pairs(&[(SERVICE, "a"), ("zone", "z")])
    );
    assert_eq!(
        name(&[(attributes, "service.name=a"), ("OTEL_SERVICE_NAME", "b")]),
        pairs(&[(SERVICE, "b")])
    );
    warning(attributes, "zone=x,nonsense");
    warning(attributes, "zone=%FF");
}

#[test]
fn propagators_can_be_turned_off() {
    let propagate = |value| traces(&[("OTEL_PROPAGATORS", value)]).propagate;
    assert!(propagate("tracecontext,baggage"));
    assert!(!propagate("none"));
    assert!(!propagate("baggage"));
    assert!(warning("OTEL_PROPAGATORS", "b3").contains("tracecontext"));
}

#[test]
fn what_is_not_read_is_said() {
    for (name, _) in UNREAD {
        warning(name, "value");
    }
    traces(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "none")]);
}
