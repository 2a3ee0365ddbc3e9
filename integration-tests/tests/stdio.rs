//! Streams of the built shim: loggers, and what comes through fifos, files, loggers and terminals.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::CreateTaskRequest;
use integration_tests::bundle::BundleBuilder;
use integration_tests::fake::FakeContainerd;
use integration_tests::fifo::Fifo;
use integration_tests::flood::{self, Flood};
use integration_tests::processes::Process;
use integration_tests::tasks::code;
use integration_tests::{guests, poll};
use ttrpc::Code;

const PATIENCE: Duration = Duration::from_secs(20);

fn runs(fake: &FakeContainerd, guest: &str, args: &[&str]) -> Result<BundleBuilder> {
    let args = std::iter::once("/main.wasm").chain(args.iter().copied());
    let bundle = fake.bundle("one").file("/main.wasm", guests::named(guest)?);
    Ok(bundle.args(args))
}

#[test]
fn a_guest_without_a_terminal_is_told_so() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = runs(&fake, "tty", &[])?.write()?;
    let log = fake.folder().join("out");
    let tasks = fake.serve(&bundle)?;
    tasks.create_with(&bundle, |request| {
        request.stdout = format!("file://{}", log.display());
    })?;
    tasks.start("one")?;
    tasks.wait("one")?;
    let text = fs::read_to_string(log)?;
    ensure!(
        text == "stdin false\nstdout false\nstderr false\n",
        "{text:?}"
    );
    // As with runc, the size of nothing can be set.
    tasks.resize("one", 80, 24)?;
    Ok(())
}

/// Runs `flood` with these streams; `meanwhile` takes what comes.
fn floods(
    change: impl FnOnce(&FakeContainerd, &mut CreateTaskRequest) -> Result<()>,
    meanwhile: impl FnOnce(&FakeContainerd) -> Result<Flood> + Send,
) -> Result<()> {
    let size = flood::size()?;
    let fake = FakeContainerd::new()?;
    let bundle = runs(&fake, "flood", &[&size.to_string()])?.write()?;
    let tasks = fake.serve(&bundle)?;
    let mut changed = Ok(());
    tasks.create_with(&bundle, |request| changed = change(&fake, request))?;
    changed?;
    tasks.start("one")?;
    std::thread::scope(|scope| {
        let came = scope.spawn(|| meanwhile(&fake));
        // Wait has a limit that a GiB may need twice.
        let waited = poll::until("the flood ends", Duration::from_secs(300), || {
            tasks.wait("one").map_err(|error| error.to_string())
        })?;
        ensure!(waited.exit_status == 0, "{waited:?}");
        tasks.delete("one")?;
        let came = came.join().ok().context("the reader panicked")??;
        came.ends_at(size)
    })
}

fn to_fifo(fake: &FakeContainerd, request: &mut CreateTaskRequest) -> Result<()> {
    request.stdout = Fifo::new(fake.folder(), "out")?.uri();
    Ok(())
}

fn to_terminal(fake: &FakeContainerd, request: &mut CreateTaskRequest) -> Result<()> {
    request.terminal = true;
    to_fifo(fake, request)
}

fn out(fake: &FakeContainerd) -> Result<File> {
    Ok(File::open(fake.folder().join("out"))?)
}

fn all(fake: &FakeContainerd) -> Result<Flood> {
    let mut flood = Flood::default();
    flood.read_to_end(out(fake)?)?;
    Ok(flood)
}

/// A reader that goes away again and again.
fn in_pieces(fake: &FakeContainerd) -> Result<Flood> {
    let mut flood = Flood::default();
    let mut buffer = vec![0; 100_000];
    for _ in 0..100 {
        let count = out(fake)?.read(&mut buffer)?;
        flood.take(&buffer[..count]);
    }
    flood.read_to_end(out(fake)?)?;
    Ok(flood)
}

#[test]
fn a_flood_through_a_fifo_is_whole() -> Result<()> {
    floods(to_fifo, all)
}

#[test]
fn a_flood_through_a_terminal_is_whole() -> Result<()> {
    floods(to_terminal, all)
}

#[test]
fn a_flood_is_whole_for_readers_that_come_and_go() -> Result<()> {
    floods(to_fifo, in_pieces)?;
    floods(to_terminal, in_pieces)
}

#[test]
fn a_flood_into_a_file_is_whole() -> Result<()> {
    let log = |fake: &FakeContainerd| fake.folder().join("new folder/log");
    let uri = |fake: &FakeContainerd, request: &mut CreateTaskRequest| {
        let path = log(fake).display().to_string().replace(' ', "%20");
        request.stdout = format!("file://{path}");
        Ok(())
    };
    floods(uri, |fake| {
        poll::until(
            "the log is complete",
            Duration::from_secs(300),
            || match fs::metadata(log(fake)) {
                Ok(file) if file.len() >= flood::size().unwrap_or_default() => Ok(()),
                file => Err(format!("{file:?}")),
            },
        )?;
        let mut flood = Flood::default();
        flood.read_to_end(File::open(log(fake))?)?;
        Ok(flood)
    })
}

/// A shell as a logger, with a script in which `$0` is this folder.
fn shell(scheme: &str, lines: &str, folder: &Path) -> String {
    let encoded: String = lines.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("{scheme}:///bin/sh?-c={encoded}&{}=", folder.display())
}

