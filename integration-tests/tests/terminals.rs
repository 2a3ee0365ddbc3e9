//! Terminals of the built shim: of a container, and of its execs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Result, ensure};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::events::task::TaskCreate;
use integration_tests::bundle::Bundle;
use integration_tests::execs::{Exec, exits};
use integration_tests::fake::FakeContainerd;
use integration_tests::fifo::Fifo;
use integration_tests::tasks::{Tasks, code};
use integration_tests::{guests, poll};
use rustix::termios::tcgetwinsize;
use ttrpc::Code;

const PATIENCE: Duration = Duration::from_secs(20);
const TERM: u32 = 15;
const KILL: u32 = 9;

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

/// What the kernel says of the size of the shim's only terminal.
fn size(fake: &FakeContainerd) -> Result<(u16, u16)> {
    let shim = fake.shim()?;
    for entry in fs::read_dir(format!("/proc/{}/fd", shim.pid))? {
        // Any may be gone by now.
        let Ok(file) = fs::read_link(entry?.path()) else {
            continue;
        };
        if file.starts_with("/dev/pts") {
            let size = tcgetwinsize(File::open(file)?)?;
            return Ok((size.ws_row, size.ws_col));
        }
    }
    anyhow::bail!("the shim has no terminal")
}

/// Reads until the text has come.
fn shows(stdout: &mut File, text: &str) -> Result<()> {
    let mut shown = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&shown).ends_with(text) {
        ensure!(stdout.read(&mut byte)? == 1, "{shown:?}, then the end");
        shown.push(byte[0]);
    }
    Ok(())
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
    let InTerminal {
        fake: _fake,
        tasks,
        stdin,
        mut stdout,
        ..
    } = InTerminal::started("sleep", &[])?;
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
    ensure!(shown == "sleeping\r\n", "{shown:?}");
    Ok(())
}

#[test]
fn a_terminal_has_a_size() -> Result<()> {
    let terminal = InTerminal::started("sleep", &[])?;
    ensure!(size(&terminal.fake)? == (24, 80));
    terminal.tasks.resize("one", 132, 50)?;
    ensure!(size(&terminal.fake)? == (50, 132));
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

/// A container without a terminal, with programs to execute.
fn tools(fake: &FakeContainerd) -> Result<Tasks> {
    let mut bundle = fake
        .bundle("one")
        .file("/main.wasm", guests::spins()?)
        .file("/bin/exits", guests::exits(7)?);
    for name in ["cat", "tty", "sleep", "spin", "flood"] {
        bundle = bundle.file(&format!("/bin/{name}"), guests::named(name)?);
    }
    let bundle = bundle.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start("one")?;
    Ok(tasks)
}

/// An exec in a terminal, started, with the client's fifos.
struct ExecInTerminal<'a> {
    exec: Exec<'a>,
    stdin: File,
    stdout: File,
}

impl<'a> ExecInTerminal<'a> {
    fn started(fake: &FakeContainerd, tasks: &'a Tasks, id: &str, args: &[&str]) -> Result<Self> {
        let exec = tasks.exec("one", id);
        let fifo = |name| Fifo::new(fake.folder(), &format!("{id}-{name}"));
        let (stdin, stdout) = (fifo("stdin")?, fifo("stdout")?);
        exec.add_with(args, |request, spec| {
            request.terminal = true;
            request.stdin = stdin.uri();
            request.stdout = stdout.uri();
            spec["terminal"] = true.into();
            spec["consoleSize"] = serde_json::json!({ "height": 24, "width": 80 });
        })?;
        let (stdin, stdout) = (stdin.writer()?, stdout.reader()?);
        ensure!(exec.state()?.terminal);
        exec.start()?;
        Ok(Self {
            exec,
            stdin,
            stdout,
        })
    }

    /// Waits for the end; the status, and the rest of what was shown.
    fn ends(mut self) -> Result<(u32, String)> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        let status = self.exec.wait()?.exit_status;
        self.exec.delete()?;
        Ok((status, rest))
    }

    /// Waits until its guest has ended, whether or not its exit is told.
    fn has_ended(&self) -> Result<()> {
        poll::until("the guest ends", PATIENCE, || {
            let killed = self.exec.kill(TERM);
            match code(&killed) {
                Some(Code::NOT_FOUND) => Ok(()),
                _ => Err(format!("{killed:?}")),
            }
        })
    }
}

