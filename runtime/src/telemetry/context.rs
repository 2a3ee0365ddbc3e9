//! Which trace a request belongs to: W3C Trace Context, as requests carry it.

use std::fmt;

use http::{HeaderMap, HeaderName};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long `VERSION-TRACE-SPAN-FLAGS` is, of version 00.
const LENGTH: usize = 55;
/// The flag of a trace that is told.
const SAMPLED: u8 = 1;

/// A span, as others know it. Its `Display` is a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    /// Whether it is told.
    pub(super) sampled: bool,
}

impl Context {
    /// The span that a request comes from, if it says so.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        match (all.next(), all.next()) {
            (Some(one), None) => Self::parse(one.to_str().ok()?.trim()),
            _ => None,
        }
    }

    /// Reads a `traceparent` of any version ("Versioning of traceparent").
    fn parse(text: &str) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let mut parts = known.split('-');
        let mut part = |length: usize| parts.next().filter(|part| part.len() == length);
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let [version] = bytes(version)?;
        let more = &text[LENGTH..];
        let fits = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        let (trace, span, [flags]) = (bytes(trace)?, bytes(span)?, bytes(flags)?);
        (fits && trace != [0; 16] && span != [0; 8]).then_some(Self {
            trace,
            span,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// A span of ours: of the trace of `parent`, or of a new one. Of a new one, and with `follow` only of those, `ratio`
    /// are told.
    pub(super) fn child(parent: Option<&Self>, ratio: f64, follow: bool) -> Self {
        let trace = parent.map_or_else(random, |parent| parent.trace);
        let sampled = match parent {
            Some(parent) if follow => parent.sampled,
            Some(_) | None => told(trace, ratio),
        };
        Self {
            trace,
            span: random(),
            sampled,
        }
    }

    pub(super) fn flags(&self) -> u8 {
        u8::from(self.sampled) * SAMPLED
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (
            u128::from_be_bytes(self.trace),
            u64::from_be_bytes(self.span),
        );
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags())
    }
}

/// Digits of lower case only.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(bytes)
}

/// An id, which is not all zeros.
fn random<const N: usize>() -> [u8; N] {
    loop {
        let mut id = [0; N];
        rand::Rng::fill_bytes(&mut rand::rng(), &mut id);
        if id != [0; N] {
            return id;
        }
    }
}

/// Whether a trace is one of `ratio` of all: by its id, so that all who have the same ratio tell the same ones. By the
/// same bits as the SDKs for Go, Java and Rust.
fn told(trace: [u8; 16], ratio: f64) -> bool {
    /// 2^63, the number of values that are looked at.
    const ALL: f64 = 9_223_372_036_854_775_808.0;
    let [.., a, b, c, d, e, f, g, h] = trace;
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
    #[allow(
        clippy::cast_precision_loss,
        reason = "the ratio is no more precise than that"
    )]
    let place = number as f64;
    // The last ones are too near to all of them to be less.
    ratio >= 1.0 || place < ratio * ALL
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = Context::parse(GOOD).unwrap();
        assert!(context.sampled);
        assert_eq!((context.trace[0], context.trace[15]), (0x0a, 0x9c));
        assert_eq!(context.to_string(), GOOD);
        // Flags that nobody knows are not passed on.
        let context = Context::parse(&GOOD.replace("-01", "-fe")).unwrap();
        assert!(!context.sampled);
        assert_eq!(context.to_string(), GOOD.replace("-01", "-00"));
    }

    #[test]
    fn one_of_a_later_version_may_be_longer() {
        let later = GOOD.replacen("00", "cc", 1);
        assert!(Context::parse(&later).is_some());
        assert!(Context::parse(&format!("{later}-what-the-future-brings")).is_some());
        assert!(Context::parse(&format!("{later}.")).is_none());
        assert!(Context::parse(&format!("{GOOD}-")).is_none());
    }

    #[test]
    fn what_is_no_traceparent_is_passed_over() {
        for text in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0x", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("b7ad6b7169203331", "b7ad6b716920333g"),
            &GOOD.replace("-b7", "_b7"),
            &GOOD.replace("-01", "-é"),
        ] {
            assert_eq!(Context::parse(text), None, "{text}");
        }
    }

    #[test]
    fn of_two_neither_counts() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(Context::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(Context::of(&headers), None);
    }

    #[test]
    fn a_child_is_told_if_its_parent_is_or_by_its_share() {
        let parent = Context::parse(GOOD).unwrap();
        let silent = Context {
            sampled: false,
            ..parent
        };
        for (parent, ratio, follow, sampled) in [
            (Some(&parent), 0.0, true, true),
            (Some(&silent), 1.0, true, false),
            (Some(&parent), 0.0, false, false),
            (Some(&silent), 1.0, false, true),
            (None, 1.0, true, true),
            (None, 0.0, true, false),
        ] {
            let child = Context::child(parent, ratio, follow);
            assert_eq!(child.sampled, sampled, "{parent:?} {ratio} {follow}");
            if let Some(parent) = parent {
                assert_eq!(child.trace, parent.trace);
                assert_ne!(child.span, parent.span);
            }
        }
    }

    #[test]
    fn the_share_is_told_by_the_id() {
        let with = |low: u64| {
            let mut trace = [0xff; 16];
            trace[8..].copy_from_slice(&low.to_be_bytes());
            trace
        };
        let half = 1 << 63;
        // Not the next one: a ratio is less precise than an id.
        assert!(told(with(half - (1 << 20)), 0.5));
        assert!(!told(with(half), 0.5));
        assert!(told(with(u64::MAX), 1.0));
        assert!(!told(with(0), 0.0));
        let of = |ratio| (0..1000).filter(|_| told(random(), ratio)).count();
        // By a chance of less than one in 10^12 it fails.
        assert!((380..=620).contains(&of(0.5)));
    }
}
