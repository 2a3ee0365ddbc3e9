//! What the command lines of `install` and `uninstall` ask for.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Usage: containerd-shim-wasi-v1 install|uninstall [FLAG]...

Puts this program and its compiler on a node and the runtime into containerd's configuration, or
takes both away again. Doing it twice does no harm. Run it as root.

  --root DIR           the node's root directory (default: /)
  --prefix DIR         the programs are put into DIR/bin (default: /usr/local)
  --config FILE        containerd's configuration (default: /etc/containerd/config.toml)
  --runtime-name NAME  the handler that a RuntimeClass names (default: wasi)
  --restart            restart containerd with the node's systemctl, if something has changed
  --service NAME       its unit (default: containerd; with --k3s: k3s)
  --k3s                no configuration, which k3s writes itself: the name that k3s looks for,
                       containerd-shim-wasmtime-v1, and its RuntimeClass is wasmtime
  -h, --help           print this
";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `install`.
    Install,
    /// `uninstall`.
    Uninstall,
}

/// A parsed command line. Paths but `root` are as the node sees them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) root: PathBuf,
    pub(crate) prefix: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) runtime_name: String,
    pub(crate) restart: bool,
    pub(crate) service: String,
    pub(crate) k3s: bool,
}

impl Request {
    /// Parses what follows the action; nothing if help is wanted.
    pub(crate) fn parse(
        action: Action,
        words: impl Iterator<Item = OsString>,
    ) -> Result<Option<Self>, String> {
        let action = match action {
            Action::Install => "install",
            Action::Uninstall => "uninstall",
        };
        let mut request = Self {
            root: "/".into(),
            prefix: "/usr/local".into(),
            config: "/etc/containerd/config.toml".into(),
            runtime_name: "wasi".into(),
            restart: false,
            service: String::new(),
            k3s: false,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let text = word
                .into_string()
                .map_err(|word| format!("{} is not UTF-8", word.display()))?;
            let (flag, inline) = match text.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            match (flag, &inline) {
                ("-h" | "--help", None) => return Ok(None),
                ("--restart", None) => request.restart = true,
                ("--k3s", None) => request.k3s = true,
                ("--root" | "--prefix" | "--config" | "--runtime-name" | "--service", _) => {
                    let value = match inline {
                        Some(value) => value,
                        None => words
                            .next()
                            .ok_or_else(|| format!("flag needs a value: {flag}"))?
                            .into_string()
                            .map_err(|word| format!("{} is not UTF-8", word.display()))?,
                    };
                    request.set(flag, value)?;
                }
                _ => return Err(format!("{action} has no flag {text}; see {action} --help")),
            }
        }
        if request.service.is_empty() {
            request.service = if request.k3s { "k3s" } else { "containerd" }.to_owned();
        }
        Ok(Some(request))
    }

    fn set(&mut self, flag: &str, value: String) -> Result<(), String> {
        match flag {
            "--root" => self.root = absolute(flag, value)?,
            "--prefix" => self.prefix = absolute(flag, value)?,
            "--config" => self.config = absolute(flag, value)?,
            "--service" if value.is_empty() || value.starts_with('-') => {
                return Err(format!("{flag} is {value:?}, which is no unit's name"));
            }
            "--service" => self.service = value,
            // Kubernetes wants the name of a handler to be a DNS label.
            _ if !value.is_empty()
                && value != "runc"
                && value
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')) =>
            {
                self.runtime_name = value;
            }
            _ => {
                return Err(format!(
                    "{flag} is {value:?}; it has to be small letters, digits and dashes, and not runc"
                ));
            }
        }
        Ok(())
    }
}

fn absolute(flag: &str, value: String) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!(
            "{flag} is {}; it has to begin with /",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Request>, String> {
        Request::parse(Action::Install, line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_have_defaults_and_either_form() {
        let plain = parse("").unwrap().unwrap();
        assert_eq!(plain.service, "containerd");
        assert_eq!(plain.config, PathBuf::from("/etc/containerd/config.toml"));
        let k3s = parse("--k3s --root /host --prefix=/opt/wasi")
            .unwrap()
            .unwrap();
        assert_eq!((k3s.service.as_str(), k3s.k3s), ("k3s", true));
        assert_eq!(k3s.prefix, PathBuf::from("/opt/wasi"));
        assert_eq!(k3s.root, PathBuf::from("/host"));
        assert_eq!(parse("--restart -h"), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (line, named) in [
            ("--prefix opt", "--prefix is opt"),
            ("--root", "--root"),
            ("--restart=yes", "--restart=yes"),
            ("--runtime-name runc", "not runc"),
            ("--runtime-name a.b", "a.b"),
            ("--service --now", "--now"),
            ("everything", "everything"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(named), "{line}: {error}");
        }
    }
}
