//! Terminals of the built shim, each a container's.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use containerd_shim_protos::events::task::TaskCreate;
use integration_tests::bundle::Bundle;
use integration_tests::fake::FakeContainerd;
use integration_tests::fifo::{Fifo, shows};
use integration_tests::guests;
use integration_tests::tasks::{Tasks, code};
use integration_tests::terminal::size;
use ttrpc::Code;

/// A container in a terminal, with the client's fifos.
struct InTerminal {
    fake: FakeContainerd,
    tasks: Tasks,
    bundle: Bundle,
    stdin: File,
    stdout: File,
}

impl InTerminal {
    /// Created, not started.
    fn new(guest: &str, args: &[&str]) -> Result<Self> {
        let fake = FakeContainerd::new()?;
        let sized = serde_json::json!({ "height": 24, "width": 80 });
        let args = std::iter::once("/main.wasm").chain(args.iter().copied());
        let bundle = fake
            .bundle("one")
            .file("/main.wasm", guests::named(guest)?)
            .args(args)
            .edit(|config| config["process"]["consoleSize"] = sized)
            .write()?;
        let tasks = fake.serve(&bundle)?;
        let [stdin, stdout] = ["stdin", "stdout"].map(|name| Fifo::new(fake.folder(), name));
        let (stdin, stdout) = (stdin?, stdout?);
        tasks.create_with(&bundle, |request| {
            request.terminal = true;
            request.stdin = stdin.uri();
            request.stdout = stdout.uri();
        })?;
        let (stdin, stdout) = (stdin.writer()?, stdout.reader()?);
        Ok(Self {
            fake,
            tasks,
            bundle,
            stdin,
            stdout,
        })
    }

    fn started(guest: &str, args: &[&str]) -> Result<Self> {
        let created = Self::new(guest, args)?;
        created.tasks.start(created.bundle.id())?;
        Ok(created)
    }

    /// Reads until the text has come.
    fn shows(&mut self, text: &str) -> Result<()> {
        shows(&mut self.stdout, text)
    }

    /// Waits for the end; the status, and the rest of what was shown.
    fn ends(mut self) -> Result<(u32, String)> {
        let status = self.tasks.wait(self.bundle.id())?.exit_status;
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        self.tasks.delete(self.bundle.id())?;
        Ok((status, rest))
    }
}

#[test]
fn a_guest_in_a_terminal_is_told_so() -> Result<()> {
    for guest in ["tty", "tty.component"] {
        let terminal = InTerminal::started(guest, &[])?;
        let state = terminal.tasks.state("one")?;
        ensure!(state.terminal, "{state:?}");
        let created: TaskCreate = terminal.fake.receiver.wait_for("create")?.decode()?;
        ensure!(created.io.terminal, "{created:?}");
        let (status, shown) = terminal.ends()?;
        ensure!(
            (status, shown.as_str()) == (0, "stdin true\r\nstdout true\r\nstderr true\r\n"),
            "{guest}: {status}, {shown:?}"
        );
    }
    Ok(())
}

#[test]
fn a_terminal_echoes_and_ends_its_input_with_control_d() -> Result<()> {
    let mut terminal = InTerminal::started("cat", &[])?;
    terminal.stdin.write_all(b"hexx\x7f\x7fllo\n")?;
    // The echo of it, then the guest's copy.
    terminal.shows("llo\r\nhello\r\n")?;
    terminal.stdin.write_all(b"\x04")?;
    let (status, rest) = terminal.ends()?;
    ensure!(
        (status, rest.as_str()) == (0, "eof\r\n"),
        "{status}, {rest:?}"
    );
    Ok(())
}

#[test]
fn typed_signals_end_a_guest_wherever_it_is() -> Result<()> {
    for (guest, ready) in [
        ("spin", "spinning"),
        ("sleep", "sleeping"),
        ("stdin_block", "reading"),
    ] {
        for (key, expected) in [(b"\x03", 130), (b"\x1c", 131)] {
            let mut terminal = InTerminal::started(guest, &[])?;
            terminal.shows(ready)?;
            terminal.stdin.write_all(key)?;
            let (status, rest) = terminal.ends()?;
            ensure!(status == expected, "{guest}: {status}, {rest:?}");
        }
    }
    Ok(())
}

#[test]
fn what_is_typed_before_start_is_not_lost() -> Result<()> {
    let mut early = InTerminal::new("cat", &[])?;
    early.stdin.write_all(b"ahead\n\x04")?;
    early.tasks.start("one")?;
    let (status, shown) = early.ends()?;
    ensure!(
        status == 0 && shown.ends_with("ahead\r\neof\r\n"),
        "{status}, {shown:?}"
    );
    Ok(())
}

#[test]
fn a_client_that_closes_its_terminal_hangs_up() -> Result<()> {
    let mut terminal = InTerminal::started("sleep", &[])?;
    // Else it may be hung up on before it has said anything.
    terminal.shows("sleeping\r\n")?;
    let InTerminal {
        fake: _fake,
        tasks,
        stdin,
        mut stdout,
        ..
    } = terminal;
    tasks.close_stdin("one")?;
    ensure!(
        tasks.state("one")?.exit_status == 0,
        "it has ended too early"
    );
    drop(stdin);
    let status = tasks.wait("one")?.exit_status;
    ensure!(status == 129, "{status}");
    let mut shown = String::new();
    stdout.read_to_string(&mut shown)?;
    ensure!(shown.is_empty(), "{shown:?}");
    Ok(())
}

#[test]
fn a_terminal_has_a_size() -> Result<()> {
    let terminal = InTerminal::started("sleep", &[])?;
    ensure!(size(terminal.fake.shim()?.pid)? == (24, 80));
    terminal.tasks.resize("one", 132, 50)?;
    ensure!(size(terminal.fake.shim()?.pid)? == (50, 132));
    let refused = terminal.tasks.resize("one", 70_000, 50);
    ensure!(
        code(&refused) == Some(Code::INVALID_ARGUMENT),
        "{refused:?}"
    );
    let unknown = terminal.tasks.resize("other", 80, 24);
    ensure!(code(&unknown) == Some(Code::NOT_FOUND), "{unknown:?}");
    terminal.tasks.kill("one", 9)?;
    terminal.tasks.wait("one")?;
    terminal.tasks.resize("one", 80, 24)?;
    Ok(())
}
