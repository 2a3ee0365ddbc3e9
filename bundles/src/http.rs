//! How a container that serves HTTP does it: the options `http-*`, and the variable that says where for
//! images that were made for runwasi.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::{Error, Process, config_file};

/// The options of a service. The default is what a bundle without any has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpOptions {
    /// `http-listen`: where; see [`Self::address`].
    pub listen: Option<SocketAddr>,
    /// `http-requests`: how many are answered at once.
    pub requests: usize,
    /// `http-connections`: how many clients may be connected.
    pub connections: usize,
    /// `http-header-bytes`: the most that the head of a request may have.
    pub header_bytes: usize,
    /// `http-request-timeout`: how long a request may take; `none` is for ever.
    pub request_timeout: Option<Duration>,
    /// `http-idle-timeout`: how long a connection may be without a request.
    pub idle_timeout: Duration,
    /// `http-access-log`: whether requests are logged.
    pub access_log: bool,
    /// `http-metrics`: where metrics are shown; nowhere if `None`.
    pub metrics: Option<SocketAddr>,
    /// `http-upstream`: what middleware passes requests on to; see [`Self::upstream`].
    pub upstream: Option<(String, u16)>,
    /// `http-config`: what middleware is configured with; see [`Self::configuration`].
    pub config: Option<String>,
    /// `http-config-file`: the file of the container that has that, in its place. An absolute path.
    pub config_file: Option<String>,
    /// `http-buffer-bytes`: how much of a body is held for middleware.
    pub buffer_bytes: usize,
    /// `http-grace`: how long requests may go on after the first signal that is to end the service.
    pub grace: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            listen: None,
            requests: 256,
            connections: 1024,
            header_bytes: 64 << 10,
            request_timeout: Some(Duration::from_secs(60)),
            idle_timeout: Duration::from_secs(60),
            access_log: false,
            metrics: None,
            upstream: None,
            config: None,
            config_file: None,
            buffer_bytes: 1 << 20,
            grace: Duration::from_secs(30),
        }
    }
}

/// The variable that runwasi's wasmtime shim reads.
const VARIABLE: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";
/// The variable that names the upstream of middleware.
const UPSTREAM: &str = "HTTP_WASM_UPSTREAM";
/// Where a service listens that is told nothing: the default of runwasi, and of `wasmtime serve`.
const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);

impl HttpOptions {
    /// The host and port that middleware passes the requests of `process` on to: as its annotation says, or its
    /// variable `HTTP_WASM_UPSTREAM`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidVariable`].
    pub fn upstream(&self, process: &Process) -> Result<Option<(String, u16)>, Error> {
        let mut variables = process.env.iter();
        let variable = variables.find(|(name, _)| name == UPSTREAM);
        match (&self.upstream, variable) {
            (Some(upstream), _) => Ok(Some(upstream.clone())),
            (None, None) => Ok(None),
            (None, Some((_, value))) => {
                upstream(value.trim())
                    .map(Some)
                    .map_err(|reason| Error::InvalidVariable {
                        name: UPSTREAM,
                        value: value.clone(),
                        reason,
                    })
            }
        }
    }

    /// What middleware is configured with: the text of its annotation, or what the file has that another one
    /// names, below `root`; nothing without either.
    ///
    /// For a file this blocks, and is to be called with the rights of the container's user.
    ///
    /// # Errors
    ///
    /// [`Error::ConfigFile`].
    pub fn configuration(&self, root: BorrowedFd<'_>) -> Result<Vec<u8>, Error> {
        match &self.config_file {
            Some(path) => config_file::read(root, path),
            None => Ok(self.config.clone().unwrap_or_default().into_bytes()),
        }
    }

    /// Where `process` is to listen: as its annotation says, or its variable
    /// `WASMTIME_HTTP_PROXY_SOCKET_ADDR`, or at 0.0.0.0:8080.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidVariable`].
    pub fn address(&self, process: &Process) -> Result<SocketAddr, Error> {
        let mut variables = process.env.iter();
        let variable = variables.find(|(name, _)| name == VARIABLE);
        match (self.listen, variable) {
            (Some(address), _) => Ok(address),
            (None, None) => Ok(ADDRESS),
            (None, Some((_, value))) => {
                address(value.trim()).map_err(|reason| Error::InvalidVariable {
                    name: VARIABLE,
                    value: value.clone(),
                    reason,
                })
            }
        }
    }
}

