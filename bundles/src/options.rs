//! What a wasm container can be told that OCI has no field for: annotations of the form
//! `io.containerd.wasi.v1.<option>`.
//!
//! An option that nobody knows is refused rather than passed over: it is a typing error more often than
//! not, and a limit that was misspelt is no limit. docs/annotations.md lists all of them.
//! Under CRI an annotation gets into the bundle only if containerd's configuration of the runtime lists
//! it (`container_annotations`, `pod_annotations`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::http::{absolute, address, count, upstream};
use crate::{Bundle, Error, HttpOptions, Peer, Preopen};

/// What comes before the name of an option.
pub const PREFIX: &str = "io.containerd.wasi.v1.";

/// The options of a container. The default is what a bundle without any has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long it may run, from its start.
    pub deadline: Option<Duration>,
    /// `listen-tcp`: addresses to listen at for a WASI 0.1 program, which gets the sockets as
    /// descriptors.
    pub listen_tcp: Vec<SocketAddr>,
    /// `allow-net`: whom the container may talk to; everybody if `None`, nobody if empty.
    pub allow_net: Option<Vec<Peer>>,
    /// `config.NAME`: what `wasi:config/store` has.
    pub config: BTreeMap<String, String>,
    /// `wasi-tls`: whether the draft of `wasi:tls` is there.
    pub wasi_tls: bool,
    /// `http-*`: how it serves HTTP, if it does.
    pub http: HttpOptions,
    /// `wasi-0.3`: whether components of WASI 0.3 run.
    pub wasi_0_3: bool,
    /// `preopens`: the directories that the guest is given; `None` is the container's root as `/`.
    pub preopens: Option<Vec<Preopen>>,
}

/// Reads the value of one option; what is wrong with it otherwise, and how it is written.
type Read = fn(&mut Options, &str) -> Result<(), String>;

/// Every option, by name.
const KNOWN: &[(&str, Read)] = &[
    ("deadline", |options, value| {
        options.deadline = Some(duration(value)?);
        Ok(())
    }),
    ("allow-net", |options, value| {
        options.allow_net = Some(Peer::list(value)?);
        Ok(())
    }),
    ("preopens", |options, value| {
        options.preopens = Some(Preopen::list(value)?);
        Ok(())
    }),
    ("listen-tcp", |options, value| {
        options.listen_tcp = addresses(value)?;
        Ok(())
    }),
    ("http-listen", |options, value| {
        options.http.listen = Some(address(value)?);
        Ok(())
    }),
    ("http-requests", |options, value| {
        options.http.requests = count(value, 1)?;
        Ok(())
    }),
    ("http-connections", |options, value| {
        options.http.connections = count(value, 1)?;
        Ok(())
    }),
    ("http-header-bytes", |options, value| {
        options.http.header_bytes = count(value, 8192)?;
        Ok(())
    }),
    ("http-request-timeout", |options, value| {
        options.http.request_timeout = match value {
            "none" => None,
            value => Some(duration(value)?),
        };
        Ok(())
    }),
    ("http-idle-timeout", |options, value| {
        options.http.idle_timeout = duration(value)?;
        Ok(())
    }),
    ("http-access-log", |options, value| {
        options.http.access_log = switch(value)?;
        Ok(())
    }),
    ("http-metrics", |options, value| {
        options.http.metrics = Some(address(value)?);
        Ok(())
    }),
    ("http-upstream", |options, value| {
        options.http.upstream = Some(upstream(value)?);
        Ok(())
    }),
    ("http-config", |options, value| {
        options.http.config = Some(value.to_owned());
        Ok(())
    }),
    ("http-config-file", |options, value| {
        options.http.config_file = Some(absolute(value)?);
        Ok(())
    }),
    ("http-buffer-bytes", |options, value| {
        options.http.buffer_bytes = count(value, 1)?;
        Ok(())
    }),
    ("http-grace", |options, value| {
        options.http.grace = duration(value)?;
        Ok(())
    }),
    ("wasi-tls", |options, value| {
        options.wasi_tls = switch(value)?;
        Ok(())
    }),
    ("wasi-0.3", |options, value| {
        options.wasi_0_3 = switch(value)?;
        Ok(())
    }),
];

/// What comes before a name that is free to choose.
const CONFIG: &str = "config.";

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}

fn addresses(value: &str) -> Result<Vec<SocketAddr>, String> {
    value.split(',').map(str::trim).map(address).collect()
}

