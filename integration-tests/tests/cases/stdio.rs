//! Streams as users have them: `ctr run --tty` at a terminal, `--log-uri`.
//!
//! `ctr` leaves its own terminal's output processing on, which makes `\r\n` a `\r\r\n`.

use anyhow::{Result, ensure};
use integration_tests::RUNC;
use integration_tests::containerd::Containerd;
use integration_tests::image::Image;
use integration_tests::{guests, native};

cases![
    a_terminal_echoes_edits_and_ends_with_control_d,
    control_c_and_control_backslash_end_a_guest,
    the_last_of_a_terminals_output_arrives,
    a_guest_in_a_terminal_is_told_so,
    lines_end_as_runcs_do,
    a_log_file_has_both_streams,
    a_logger_has_both_streams,
    a_logger_that_is_missing_is_told_by_name,
];

fn image(containerd: &Containerd, guest: &str) -> Result<Image> {
    let image = guests::image(guest)?;
    containerd.import(&image)?;
    Ok(image)
}

fn a_terminal_echoes_edits_and_ends_with_control_d(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "cat")?;
    let mut session = containerd.run(&image, "typed").in_terminal()?;
    containerd.events().wait_for("start", "typed")?;
    session.types(b"hexx\x7f\x7fllo\r")?;
    session.shows("llo\r\r\nhello\r\r\n")?;
    session.types(b"\x04")?;
    let shown = session.ends_with(0)?;
    ensure!(shown.ends_with("eof\r\r\n"), "{shown:?}");
    Ok(())
}

fn control_c_and_control_backslash_end_a_guest(containerd: &Containerd) -> Result<()> {
    for (guest, ready) in [("spin", "spinning"), ("sleep", "sleeping")] {
        let image = image(containerd, guest)?;
        for (key, status) in [(b"\x03", 130), (b"\x1c", 131)] {
            let id = format!("{guest}-{status}");
            let mut session = containerd.run(&image, &id).in_terminal()?;
            session.shows(ready)?;
            session.types(key)?;
            session.ends_with(status)?;
        }
    }
    Ok(())
}

fn the_last_of_a_terminals_output_arrives(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "flood")?;
    let run = containerd.run(&image, "much").args(["/app.wasm", "10000"]);
    let shown = run.in_terminal()?.ends_with(0)?;
    ensure!(shown.len() == 10_000, "{} bytes", shown.len());
    Ok(())
}

/// Clients differ in what their own terminal adds to a line's end: runc is the oracle.
fn lines_end_as_runcs_do(containerd: &Containerd) -> Result<()> {
    let native = native::image()?;
    containerd.import(&native)?;
    let native = containerd.run(&native, "runcs-line").runtime(RUNC);
    let theirs = native.in_terminal()?.ends_with(0)?;
    let wasi = containerd.run(&image(containerd, "hello")?, "our-line");
    let ours = wasi.in_terminal()?.ends_with(0)?;
    ensure!(
        theirs.replace("linux", "wasi") == ours,
        "{theirs:?} and {ours:?}"
    );
    Ok(())
}

fn a_guest_in_a_terminal_is_told_so(containerd: &Containerd) -> Result<()> {
    for guest in ["tty", "tty.component"] {
        let id = format!("told-by-{guest}");
        let run = containerd.run(&image(containerd, guest)?, &id);
        let shown = run.in_terminal()?.ends_with(0)?;
        ensure!(
            shown == "stdin true\r\r\nstdout true\r\r\nstderr true\r\r\n",
            "{guest}: {shown:?}"
        );
    }
    Ok(())
}

/// Runs a guest that writes to both streams, to its end.
fn logged(containerd: &Containerd, id: &str, uri: &str) -> Result<()> {
    let run = containerd.run(&image(containerd, "cat")?, id);
    let task = run.start_with_log(uri)?;
    ensure!(task.wait()?.exit_status() == 0);
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}

fn a_log_file_has_both_streams(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("new").join("a log");
    let uri = format!("file://{}/new/a%20log", folder.path().display());
    logged(containerd, "log-file", &uri)?;
    let text = std::fs::read_to_string(log)?;
    ensure!(text == "eof\n", "{text:?}");
    Ok(())
}

fn a_logger_has_both_streams(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lines = r#"cd "$0"; exec 5>&-; cat <&3 >stdout; cat <&4 >stderr
        echo $CONTAINER_NAMESPACE $CONTAINER_ID >who"#;
    let lines: String = lines.bytes().map(|byte| format!("%{byte:02x}")).collect();
    // After -c and its lines comes $0.
    let uri = format!("binary:///bin/sh?-c={lines}&{}=", folder.path().display());
    logged(containerd, "log-program", &uri)?;
    let read = |name| std::fs::read_to_string(folder.path().join(name));
    let (stderr, who) = (read("stderr")?, read("who")?);
    let expected = format!("{} log-program\n", containerd.namespace());
    ensure!((stderr.as_str(), who) == ("eof\n", expected), "{stderr:?}");
    Ok(())
}

fn a_logger_that_is_missing_is_told_by_name(containerd: &Containerd) -> Result<()> {
    let run = containerd.run(&image(containerd, "hello")?, "no-logger");
    let Err(error) = run.start_with_log("binary:///nonexistent/logger") else {
        anyhow::bail!("it runs without its logger");
    };
    let error = format!("{error:#}");
    for part in ["cannot log to /nonexistent/logger", "No such file"] {
        ensure!(error.contains(part), "{part:?} is missing: {error}");
    }
    Ok(())
}
