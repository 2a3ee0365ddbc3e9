//! The command line that containerd gives a shim, in the syntax of Go's `flag` package: one dash or
//! two, `-name value` or `-name=value`, flags before the action.
//!
//! Source: containerd `pkg/shim/util.go` (2.x), `runtime/v2/shim/util.go` (1.7).

use std::path::PathBuf;

/// What the shim was called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `start`: make or find the shim of a container, print its address.
    Start,
    /// `delete`: clean up after a shim that is gone.
    Delete,
    /// `-info`: describe the runtime.
    Info,
    /// `-v`: print the version.
    Version,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// What to do.
    pub action: Action,
    /// The container's id.
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's gRPC socket: part of what makes a shim's own socket unique.
    pub address: String,
    /// containerd's program.
    pub publish_binary: PathBuf,
    /// The bundle; only `delete` names it, `start` runs in it.
    pub bundle: Option<PathBuf>,
    /// Whether containerd itself logs at debug level.
    pub debug: bool,
}

/// Why a command line was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagsError {
    /// No such flag.
    #[error("flag provided but not defined: -{0}")]
    Unknown(String),
    /// A flag at the end that wants a value.
    #[error("flag needs a value: -{0}")]
    NoValue(String),
    /// Neither `start` nor `delete`.
    #[error("unknown action {0:?}; containerd calls a shim with start or delete")]
    Action(String),
    /// Called by hand, probably.
    #[error("no action; this program is run by containerd, with start or delete")]
    NoAction,
    /// A flag that the action needs.
    #[error("-{0} is missing")]
    Missing(&'static str),
}

impl Flags {
    /// Parses what follows the program's name.
    ///
    /// # Errors
    ///
    /// [`FlagsError`] names the word that does not fit.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, FlagsError> {
        let mut words = words.into_iter().peekable();
        let mut flags = Self {
            action: Action::Start,
            id: String::new(),
            namespace: String::new(),
            address: String::new(),
            publish_binary: PathBuf::new(),
            bundle: None,
            debug: false,
        };
        while let Some(word) = words.next_if(|word| word.starts_with('-')) {
            let word = word.trim_start_matches('-');
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word.to_owned(), None),
            };
            match name.as_str() {
                "v" | "version" => {
                    return Ok(Self {
                        action: Action::Version,
                        ..flags
                    });
                }
                "info" => {
                    return Ok(Self {
                        action: Action::Info,
                        ..flags
                    });
                }
                "debug" => flags.debug = inline.is_none_or(|value| value != "false"),
                "id" | "namespace" | "address" | "bundle" | "publish-binary" | "socket" => {
                    let value = inline
                        .or_else(|| words.next())
                        .ok_or_else(|| FlagsError::NoValue(name.clone()))?;
                    match name.as_str() {
                        "id" => flags.id = value,
                        "namespace" => flags.namespace = value,
                        "address" => flags.address = value,
                        "bundle" => flags.bundle = Some(value.into()),
                        "publish-binary" => flags.publish_binary = value.into(),
                        // Events go to TTRPC_ADDRESS, the socket is this shim's own choice.
                        _ => {}
                    }
                }
                _ => return Err(FlagsError::Unknown(name)),
            }
        }
        flags.action = match words.next().as_deref() {
            Some("start") => Action::Start,
            Some("delete") => Action::Delete,
            Some(other) => return Err(FlagsError::Action(other.to_owned())),
            None => return Err(FlagsError::NoAction),
        };
        if flags.id.is_empty() {
            return Err(FlagsError::Missing("id"));
        }
        if flags.namespace.is_empty() {
            return Err(FlagsError::Missing("namespace"));
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagsError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn containerds_start_is_understood() {
        let flags = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id web -debug start",
        )
        .unwrap();
        assert_eq!(flags.action, Action::Start);
        assert_eq!(
            (flags.id.as_str(), flags.namespace.as_str()),
            ("web", "k8s.io")
        );
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
        assert!(flags.debug);
    }

    #[test]
    fn values_may_be_joined_by_an_equals_sign() {
        let flags = parse("--namespace=n -id=a=b -bundle=/b -debug=false delete").unwrap();
        assert_eq!(flags.action, Action::Delete);
        assert_eq!(flags.id, "a=b");
        assert_eq!(flags.bundle, Some("/b".into()));
        assert!(!flags.debug);
    }

    #[test]
    fn version_and_info_need_nothing_else() {
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(parse("-id"), Err(FlagsError::NoValue("id".into())));
        assert_eq!(
            parse("-frob 1 start"),
            Err(FlagsError::Unknown("frob".into()))
        );
        assert_eq!(
            parse("-id a -namespace n serve"),
            Err(FlagsError::Action("serve".into()))
        );
        assert_eq!(parse(""), Err(FlagsError::NoAction));
        assert_eq!(parse("-namespace n start"), Err(FlagsError::Missing("id")));
    }
}
