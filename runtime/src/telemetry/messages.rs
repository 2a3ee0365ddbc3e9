//! The messages of OTLP, and how the ones are made that all others have.

use super::Telemetry;

#[allow(
    clippy::all,
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated from runtime/protos/"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/protos/mod.rs"));
}

pub(super) use self::generated::otlp::*;

/// Whose conventions the names of spans, metrics and attributes are.
pub(super) const SCHEMA: &str = "https://opentelemetry.io/schemas/1.29.0";

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

pub(super) fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    let value = AnyValue {
        value: Some(value),
        ..AnyValue::default()
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(value).into(),
        ..KeyValue::default()
    }
}

/// Who tells it.
pub(super) fn resource(telemetry: &Telemetry) -> Resource {
    let given = telemetry.resource.iter();
    let mut attributes: Vec<_> = given
        .map(|(key, value)| text(key, value.as_str()))
        .collect();
    for (key, value) in [
        ("telemetry.sdk.name", env!("CARGO_PKG_NAME")),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ] {
        attributes.push(text(key, value));
    }
    Resource {
        attributes,
        ..Resource::default()
    }
}

/// What has made the spans and numbers.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
