//! What the command line of `check` asks for.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub(super) const HELP: &str = "\
Usage: containerd-shim-wasi-v1 check [FLAG]...

Tells what this node lacks to run wasm containers, and how to mend it. Run it on the node, as root.
Something missing is exit status 1; a note is something that only some workloads need.

  --containerd-address FILE  containerd's socket (default: /run/containerd/containerd.sock)
  --config FILE              containerd's configuration (default: /etc/containerd/config.toml)
  --runtime-name NAME        the handler that a RuntimeClass names (default: wasi)
  -h, --help                 print this
";

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) address: PathBuf,
    pub(super) config: PathBuf,
    pub(super) runtime_name: String,
}

impl Request {
    /// Parses what follows `check`; nothing if help is wanted.
    pub(super) fn parse(words: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut request = Self {
            address: "/run/containerd/containerd.sock".into(),
            config: "/etc/containerd/config.toml".into(),
            runtime_name: "wasi".to_owned(),
        };
        let mut words = words.map(|word| {
            word.into_string()
                .map_err(|word| format!("{} is not UTF-8", word.display()))
        });
        while let Some(word) = words.next() {
            let word = word?;
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if matches!(word.as_str(), "-h" | "--help") {
                return Ok(None);
            }
            if !matches!(flag, "--containerd-address" | "--config" | "--runtime-name") {
                return Err(format!("check has no flag {word}; see check --help"));
            }
            let value = match inline {
                Some(value) => value,
                None => words
                    .next()
                    .ok_or_else(|| format!("flag needs a value: {flag}"))??,
            };
            match flag {
                "--containerd-address" => {
                    let path = value.strip_prefix("unix://").unwrap_or(&value);
                    request.address = path.into();
                }
                "--config" => request.config = value.into(),
                _ => request.runtime_name = value,
            }
        }
        Ok(Some(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Request>, String> {
        Request::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_have_either_form() {
        let line =
            "--containerd-address unix:///run/k3s/containerd/containerd.sock --config=/c.toml";
        let request = parse(line).unwrap().unwrap();
        assert_eq!(
            request.address,
            PathBuf::from("/run/k3s/containerd/containerd.sock")
        );
        assert_eq!(request.config, PathBuf::from("/c.toml"));
        assert_eq!(parse("--help"), Ok(None));
        assert!(parse("--config").unwrap_err().contains("--config"));
        assert!(parse("all").unwrap_err().contains("all"));
    }
}
