//! Which headers go on to the next, and which are between two only (RFC 9110, 7.6.1).

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, Uri};

/// Takes out what is for one connection, and how long a body is: bodies know that.
pub(super) fn between_two(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        if name != TE {
            headers.remove(name);
        }
    }
    let trailers = headers.get_all(TE).iter().any(|te| te == "trailers");
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, EXPECT] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// A request of HTTP/2 says its host elsewhere.
pub(super) fn host(headers: &mut HeaderMap, uri: &Uri) {
    if let Some(authority) = uri.authority()
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        headers.entry(HOST).or_insert(value);
    }
}

/// The length is the body's, which knows it.
pub(super) fn unmeasured(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
}

/// HTTP/1.1 passes on those trailers only that the head names (RFC 9110, 6.6.2, "should").
pub(super) fn announced(headers: &mut HeaderMap, trailers: Option<&HeaderMap>) {
    for name in trailers.into_iter().flat_map(HeaderMap::keys) {
        let named = headers.get_all(TRAILER).iter();
        let mut named = named.filter_map(|value| value.to_str().ok());
        let is_there = named.any(|value| {
            let mut names = value.split(',');
            names.any(|other| other.trim().eq_ignore_ascii_case(name.as_str()))
        });
        if !is_there {
            headers.append(TRAILER, HeaderValue::from_name(name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_announced_once() {
        let mut headers = HeaderMap::new();
        headers.insert(TRAILER, HeaderValue::from_static("X-First, x-other"));
        let mut trailers = HeaderMap::new();
        for name in ["x-first", "x-second"] {
            trailers.append(name, HeaderValue::from_static("1"));
            trailers.append(name, HeaderValue::from_static("2"));
        }
        announced(&mut headers, None);
        announced(&mut headers, Some(&trailers));
        let named: Vec<_> = headers.get_all(TRAILER).iter().collect();
        assert_eq!(named, ["X-First, x-other", "x-second"]);
    }

    #[test]
    fn what_is_between_two_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-end", "2"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        between_two(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-end"]);
    }
}
