//! What containerd says to `start` on stdin, and what it wants to hear on stdout. There are three
//! dialects, and no version number to tell them by:
//!
//! | containerd | stdin | stdout |
//! |---|---|---|
//! | 1.6 | nothing, or an `Any` with the runtime's options | the bare address |
//! | 1.7 – 2.2 | the same | the bare address, or JSON that 1.6 does not read |
//! | 2.3 and newer | `BootstrapParams` | `BootstrapResult` |
//!
//! So: who sent `BootstrapParams` gets a `BootstrapResult`, everybody else the bare address, which all
//! of them take for Task API version 2. An `Any` parses as `BootstrapParams`, too (its type URL as the
//! instance id, its value as the namespace); what tells them apart is that real parameters repeat the
//! `-id` and `-namespace` of the command line. (containerd `pkg/shim/compat.go`, 2.3.)

use std::path::PathBuf;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use containerd_shim_protos::shim::oci::Options;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::cri_options::CriOptions;
use crate::flags::Flags;
use crate::runc::are_own;

/// The version that a `BootstrapResult` announces: Task v3 (and v2 on the same socket).
const TASK_API: i32 = 3;

/// How containerd spoke, with what matters of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialect {
    /// Up to 2.2.
    Options,
    /// 2.3 and newer.
    Params {
        /// The folder for sockets, if containerd chose one.
        socket_dir: Option<PathBuf>,
        /// Whether containerd logs at debug level or finer.
        debug: bool,
    },
}

impl Dialect {
    /// Tells from the whole of stdin.
    #[must_use]
    pub fn detect(stdin: &[u8], flags: &Flags) -> Self {
        match BootstrapParams::parse_from_bytes(stdin) {
            Ok(params) if params.instance_id == flags.id && params.namespace == flags.namespace => {
                Self::Params {
                    socket_dir: params
                        .socket_dir
                        .filter(|dir| !dir.is_empty())
                        .map(PathBuf::from),
                    debug: params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
                }
            }
            _ => Self::Options,
        }
    }

    /// The bytes that `start` prints for a shim that listens at `address` (`unix://…`).
    #[must_use]
    pub fn reply(&self, address: &str) -> Vec<u8> {
        match self {
            Self::Options => address.as_bytes().to_vec(),
            Self::Params { .. } => {
                let result = BootstrapResult {
                    version: TASK_API,
                    address: address.to_owned(),
                    protocol: "ttrpc".to_owned(),
                    ..BootstrapResult::default()
                };
                result
                    .write_to_bytes()
                    .expect("a message of three set fields has all it requires")
            }
        }
    }
}

/// The runtime's options, as they came.
pub(crate) fn options(stdin: &[u8], dialect: &Dialect) -> Vec<Any> {
    match dialect {
        Dialect::Options => Any::parse_from_bytes(stdin).into_iter().collect(),
        Dialect::Params { .. } => {
            let params = BootstrapParams::parse_from_bytes(stdin).unwrap_or_default();
            let extensions = params.extensions.into_iter();
            extensions
                .filter_map(|mut extension| extension.value.take())
                .collect()
        }
    }
}

/// The cgroup that the shim shall live in, out of runc's options: `ShimCgroup`. Other options, and
/// options that cannot be read, have none.
#[must_use]
pub fn shim_cgroup(stdin: &[u8], dialect: &Dialect) -> Option<String> {
    let of_runc = |any: Any| {
        if let Ok(Some(of_cri)) = CriOptions::read(&any) {
            return of_cri.of_runc().ok();
        }
        are_own(&any).then(|| Options::parse_from_bytes(&any.value).ok())?
    };
    let given = options(stdin, dialect).into_iter().filter_map(of_runc);
    let mut cgroups = given.map(|options| options.shim_cgroup);
    cgroups.find(|cgroup| !cgroup.is_empty())
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use protobuf::MessageField;

    use super::*;

    #[test]
    fn the_shims_cgroup_is_found_in_either_dialect() {
        let options = Options {
            shim_cgroup: "/shims".into(),
            ..Options::default()
        };
        let any = |type_url: &str| Any {
            type_url: type_url.into(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        };
        let known = any("containerd.runc.v1.Options");
        let stdin = known.write_to_bytes().unwrap();
        let found = shim_cgroup(&stdin, &Dialect::Options);
        assert_eq!(found.as_deref(), Some("/shims"));
        let other = any("runtimeoptions.v1.Options").write_to_bytes().unwrap();
        assert_eq!(shim_cgroup(&other, &Dialect::Options), None);
        assert_eq!(shim_cgroup(b"", &Dialect::Options), None);

        let mut params = params();
        params.extensions.push(Extension {
            value: MessageField::some(any("type.googleapis.com/containerd.runc.v1.Options")),
            ..Extension::default()
        });
        let stdin = params.write_to_bytes().unwrap();
        let dialect = Dialect::detect(&stdin, &flags());
        assert_eq!(shim_cgroup(&stdin, &dialect).as_deref(), Some("/shims"));
    }

    fn flags() -> Flags {
        Flags::parse(
            "-id web -namespace default start"
                .split(' ')
                .map(str::to_owned),
        )
        .unwrap()
    }

    fn params() -> BootstrapParams {
        BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn nothing_on_stdin_is_the_old_dialect() {
        assert_eq!(Dialect::detect(b"", &flags()), Dialect::Options);
        assert_eq!(Dialect::Options.reply("unix:///s"), b"unix:///s");
    }

    #[test]
    fn options_are_not_mistaken_for_parameters() {
        let any = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: b"\x0a\x04toml".to_vec(),
            ..Any::default()
        };
        let stdin = any.write_to_bytes().unwrap();
        assert_eq!(Dialect::detect(&stdin, &flags()), Dialect::Options);
        assert_eq!(Dialect::detect(b"\xff garbage", &flags()), Dialect::Options);
    }

    #[test]
    fn parameters_are_answered_in_protobuf() {
        let mut params = params();
        params.socket_dir = Some("/run/s".into());
        params.log_level = LogLevel::LOG_LEVEL_DEBUG.into();
        let dialect = Dialect::detect(&params.write_to_bytes().unwrap(), &flags());
        let wanted = Dialect::Params {
            socket_dir: Some("/run/s".into()),
            debug: true,
        };
        assert_eq!(dialect, wanted);
        let reply = BootstrapResult::parse_from_bytes(&dialect.reply("unix:///run/s/x")).unwrap();
        assert_eq!(
            (reply.version, reply.address.as_str()),
            (3, "unix:///run/s/x")
        );
        assert_eq!(reply.protocol, "ttrpc");
    }

    #[test]
    fn parameters_without_a_level_are_not_debug() {
        let dialect = Dialect::detect(&params().write_to_bytes().unwrap(), &flags());
        assert_eq!(
            dialect,
            Dialect::Params {
                socket_dir: None,
                debug: false
            }
        );
    }
}
