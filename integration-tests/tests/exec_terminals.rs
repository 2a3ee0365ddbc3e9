//! Terminals of execs of the built shim, each beside a container without one.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Result, ensure};
use containerd_shim_protos::api::Status;
use integration_tests::execs::{Exec, exits};
use integration_tests::fake::FakeContainerd;
use integration_tests::fifo::{Fifo, shows};
use integration_tests::tasks::{Tasks, code};
use integration_tests::terminal::size;
use integration_tests::{guests, poll};
use protobuf::well_known_types::empty::Empty;
use ttrpc::Code;

const PATIENCE: Duration = Duration::from_secs(20);
const KILL: u32 = 9;
/// Asks only whether there is anything to signal.
const NOTHING: u32 = 0;

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

/// An exec in a terminal, with the client's fifos.
struct ExecInTerminal<'a> {
    exec: Exec<'a>,
    stdin: File,
    stdout: File,
}

impl<'a> ExecInTerminal<'a> {
    /// Added, not started.
    fn added(fake: &FakeContainerd, tasks: &'a Tasks, id: &str, args: &[&str]) -> Result<Self> {
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
        Ok(Self {
            exec,
            stdin,
            stdout,
        })
    }

    fn started(fake: &FakeContainerd, tasks: &'a Tasks, id: &str, args: &[&str]) -> Result<Self> {
        let added = Self::added(fake, tasks, id, args)?;
        added.exec.start()?;
        Ok(added)
    }

    /// One whose guest has ended by itself, and whose output cannot be taken: the fifo is full.
    fn stuck(fake: &FakeContainerd, tasks: &'a Tasks) -> Result<Self> {
        let added = Self::added(fake, tasks, "stuck", &["flood", "1000"])?;
        Fifo::fill(&fake.folder().join("stuck-stdout"))?;
        added.exec.start()?;
        has_ended(|| added.exec.kill(NOTHING))?;
        Ok(added)
    }

    /// Waits for the end; the status, and the rest of what was shown.
    fn ends(mut self) -> Result<(u32, String)> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest)?;
        let status = self.exec.wait()?.exit_status;
        self.exec.delete()?;
        Ok((status, rest))
    }
}

/// Waits until a guest has ended, whether or not its exit is told.
fn has_ended(signal: impl Fn() -> ttrpc::Result<Empty>) -> Result<()> {
    poll::until("the guest ends", PATIENCE, || {
        let answer = signal();
        match code(&answer) {
            Some(Code::NOT_FOUND) => Ok(()),
            _ => Err(format!("{answer:?}")),
        }
    })
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
    ensure!(size(fake.shim()?.pid)? == (24, 80));
    terminal.exec.resize(132, 50)?;
    ensure!(size(fake.shim()?.pid)? == (50, 132));
    // The init has none.
    tasks.resize("one", 10, 10)?;
    ensure!(size(fake.shim()?.pid)? == (50, 132));
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
    let stuck = ExecInTerminal::stuck(&fake, &tasks)?;
    let refused = stuck.exec.delete();
    let expected = Some(Code::FAILED_PRECONDITION);
    ensure!(code(&refused) == expected, "{refused:?}");
    let quick = tasks.exec("one", "quick");
    quick.run(&["exits"])?;
    ensure!(quick.wait()?.exit_status == 7);
    let (status, _) = stuck.ends()?;
    ensure!(status == 0, "{status}");
    let exits = fake.receiver.wait_until("all exits", |events| {
        let exits = exits(events);
        (exits.len() == 3).then_some(exits)
    })?;
    ensure!(exits[2].id == "stuck", "{exits:?}");
    Ok(())
}

#[test]
fn the_end_of_the_init_waits_for_the_last_output_of_its_execs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = tools(&fake)?;
    let stuck = ExecInTerminal::stuck(&fake, &tasks)?;
    tasks.kill("one", KILL)?;
    has_ended(|| tasks.kill("one", NOTHING))?;
    let late = tasks.exec("one", "late").add(&["exits"]);
    let expected = Some(Code::FAILED_PRECONDITION);
    ensure!(code(&late) == expected, "{late:?}");
    let (status, _) = stuck.ends()?;
    ensure!(status == 0, "{status}: it had ended by itself");
    ensure!(tasks.wait("one")?.exit_status == 137);
    let exits = fake.receiver.wait_until("both exits", |events| {
        let exits = exits(events);
        (exits.len() == 2).then_some(exits)
    })?;
    ensure!(exits[0].id == "stuck" && exits[1].id == "one", "{exits:?}");
    tasks.delete("one")?;
    Ok(())
}