/// A number with a unit: `500ms`, `30s`, `5m`, `2h`.
fn duration(value: &str) -> Result<Duration, String> {
    let digits = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let milliseconds = match &value[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let product = number.zip(milliseconds).and_then(|(a, b)| a.checked_mul(b));
    match product {
        Some(product @ 1..) => Ok(Duration::from_millis(product)),
        Some(0) => Err("nothing takes no time; drop the option for its default".to_owned()),
        None => Err("write a whole number and ms, s, m or h, such as 30s".to_owned()),
    }
}

impl Options {
    /// Reads the annotations of a bundle.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownOption`] and [`Error::InvalidOption`].
    pub fn new(bundle: &Bundle) -> Result<Self, Error> {
        let mut options = Self::default();
        let annotations = bundle.spec().annotations().iter().flatten();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            if let Some(name) = name.strip_prefix(CONFIG) {
                options.config.insert(name.to_owned(), value.clone());
                continue;
            }
            let Some((_, read)) = KNOWN.iter().find(|(known, _)| *known == name) else {
                return Err(Error::UnknownOption {
                    config: bundle.config(),
                    key: key.clone(),
                    known: KNOWN
                        .iter()
                        .map(|(name, _)| *name)
                        .chain(["config.NAME"])
                        .collect(),
                });
            };
            read(&mut options, value.trim()).map_err(|reason| Error::InvalidOption {
                config: bundle.config(),
                key: key.clone(),
                value: value.clone(),
                reason,
            })?;
        }
        options
            .check()
            .map_err(|(name, value, reason)| Error::InvalidOption {
                config: bundle.config(),
                key: format!("{PREFIX}{name}"),
                value: value.to_owned(),
                reason: format!("{reason}; take one of the two out"),
            })?;
        Ok(options)
    }

    /// What options do not go together: the name and the value of one, and what another says.
    fn check(&self) -> Result<(), (&str, &str, &str)> {
        let offline = self.allow_net.as_ref().is_some_and(Vec::is_empty);
        if offline && !self.listen_tcp.is_empty() {
            return Err(("allow-net", "none", "listen-tcp asks for sockets"));
        }
        if offline && self.http.listen.is_some() {
            return Err(("allow-net", "none", "http-listen asks for a socket"));
        }
        if let Some(file) = &self.http.config_file
            && self.http.config.is_some()
        {
            let reason = "http-config has a configuration, too";
            return Err(("http-config-file", file, reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BundleBuilder;

    fn options(key: &str, value: &str) -> Result<Options, Error> {
        let bundle = BundleBuilder::new().annotation(key, value).build();
        Options::new(&Bundle::open(bundle.path()).unwrap())
    }

    #[test]
    fn other_annotations_are_none_of_its_business() {
        let options = options("io.kubernetes.cri.container-name", "web").unwrap();
        assert_eq!(options, Options::default());
    }

    #[test]
    fn a_deadline_has_a_unit() {
        let deadline = |value| options("io.containerd.wasi.v1.deadline", value);
        for (value, milliseconds) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
        ] {
            let deadline = deadline(value).unwrap().deadline;
            assert_eq!(
                deadline,
                Some(Duration::from_millis(milliseconds)),
                "{value}"
            );
        }
        let too_long = format!("{}h", u64::MAX);
        for value in ["", "30", "s", "0s", "-1s", "1.5h", "30S", "1d", &too_long] {
            let error = deadline(value).unwrap_err();
            assert!(
                matches!(error, Error::InvalidOption { .. }),
                "{value}: {error:?}"
            );
        }
    }

    #[test]
    fn directories_are_listed_in_the_place_of_the_root() {
        let key = "io.containerd.wasi.v1.preopens";
        let listed = options(key, "/:ro,/data").unwrap().preopens.unwrap();
        assert_eq!(listed.len(), 2);
        let error = options(key, "data").unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
    }

    #[test]
    fn an_option_that_nobody_knows_is_refused() {
        let error = options("io.containerd.wasi.v1.speed", "fast").unwrap_err();
        assert!(matches!(error, Error::UnknownOption { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("io.containerd.wasi.v1.speed"), "{text}");
    }

    #[test]
    fn a_store_has_any_names() {
        let options = options("io.containerd.wasi.v1.config.db.host", " a b ").unwrap();
        assert_eq!(options.config["db.host"], " a b ");
    }

    #[test]
    fn sockets_are_listed_with_their_ports() {
        let read = |value| options("io.containerd.wasi.v1.listen-tcp", value);
        let options = read("0.0.0.0:80, [::]:8080").unwrap();
        let listed: Vec<_> = options
            .listen_tcp
            .iter()
            .map(SocketAddr::to_string)
            .collect();
        assert_eq!(listed, ["0.0.0.0:80", "[::]:8080"]);
        for value in [
            "",
            "80",
            "0.0.0.0",
            "0.0.0.0:0",
            "localhost:80",
            "0.0.0.0:80,",
        ] {
            let error = read(value).unwrap_err().to_string();
            assert!(error.contains("no address with a port"), "{value}: {error}");
        }
    }

    #[test]
    fn a_switch_is_on_or_off() {
        let read = |value| options("io.containerd.wasi.v1.wasi-tls", value);
        assert!(read(" on ").unwrap().wasi_tls);
        assert!(!read("off").unwrap().wasi_tls);
        assert!(matches!(read("yes"), Err(Error::InvalidOption { .. })));
        let read = |value| options("io.containerd.wasi.v1.wasi-0.3", value);
        assert!(read("on").unwrap().wasi_0_3);
        assert!(!read("off").unwrap().wasi_0_3);
    }

    #[test]
    fn middleware_has_one_configuration() {
        let key = "io.containerd.wasi.v1.http-config-file";
        let file = options(key, " /etc/rules.json ").unwrap().http.config_file;
        assert_eq!(file.as_deref(), Some("/etc/rules.json"));
        for value in ["", "rules.json", "./rules.json"] {
            let error = options(key, value).unwrap_err().to_string();
            assert!(error.contains("begins with /"), "{value}: {error}");
        }
        let both = BundleBuilder::new()
            .annotation("io.containerd.wasi.v1.http-config", "")
            .annotation(key, "/etc/rules.json")
            .build();
        let error = Options::new(&Bundle::open(both.path()).unwrap()).unwrap_err();
        let error = error.to_string();
        let reason = "http-config has a configuration, too; take one of the two out";
        assert!(error.contains(key) && error.ends_with(reason), "{error}");
    }

    #[test]
    fn to_listen_without_a_network_is_refused() {
        let bundle = BundleBuilder::new()
            .annotation("io.containerd.wasi.v1.listen-tcp", "0.0.0.0:80")
            .annotation("io.containerd.wasi.v1.allow-net", "none")
            .build();
        let error = Options::new(&Bundle::open(bundle.path()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("listen-tcp"), "{error}");
    }
}