#[test]
fn an_exec_has_a_terminal_of_its_own() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = tools(&fake)?;
    let told = ExecInTerminal::started(&fake, &tasks, "told", &["tty"])?.ends()?;
    let expected = "stdin true\r\nstdout true\r\nstderr true\r\n";
    ensure!(told == (0, expected.to_owned()), "{told:?}");
    let mut typed = ExecInTerminal::started(&fake, &tasks, "typed", &["cat"])?;
    typed.stdin.write_all(b"hexx\x7f\x7fllo\n")?;
    shows(&mut typed.stdout, "llo\r\nhello\r\n")?;
    typed.stdin.write_all(b"\x04")?;
    let end = typed.ends()?;
    ensure!(end == (0, "eof\r\n".to_owned()), "{end:?}");
    ensure!(!tasks.state("one")?.terminal);
    Ok(())
}

#[test]
fn signals_typed_at_an_exec_end_it_alone() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = tools(&fake)?;
    let mut beside = ExecInTerminal::started(&fake, &tasks, "beside", &["sleep"])?;
    shows(&mut beside.stdout, "sleeping\r\n")?;
    for (key, expected) in [(b"\x03", 130), (b"\x1c", 131)] {
        let mut exec = ExecInTerminal::started(&fake, &tasks, "typed", &["spin"])?;
        shows(&mut exec.stdout, "spinning")?;
        exec.stdin.write_all(key)?;
        let (status, rest) = exec.ends()?;
        ensure!(status == expected, "{status}, {rest:?}");
        for name in ["stdin", "stdout"] {
            fs::remove_file(fake.folder().join(format!("typed-{name}")))?;
        }
    }
    for state in [beside.exec.state()?, tasks.state("one")?] {
        ensure!(state.status.enum_value() == Ok(Status::RUNNING), "{state}");
    }
    let ExecInTerminal { exec, stdin, .. } = beside;
    exec.close_stdin()?;
    drop(stdin);
    let status = exec.wait()?.exit_status;
    ensure!(status == 129, "{status}: it was hung up");
    Ok(())
}

#[test]
fn a_terminal_of_an_exec_has_a_size() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = tools(&fake)?;
    let terminal = ExecInTerminal::started(&fake, &tasks, "sized", &["sleep"])?;
    ensure!(size(&fake)? == (24, 80));
    terminal.exec.resize(132, 50)?;
    ensure!(size(&fake)? == (50, 132));
    // The init has none.
    tasks.resize("one", 10, 10)?;
    ensure!(size(&fake)? == (50, 132));
    let unknown = tasks.exec("one", "other").resize(80, 24);
    ensure!(code(&unknown) == Some(Code::NOT_FOUND), "{unknown:?}");
    Ok(())
}

#[test]
fn output_that_nobody_takes_holds_nobody_else_up() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = tools(&fake)?;
    // Compiled now, so that it is quick later.
    ensure!(code(&tasks.exec("one", "first").run(&["exits"])).is_none());
    let much = ["flood", "1000000"];
    let flood = ExecInTerminal::started(&fake, &tasks, "flood", &much)?;
    flood.exec.kill(TERM)?;
    flood.has_ended()?;
    let refused = flood.exec.delete();
    let expected = Some(Code::FAILED_PRECONDITION);
    ensure!(code(&refused) == expected, "{refused:?}");
    let quick = tasks.exec("one", "quick");
    quick.run(&["exits"])?;
    ensure!(quick.wait()?.exit_status == 7);
    let (status, _) = flood.ends()?;
    ensure!(status == 143, "{status}");
    let exits = fake.receiver.wait_until("exit of the flood", |events| {
        let exits = exits(events);
        (exits.len() == 3).then_some(exits)
    })?;
    ensure!(exits[2].id == "flood", "{exits:?}");
    Ok(())
}

#[test]
fn the_end_of_the_init_waits_for_the_last_output_of_its_execs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = tools(&fake)?;
    let much = ["flood", "1000000"];
    let flood = ExecInTerminal::started(&fake, &tasks, "flood", &much)?;
    tasks.kill("one", KILL)?;
    flood.has_ended()?;
    let late = tasks.exec("one", "late").add(&["exits"]);
    let expected = Some(Code::FAILED_PRECONDITION);
    ensure!(code(&late) == expected, "{late:?}");
    let (status, _) = flood.ends()?;
    ensure!(status == 137, "{status}");
    ensure!(tasks.wait("one")?.exit_status == 137);
    let exits = fake.receiver.wait_until("both exits", |events| {
        let exits = exits(events);
        (exits.len() == 2).then_some(exits)
    })?;
    ensure!(exits[0].id == "flood" && exits[1].id == "one", "{exits:?}");
    tasks.delete("one")?;
    Ok(())
}
