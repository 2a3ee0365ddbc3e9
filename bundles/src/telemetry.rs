//! What a service tells a collector of OpenTelemetry: the standard variables `OTEL_*` of the container's environment
//! (OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter").
//!
//! Nothing is told unless a variable asks for it: an endpoint or an exporter. As the specification has it, a value
//! that is not understood is a warning, and the default holds; only one that makes it impossible to tell anything is an
//! error. A variable that is empty is as good as none.

mod reader;

use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderMap, Uri};

use self::reader::Reader;
use crate::{Error, Process};

/// What is told, and to whom. At least one of the two kinds.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Telemetry {
    /// The attributes of who tells it, `service.name` among them.
    pub resource: Vec<(String, String)>,
    /// A span for each request.
    pub traces: Option<Traces>,
    /// Histograms of all requests.
    pub metrics: Option<Metrics>,
    /// What was not understood, a line each, for the container's log.
    pub warnings: Vec<String>,
}

/// A collector, which takes OTLP over HTTP, in protobuf.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Collector {
    /// Where to: `http` or `https`, with a host and a path.
    pub endpoint: Uri,
    /// Sent with everything.
    pub headers: HeaderMap,
    /// How long one delivery may take.
    pub timeout: Duration,
}

/// How spans are made and told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Traces {
    /// Who is told.
    pub collector: Collector,
    /// How many of the traces that begin here are told, from 0 to 1.
    pub ratio: f64,
    /// Whether a trace that has begun elsewhere is told if it is told there; else the ratio holds for it, too.
    pub follow: bool,
    /// Whether traces begin elsewhere and go on in the guest at all: by `traceparent`.
    pub propagate: bool,
    /// How many spans wait at most.
    pub queue: usize,
    /// How many are told at once.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
    /// How long the end of the service may wait for what is not told yet.
    pub flush: Duration,
}

/// How metrics are told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Metrics {
    /// Who is told.
    pub collector: Collector,
    /// How often.
    pub interval: Duration,
}

/// The variables of a kind of things that are told.
struct Signal {
    exporter: &'static str,
    /// Each before the one for all kinds.
    endpoint: [&'static str; 2],
    protocol: [&'static str; 2],
    headers: [&'static str; 2],
    timeout: [&'static str; 2],
    /// Below the endpoint for all kinds.
    path: &'static str,
}

const TRACES: Signal = Signal {
    exporter: "OTEL_TRACES_EXPORTER",
    endpoint: ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT],
    protocol: ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", PROTOCOL],
    headers: ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", HEADERS],
    timeout: ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", TIMEOUT],
    path: "/v1/traces",
};
const METRICS: Signal = Signal {
    exporter: "OTEL_METRICS_EXPORTER",
    endpoint: ["OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", ENDPOINT],
    protocol: ["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", PROTOCOL],
    headers: ["OTEL_EXPORTER_OTLP_METRICS_HEADERS", HEADERS],
    timeout: ["OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", TIMEOUT],
    path: "/v1/metrics",
};
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
/// The endpoint of who names none (OTLP Exporter, "Endpoint URLs for OTLP/HTTP").
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
const SERVICE: &str = "service.name";

/// What other implementations read, and this one does not.
const UNREAD: [(&str, &str); 5] = [
    (
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "nothing is compressed here",
    ),
    (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "https trusts whom the guest trusts, see SSL_CERT_FILE",
    ),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "the shim shows no certificate",
    ),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "the shim shows no certificate",
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "all numbers are cumulative",
    ),
];

/// The most spans that may wait, whoever asks for more: they are memory of the shim's.
const MOST_SPANS: u64 = 16_384;

impl Telemetry {
    /// What the environment of `process` asks for: `None` if it asks for nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidVariable`] for an endpoint that is none, and a protocol that is not spoken here.
    pub fn new(process: &Process) -> Result<Option<Self>, Error> {
        let mut reader = Reader::new(process);
        if reader.nothing() || reader.switch("OTEL_SDK_DISABLED") {
            return Ok(None);
        }
        let asked = collector(&mut reader, &TRACES)?;
        let traces = asked.map(|collector| traces(&mut reader, collector));
        let metrics = collector(&mut reader, &METRICS)?.map(|collector| Metrics {
            collector,
            interval: reader.milliseconds("OTEL_METRIC_EXPORT_INTERVAL", 60_000, 100),
        });
        if traces.is_none() && metrics.is_none() {
            return Ok(None);
        }
        for (name, why) in UNREAD {
            if reader.text(name).is_some_and(|value| value != "none") {
                reader.warn(format!("{name} is not read: {why}"));
            }
        }
        let resource = resource(&mut reader, &process.args[0]);
        Ok(Some(Self {
            resource,
            traces,
            metrics,
            warnings: reader.warnings,
        }))
    }
}

/// Where the things of a kind go: `None` if nobody wants them.
fn collector(reader: &mut Reader<'_>, signal: &Signal) -> Result<Option<Collector>, Error> {
    let endpoint = reader.first(signal.endpoint);
    let wanted = reader.list(signal.exporter, &["otlp", "none"]);
    if !wanted.map_or(endpoint.is_some(), |wanted| wanted.contains(&"otlp")) {
        return Ok(None);
    }
    let protocol = reader.first(signal.protocol);
    if let Some((name, value)) = protocol {
        match value.to_ascii_lowercase().as_str() {
            "http/protobuf" => {}
            "grpc" | "http/json" => {
                return Err(Error::InvalidVariable {
                    name,
                    value: value.to_owned(),
                    reason: "the shim speaks OTLP as http/protobuf only; set that, and an endpoint that takes it \
                             (collectors do at port 4318), or OTEL_SDK_DISABLED=true"
                        .to_owned(),
                });
            }
            _ => reader.unknown(name, value, "http/protobuf"),
        }
    }
    let (name, text) = endpoint.unwrap_or((ENDPOINT, DEFAULT_ENDPOINT));
    let text = if name == ENDPOINT {
        format!("{}{}", text.trim_end_matches('/'), signal.path)
    } else {
        text.to_owned()
    };
    let endpoint = uri(&text).ok_or_else(|| Error::InvalidVariable {
        name,
        // A password is nobody else's business.
        value: text.rsplit('@').next().unwrap_or_default().to_owned(),
        reason:
            "write such as http://collector:4318 (https works, too; no user, no query), or set \
                 OTEL_SDK_DISABLED=true"
                .to_owned(),
    })?;
    let (headers, timeout) = (signal.headers, signal.timeout);
    Ok(Some(Collector {
        endpoint,
        headers: reader
            .first(headers)
            .map(|(name, value)| reader.headers(name, value))
            .unwrap_or_default(),
        timeout: match reader.first(timeout) {
            Some((name, _)) => reader.patience(name, 10_000),
            None => Duration::from_secs(10),
        },
    }))
}

fn uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let scheme = [Scheme::HTTP, Scheme::HTTPS].contains(uri.scheme()?);
    let authority = uri.authority()?;
    let plain = !authority.as_str().contains('@') && uri.query().is_none();
    let port = authority.port().is_none_or(|port| port.as_u16() != 0);
    (scheme && plain && port && !authority.host().is_empty()).then_some(uri)
}

