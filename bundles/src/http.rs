//! How a container that serves HTTP does it: the options `http-*`, and the variable that says where for
//! images that were made for runwasi.

use std::net::SocketAddr;
use std::time::Duration;

use crate::{Error, Process};

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
            grace: Duration::from_secs(30),
        }
    }
}

/// The variable that runwasi's wasmtime shim reads.
const VARIABLE: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";
/// Where a service listens that is told nothing: the default of runwasi, and of `wasmtime serve`.
const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);

impl HttpOptions {
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
    fn a_count_has_a_least() {
        assert_eq!(count("8192", 8192), Ok(8192));
        for text in ["0", "8191", "-1", "", "1e9", "many"] {
            assert!(count(text, 8192).is_err(), "{text}");
        }
    }
}
