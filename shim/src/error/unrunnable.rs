//! Programs that cannot be run, in the words by which clients choose between the exit codes 126 and 127.

use super::Error;

impl Error {
    /// What is wrong with the program of a container; other faults of its bundle are told as they are.
    pub(crate) fn entrypoint(program: &str, source: wasi_bundles::Error) -> Self {
        match words(program, &source) {
            Some(reason) => Self::Entrypoint {
                program: program.to_owned(),
                reason,
                source: Box::new(source),
            },
            None => Self::Bundle(source),
        }
    }

    /// What is wrong with the program of an exec.
    pub(crate) fn exec(program: &str, source: wasi_bundles::Error) -> Self {
        Self::Exec {
            program: program.to_owned(),
            reason: words(program, &source).unwrap_or("cannot be executed"),
            source: Box::new(source),
        }
    }
}

/// What runc says of such a program, if it can have such a fault. Clients look for the words (moby
/// `daemon/errors.go`: 127 for the first two, 126 for permission denied, and for anything else of an exec).
fn words(program: &str, fault: &wasi_bundles::Error) -> Option<&'static str> {
    use wasi_bundles::Error as Why;
    if matches!(fault, Why::NoEntrypoint { .. }) {
        Some(if program.contains('/') {
            "no such file or directory"
        } else {
            "executable file not found in $PATH"
        })
    } else if matches!(fault, Why::NotWasm { .. }) {
        Some("exec format error")
    } else if matches!(fault, Why::NotAFile { .. }) {
        Some("permission denied")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ttrpc::Code;

    #[test]
    fn an_exec_fails_in_words_that_clients_know() {
        let missing = |path: &str| wasi_bundles::Error::NoEntrypoint {
            path: path.to_owned(),
            tried: vec![path.to_owned()],
        };
        let script = wasi_bundles::Error::NotWasm {
            path: "/a".to_owned(),
            what: wasi_bundles::NotWasm::Script,
        };
        let folder = wasi_bundles::Error::NotAFile {
            path: "/a".to_owned(),
            what: "a directory",
        };
        for (name, source, words) in [
            (
                "a",
                missing("a"),
                r#"exec failed: "a": executable file not found in $PATH: the container has no file"#,
            ),
            (
                "/a",
                missing("/a"),
                r#"exec failed: "/a": no such file or directory: "#,
            ),
            (
                "a",
                script,
                r#"exec failed: "a": exec format error: /a is a script"#,
            ),
            (
                "/a",
                folder,
                r#"exec failed: "/a": permission denied: /a is a directory"#,
            ),
        ] {
            let error = Error::exec(name, source);
            assert!(error.text().starts_with(words), "{}", error.text());
            assert_eq!(error.code(), Code::FAILED_PRECONDITION);
        }
    }

    #[test]
    fn a_container_without_its_program_fails_in_the_same_words() {
        let (path, tried) = ("/a".to_owned(), Vec::new());
        let error = Error::entrypoint("/a", wasi_bundles::Error::NoEntrypoint { path, tried });
        let words = r#"cannot run "/a": no such file or directory: "#;
        assert!(error.text().starts_with(words), "{}", error.text());
    }
}