/// An address with a port that is one.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(format!(
            "{text:?} is no address with a port; write such as 0.0.0.0:8080 or [::]:8080"
        )),
    }
}

/// The host and port of an upstream: `http://HOST:PORT`, 80 if there is none.
pub(crate) fn upstream(text: &str) -> Result<(String, u16), String> {
    let wrong = || {
        format!(
            "{text:?} is no upstream; write such as http://127.0.0.1:3000 (without TLS or a path)"
        )
    };
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (host, port.ok_or_else(wrong)?)
        }
        _ => (authority, 80),
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_name = |name: &str| {
        let part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !name.is_empty() && name.bytes().all(part)
    };
    match address {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            Ok((address.to_owned(), port))
        }
        None if is_name(host) => Ok((host.to_owned(), port)),
        Some(_) | None => Err(wrong()),
    }
}

/// A path that does not depend on a working directory.
pub(crate) fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err("write a path in the container that begins with /, such as /etc/rules.json".to_owned())
}

/// A whole number from `least`.
pub(crate) fn count(text: &str, least: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count >= least => Ok(count),
        _ => Err(format!("write a whole number from {least}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BundleBuilder;
    use crate::{Bundle, Plan};

    fn at(annotation: Option<&str>, variable: Option<&str>) -> Result<String, Error> {
        let mut bundle = BundleBuilder::new();
        if let Some(value) = annotation {
            bundle = bundle.annotation("io.containerd.wasi.v1.http-listen", value);
        }
        if let Some(value) = variable {
            bundle = bundle.env(VARIABLE, value);
        }
        let bundle = bundle.build();
        let plan = Plan::new(&Bundle::open(bundle.path()).unwrap())?;
        let address = plan.options().http.address(plan.process())?;
        Ok(address.to_string())
    }

    #[test]
    fn the_annotation_comes_before_the_variable_and_that_before_the_default() {
        assert_eq!(at(None, None).unwrap(), "0.0.0.0:8080");
        assert_eq!(at(None, Some("127.0.0.1:1234")).unwrap(), "127.0.0.1:1234");
        assert_eq!(at(Some("[::]:80"), Some("nonsense")).unwrap(), "[::]:80");
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        let error = at(None, Some("localhost:80")).unwrap_err().to_string();
        assert!(error.contains(VARIABLE), "{error}");
        assert!(error.contains("localhost:80"), "{error}");
        let error = at(Some("0.0.0.0:0"), None).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
    }

    #[test]
    fn an_upstream_is_named_by_the_annotation_or_the_variable() {
        let of = |annotation: Option<&str>, variable: Option<&str>| {
            let mut bundle = BundleBuilder::new();
            if let Some(value) = annotation {
                bundle = bundle.annotation("io.containerd.wasi.v1.http-upstream", value);
            }
            if let Some(value) = variable {
                bundle = bundle.env(UPSTREAM, value);
            }
            let bundle = bundle.build();
            let plan = Plan::new(&Bundle::open(bundle.path()).unwrap()).unwrap();
            plan.options().http.upstream(plan.process())
        };
        assert_eq!(of(None, None).unwrap(), None);
        let app = |port| Some(("app".to_owned(), port));
        assert_eq!(of(None, Some("http://app:81")).unwrap(), app(81));
        let both = of(Some("http://app:82"), Some("nonsense"));
        assert_eq!(both.unwrap(), app(82));
        let error = of(None, Some("nonsense")).unwrap_err().to_string();
        assert!(
            error.contains(UPSTREAM) && error.contains("nonsense"),
            "{error}"
        );
    }

    #[test]
    fn an_upstream_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("http://127.0.0.1:3000", "127.0.0.1", 3000),
            ("http://app", "app", 80),
            ("http://app:81/", "app", 81),
            ("http://[::1]:8080", "::1", 8080),
            ("http://[::1]", "::1", 80),
        ] {
            assert_eq!(upstream(text), Ok((host.to_owned(), port)), "{text}");
        }
        for text in [
            "",
            "127.0.0.1:3000",
            "https://app",
            "http://",
            "http://app:0",
            "http://app/path",
            "http://user@app",
            "http://[app]:80",
        ] {
            assert!(upstream(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_count_has_a_least() {
        assert_eq!(count("8192", 8192), Ok(8192));
        for text in ["0", "8191", "-1", "", "1e9", "many"] {
            assert!(count(text, 8192).is_err(), "{text}");
        }
    }
}
