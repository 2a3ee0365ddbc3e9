//! Where one stream goes, out of what containerd said: a path, or a URI (contract of runc's shim,
//! `process/io.go`: `fifo`, `file`, `binary`; `binary-v2` since containerd 2.3).

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use crate::Error;

/// Where a stream goes, or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Nowhere.
    Nothing,
    /// Something that exists; containerd has made a fifo.
    Path(PathBuf),
    /// A file that is made if it is missing, and appended to.
    File(PathBuf),
    /// A program that reads it.
    Program(LogCommand),
}

/// A program that takes a container's output, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogCommand {
    pub(super) program: CString,
    /// Without the program's own name.
    pub(super) args: Vec<CString>,
    /// Whether it says that it is ready with a byte (`binary-v2`), or with the end of the stream alone.
    pub(super) strict: bool,
}

impl LogCommand {
    /// For people.
    pub(super) fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }
}

impl Target {
    /// Parses what containerd said about `stream`.
    ///
    /// # Errors
    ///
    /// [`Error::StdioUri`] for a scheme that there is none of, or a URI without an absolute path.
    pub(super) fn parse(stream: &'static str, text: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(match text {
                "" => Self::Nothing,
                path => Self::Path(path.into()),
            });
        };
        let refuse = |problem: &str| Error::StdioUri {
            stream,
            uri: text.to_owned(),
            problem: problem.to_owned(),
        };
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = OsString::from_vec(percent_decode_str(path).collect());
        let checked = || match Path::new(&path) {
            path if path.is_absolute() => Ok(path.to_owned()),
            _ => Err(refuse(
                "its path is not absolute; write three slashes after the colon",
            )),
        };
        match scheme.to_ascii_lowercase().as_str() {
            "fifo" => checked().map(Self::Path),
            "file" => checked().map(Self::File),
            scheme @ ("binary" | "binary-v2") => {
                let nul = |_| refuse("it has a NUL byte in it");
                let program = checked()?.into_os_string().into_vec();
                let words = form_urlencoded::parse(query.as_bytes())
                    .flat_map(|(name, value)| [name.into_owned(), value.into_owned()]);
                Ok(Self::Program(LogCommand {
                    program: CString::new(program).map_err(nul)?,
                    args: words
                        .map(CString::new)
                        .collect::<Result<_, _>>()
                        .map_err(nul)?,
                    strict: scheme == "binary-v2",
                }))
            }
            _ => Err(refuse(
                "there are fifo://, file://, binary:// and binary-v2://, and paths of fifos",
            )),
        }
    }

    /// Where stderr goes when stdout goes here. As in runc's shim, stdout decides: a file or a program
    /// takes both.
    ///
    /// # Errors
    ///
    /// [`Error::StdioUri`] when the two cannot be had together.
    pub(super) fn with_stderr(&self, stderr: Self, uri: &str) -> Result<Self, Error> {
        let refuse = |problem: &str| {
            Err(Error::StdioUri {
                stream: "stderr",
                uri: uri.to_owned(),
                problem: problem.to_owned(),
            })
        };
        match (self, stderr) {
            (Self::File(_) | Self::Program(_), Self::Nothing) => Ok(self.clone()),
            (Self::Program(program), Self::Program(stderr)) if *program == stderr => {
                Ok(self.clone())
            }
            (Self::Program(_), _) => refuse(
                "stdout goes to a logger, which takes stderr as well; name the same for both",
            ),
            (_, Self::Program(_)) => {
                refuse("a logger takes stdout as well; name the same for both")
            }
            (_, stderr) => Ok(stderr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Target {
        Target::parse("stdout", text).unwrap()
    }

    fn refusal(text: &str) -> String {
        Target::parse("stdout", text).unwrap_err().text()
    }

    fn command(text: &str) -> (String, Vec<String>, bool) {
        let Target::Program(command) = parse(text) else {
            panic!("{text} is no program");
        };
        let args = command.args.iter().map(|arg| arg.to_string_lossy());
        (
            command.name(),
            args.map(|arg| arg.into_owned()).collect(),
            command.strict,
        )
    }

    #[test]
    fn paths_and_uris_name_places() {
        assert_eq!(parse(""), Target::Nothing);
        assert_eq!(parse("/run/a b%20"), Target::Path("/run/a b%20".into()));
        assert_eq!(parse("fifo:///run/a%20b"), Target::Path("/run/a b".into()));
        assert_eq!(
            parse("file:///log/%C3%BC?x#y"),
            Target::File("/log/ü".into())
        );
        assert_eq!(parse("FILE:///log"), Target::File("/log".into()));
    }

    #[test]
    fn a_query_is_arguments_in_its_order() {
        let (program, args, strict) = command("binary:///bin/a%20b?z=1&a=%2Ftmp+x&a=2&flag");
        assert_eq!(program, "/bin/a b");
        assert_eq!(args, ["z", "1", "a", "/tmp x", "a", "2", "flag", ""]);
        assert!(!strict);
        let (_, args, strict) = command("binary-v2:///bin/log");
        assert_eq!(args, [""; 0]);
        assert!(strict);
    }

    #[test]
    fn what_cannot_be_a_place_is_refused_with_what_can() {
        let text = refusal("npipe:////./pipe/x");
        for part in [
            "stdout",
            "npipe:",
            "fifo://",
            "file://",
            "binary://",
            "binary-v2://",
        ] {
            assert!(text.contains(part), "{text}");
        }
        for relative in ["binary://bin/log", "file://log", "fifo://"] {
            assert!(refusal(relative).contains("absolute"), "{relative}");
        }
        assert!(refusal("binary:///bin/log?a=%00").contains("NUL"));
    }

    #[test]
    fn stdout_decides_where_stderr_goes() {
        let [fifo, file, logger] = ["/fifo", "file:///log", "binary:///bin/log"].map(parse);
        let together = |stdout: &Target, stderr: &Target| stdout.with_stderr(stderr.clone(), "uri");
        assert_eq!(together(&fifo, &Target::Nothing).unwrap(), Target::Nothing);
        assert_eq!(together(&fifo, &file).unwrap(), file);
        assert_eq!(together(&file, &Target::Nothing).unwrap(), file);
        assert_eq!(together(&file, &fifo).unwrap(), fifo);
        assert_eq!(together(&logger, &Target::Nothing).unwrap(), logger);
        assert_eq!(together(&logger, &logger).unwrap(), logger);
        for (stdout, stderr) in [
            (&logger, &parse("binary:///bin/other")),
            (&logger, &fifo),
            (&fifo, &logger),
            (&Target::Nothing, &logger),
        ] {
            let error = together(stdout, stderr).unwrap_err();
            assert!(error.text().contains("name the same"), "{}", error.text());
        }
    }
}