fn traces(reader: &mut Reader<'_>, collector: Collector) -> Traces {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let named = [
        ("parentbased_always_on", true, Some(1.0)),
        ("parentbased_always_off", true, Some(0.0)),
        ("parentbased_traceidratio", true, None),
        ("always_on", false, Some(1.0)),
        ("always_off", false, Some(0.0)),
        ("traceidratio", false, None),
    ];
    let chosen = reader.choice(SAMPLER, &named.map(|(name, ..)| name));
    let (_, follow, ratio) = named[chosen];
    let ratio = ratio.unwrap_or_else(|| reader.ratio(ARGUMENT));
    let propagators = reader.list(
        "OTEL_PROPAGATORS",
        // Who has no use for `baggage` leaves it in the request, for the guest.
        &["tracecontext", "baggage", "none"],
    );
    let queue = reader.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048, 1..=MOST_SPANS);
    let batch = reader.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1..=MOST_SPANS);
    let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Traces {
        collector,
        ratio,
        follow,
        propagate: propagators.is_none_or(|propagators| propagators.contains(&"tracecontext")),
        queue: whole(queue),
        batch: whole(batch.min(queue)),
        delay: reader.milliseconds("OTEL_BSP_SCHEDULE_DELAY", 5000, 0),
        flush: reader.patience("OTEL_BSP_EXPORT_TIMEOUT", 30_000),
    }
}

/// Who tells it. `program` is what the container runs.
fn resource(reader: &mut Reader<'_>, program: &str) -> Vec<(String, String)> {
    let mut attributes = reader.attributes("OTEL_RESOURCE_ATTRIBUTES");
    if let Some(name) = reader.text("OTEL_SERVICE_NAME") {
        attributes.retain(|(key, _)| key != SERVICE);
        attributes.push((SERVICE.to_owned(), name.to_owned()));
    }
    if !attributes.iter().any(|(key, _)| key == SERVICE) {
        // Resource SDK specification: the name of the executable.
        let file = program.split('#').next().unwrap_or(program);
        let file = file.rsplit('/').next().unwrap_or(file);
        attributes.push((SERVICE.to_owned(), format!("unknown_service:{file}")));
    }
    attributes
}

#[cfg(test)]
mod tests;