#[test]
fn a_flood_through_a_logger_is_whole() -> Result<()> {
    // The reader sees the end of the fifo when the logger has ended.
    let lines = r#"echo ready >&5; exec 5>&-; cat <&3 >"$0/out"; exec cat <&4 >&2"#;
    for terminal in [false, true] {
        floods(
            |fake, request| {
                Fifo::new(fake.folder(), "out")?;
                request.stdout = shell("binary-v2", lines, fake.folder());
                request.stderr.clone_from(&request.stdout);
                request.terminal = terminal;
                Ok(())
            },
            all,
        )?;
    }
    Ok(())
}

#[test]
fn a_logger_gets_both_streams_and_is_gone_after_delete() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = runs(&fake, "cat", &[])?.write()?;
    let stdin = Fifo::new(fake.folder(), "stdin")?;
    let lines = r#"cd "$0"; echo $$ $CONTAINER_NAMESPACE $CONTAINER_ID >who; exec 5>&-
        cat <&3 >stdout; cat <&4 >stderr"#;
    let tasks = fake.serve(&bundle)?;
    tasks.create_with(&bundle, |request| {
        request.stdin = stdin.uri();
        request.stdout = shell("binary", lines, fake.folder());
    })?;
    let who = fs::read_to_string(fake.folder().join("who"))?;
    let [pid, "process-test", "one"] = who.split_whitespace().collect::<Vec<_>>()[..] else {
        anyhow::bail!("{who}");
    };
    let logger = Process::look(pid.parse()?);
    ensure!(logger.is_some(), "the logger does not run");
    tasks.start("one")?;
    stdin.writer()?.write_all(b"through and through\n")?;
    tasks.close_stdin("one")?;
    ensure!(tasks.wait("one")?.exit_status == 0);
    tasks.delete("one")?;
    let read = |name| fs::read_to_string(fake.folder().join(name));
    ensure!(read("stdout")? == "through and through\n" && read("stderr")? == "eof\n");
    ensure!(
        !Path::new("/proc").join(pid).exists(),
        "the logger is still there"
    );
    Ok(())
}

#[test]
fn an_exec_writes_to_a_file_or_a_logger_of_its_own() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = runs(&fake, "sleep", &[])?.file("/line.wasm", guests::writes("of an exec")?);
    let bundle = bundle.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start("one")?;
    let lines = r#"cd "$0"; echo $CONTAINER_ID >who; exec 5>&-; cat <&3 >logged"#;
    let file = format!("file://{}", fake.folder().join("folder/written").display());
    for (id, uri) in [
        ("to-a-file", file),
        ("to-a-logger", shell("binary", lines, fake.folder())),
    ] {
        let exec = tasks.exec("one", id);
        exec.add_with(&["/line.wasm"], |request, _| request.stdout = uri)?;
        exec.start()?;
        ensure!(exec.wait()?.exit_status == 0);
        exec.delete()?;
    }
    let read = |name| fs::read_to_string(fake.folder().join(name));
    ensure!(read("folder/written")? == "of an exec\n");
    ensure!(read("logged")? == "of an exec\n");
    ensure!(read("who")? == "to-a-logger\n", "{}", read("who")?);
    Ok(())
}

#[test]
fn a_logger_that_fails_fails_create_and_leaves_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = runs(&fake, "hello", &[])?.write()?;
    let tasks = fake.serve(&bundle)?;
    let cases = [
        (
            "binary:///nonexistent/logger".to_owned(),
            Code::INTERNAL,
            "/nonexistent/logger",
        ),
        (
            shell("binary-v2", "exit 3", fake.folder()),
            Code::INTERNAL,
            "without the byte",
        ),
        (
            "binary://relative".to_owned(),
            Code::INVALID_ARGUMENT,
            "absolute",
        ),
        (
            "npipe:////./pipe/x".to_owned(),
            Code::INVALID_ARGUMENT,
            "binary-v2://",
        ),
    ];
    for (uri, expected, text) in cases {
        let refused = tasks.create_with(&bundle, |request| request.stdout.clone_from(&uri));
        ensure!(code(&refused) == Some(expected), "{uri}: {refused:?}");
        let error = refused.unwrap_err().to_string();
        ensure!(error.contains(text), "{uri}: {error}");
    }
    let separate = tasks.create_with(&bundle, |request| {
        request.stderr = "binary:///bin/true".to_owned();
    });
    ensure!(
        code(&separate) == Some(Code::INVALID_ARGUMENT),
        "{separate:?}"
    );
    // The id is free.
    tasks.create(&bundle)?;
    Ok(())
}

#[test]
fn a_guest_whose_logger_has_ended_is_told() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = runs(&fake, "flood", &["1000000"])?.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create_with(&bundle, |request| {
        request.stdout = shell("binary-v2", "echo >&5", fake.folder());
    })?;
    tasks.start("one")?;
    let status = tasks.wait("one")?.exit_status;
    ensure!(
        status == 1,
        "{status}: a broken pipe is an error of `write`"
    );
    tasks.delete("one")?;
    Ok(())
}

#[test]
fn a_container_that_is_not_made_has_no_logger_left() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = fake.bundle("one").args(["/missing.wasm"]).write()?;
    let tasks = fake.serve(&bundle)?;
    let lines = r#"echo $$ >"$0/pid"; exec 5>&-; exec cat <&3"#;
    let refused = tasks.create_with(&bundle, |request| {
        request.stdout = shell("binary", lines, fake.folder());
    });
    ensure!(code(&refused).is_some(), "{refused:?}");
    let pid = fs::read_to_string(fake.folder().join("pid"))?;
    let process = Path::new("/proc").join(pid.trim());
    poll::until("the logger is gone", PATIENCE, || {
        if process.exists() {
            Err(format!("{} exists", process.display()))
        } else {
            Ok(())
        }
    })
}
