use std::fs;
use std::io::Write as _;

use super::super::target::Target;
use super::*;

const OWNER: Owner<'static> = Owner {
    namespace: "space",
    id: "one",
};

/// A URI that runs these lines of shell; more of its query are the lines' `$0`, `$1` and so on.
fn shell(scheme: &str, lines: &str) -> String {
    let query: String = form_urlencoded::byte_serialize(lines.as_bytes()).collect();
    format!("{scheme}:///bin/sh?-c={query}")
}

async fn start(uri: &str) -> Result<(LogProgram, OwnedFd, OwnedFd), Error> {
    start_within(PATIENCE, uri).await
}

async fn start_within(
    patience: Patience,
    uri: &str,
) -> Result<(LogProgram, OwnedFd, OwnedFd), Error> {
    let Ok(Target::Program(command)) = Target::parse("stdout", uri) else {
        panic!("{uri} is no program");
    };
    LogProgram::start_within(patience, &command, OWNER).await
}

fn refusal(started: Result<(LogProgram, OwnedFd, OwnedFd), Error>) -> String {
    started.map(drop).unwrap_err().text()
}

#[tokio::test]
async fn it_gets_its_streams_arguments_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let lines = r#"exec 5>&-
        { echo "$0 $@"; env | sort; cat <&3; cat <&4; } >"$1""#;
    let uri = format!("{}&out={}", shell("binary", lines), out.display());
    let (program, stdout, stderr) = start(&uri).await.unwrap();
    fs::File::from(stdout).write_all(b"to stdout\n").unwrap();
    fs::File::from(stderr).write_all(b"to stderr\n").unwrap();
    program.close();
    program.end().await;
    let text = fs::read_to_string(&out).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next().unwrap(), format!("out {}", out.display()));
    assert!(
        text.contains("CONTAINER_ID=one\nCONTAINER_NAMESPACE=space\n"),
        "{text}"
    );
    assert!(!text.contains("HOME="), "{text}");
    assert!(text.ends_with("to stdout\nto stderr\n"), "{text}");
}

#[tokio::test]
async fn it_is_ready_by_a_byte_or_by_the_end() {
    for (scheme, ready, fine) in [
        ("binary", "exec 5>&-", true),
        ("binary", "echo >&5", true),
        ("binary-v2", "echo >&5", true),
        ("binary-v2", "exec 5>&-", false),
        ("binary-v2", "exit 3", false),
    ] {
        let started = start(&shell(scheme, &format!("{ready}\ncat <&3"))).await;
        match started {
            Ok((program, stdout, stderr)) => {
                assert!(fine, "{scheme}, {ready}");
                drop((stdout, stderr));
                program.end().await;
            }
            refused => {
                let text = refusal(refused);
                assert!(
                    !fine && text.contains("without the byte"),
                    "{ready}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn one_that_cannot_be_started_is_told_by_name() {
    let text = refusal(start("binary:///nonexistent/logger").await);
    for part in ["/nonexistent/logger", "cannot be started", "No such file"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn one_that_never_is_ready_is_killed() {
    let patience = Patience {
        ready: Duration::from_millis(50),
        ..PATIENCE
    };
    let text = refusal(start_within(patience, &shell("binary", "exec sleep 1000")).await);
    assert!(
        text.contains("is not ready") && text.contains("within 50ms"),
        "{text}"
    );
}

#[tokio::test]
async fn one_that_does_not_end_is_asked_to_and_killed() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let lines = format!(
        "trap 'echo >{}' TERM\nexec 5>&-\nwhile :; do sleep 0.01; done",
        asked.display()
    );
    let patience = Patience {
        read: Duration::from_millis(50),
        terminate: Duration::from_secs(1),
        ..PATIENCE
    };
    let started = start_within(patience, &shell("binary", &lines)).await;
    let (program, _stdout, _stderr) = started.unwrap();
    program.end().await;
    assert!(asked.exists(), "it was not asked first");
}

#[tokio::test]
async fn the_guest_of_one_that_ended_meets_a_broken_pipe() {
    let (program, stdout, _stderr) = start(&shell("binary-v2", "echo >&5")).await.unwrap();
    program.end().await;
    let written = rustix::io::write(&stdout, b"lost");
    // The test's own process ignores SIGPIPE, as Rust programs do.
    assert_eq!(written, Err(Errno::PIPE));
}
