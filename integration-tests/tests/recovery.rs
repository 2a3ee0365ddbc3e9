//! What is lost when one of the two is away for a moment: nothing. containerd's side is played by a fake, so
//! that each moment can be chosen.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, KillRequest, StartRequest, Status,
};
use integration_tests::bundle::Bundle;
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::fifo::{Fifo, shows};
use integration_tests::tasks::{Tasks, code};
use integration_tests::{guests, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use ttrpc::Code;

const KILL: u32 = 9;
const PATIENCE: Duration = Duration::from_secs(30);

fn bundle(fake: &FakeContainerd, id: &str, program: Vec<u8>) -> Result<Bundle> {
    fake.bundle(id).file("/main.wasm", program).write()
}

fn reaches(tasks: &Tasks, id: &str, status: Status) -> Result<()> {
    poll::until(&format!("{id} is {status:?}"), PATIENCE, || {
        match tasks.state(id).map(|state| state.status.enum_value()) {
            Ok(Ok(now)) if now == status => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// What a client asks again finds the first one carried out, to its end and once.
#[test]
fn a_request_whose_client_is_gone_is_carried_out() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "dropped", guests::takes_long_to_compile()?)?;
    let tasks = fake.serve(&bundle)?;
    let (address, id) = (bundle.address()?, bundle.id().to_owned());
    let mut create = CreateTaskRequest::new();
    create.id.clone_from(&id);
    create.bundle = bundle.path().display().to_string();
    Tasks::abandon(&address, "Create", &create)?;
    reaches(&tasks, &id, Status::CREATED)?;
    ensure!(code(&tasks.create(&bundle)) == Some(Code::ALREADY_EXISTS));

    let start = StartRequest {
        id: id.clone(),
        ..Default::default()
    };
    Tasks::abandon(&address, "Start", &start)?;
    // The program ends at once.
    reaches(&tasks, &id, Status::STOPPED)?;
    ensure!(code(&tasks.start(&id)) == Some(Code::FAILED_PRECONDITION));
    ensure!(tasks.wait(&id)?.exit_status == 0);
    let kill = KillRequest {
        id: id.clone(),
        signal: KILL,
        ..Default::default()
    };
    Tasks::abandon(&address, "Kill", &kill)?;

    let delete = DeleteRequest {
        id: id.clone(),
        ..Default::default()
    };
    Tasks::abandon(&address, "Delete", &delete)?;
    fake.receiver.wait_for("delete")?;
    ensure!(code(&tasks.delete(&id)) == Some(Code::NOT_FOUND));
    tasks.shutdown(&id)?;
    fake.shims_end()?;
    let topics = fake.receiver.topics();
    ensure!(
        topics == ["create", "start", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}

/// A Create that took its client too long: it deletes what it has not got, and nothing comes of it.
#[test]
fn a_create_that_is_deleted_meanwhile_comes_to_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "given-up", guests::takes_long_to_compile()?)?;
    let tasks = fake.serve(&bundle)?;
    let created = std::thread::scope(|scope| {
        let creating = scope.spawn(|| tasks.create(&bundle));
        let compiles = poll::until("it is compiled", PATIENCE, || {
            let shims = fake.shims();
            let compiles = shims
                .iter()
                .any(|process| process.command.contains("compile"));
            compiles.then_some(()).ok_or_else(|| format!("{shims:?}"))
        });
        let deleted = code(&tasks.delete(bundle.id()));
        let created = creating.join();
        compiles.map(|()| (created, deleted))
    });
    let (created, deleted) = created?;
    ensure!(deleted == Some(Code::NOT_FOUND), "{deleted:?}");
    let created = created.ok().context("Create panicked")?;
    ensure!(code(&created) == Some(Code::ABORTED), "{created:?}");
    ensure!(code(&tasks.state(bundle.id())) == Some(Code::NOT_FOUND));
    tasks.shutdown(bundle.id())?;
    fake.shims_end()
}

#[test]
fn delete_tells_the_exit_that_a_dead_shim_had_seen() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "seen", guests::exits(7)?)?;
    let tasks = fake.serve(&bundle)?;
    let pid = tasks.create(&bundle)?.pid;
    tasks.start(bundle.id())?;
    let exit = tasks.wait(bundle.id())?;
    fake.kill_shims()?;
    let answer = fake.delete(&bundle)?;
    ensure!((answer.pid, answer.exit_status) == (pid, 7), "{answer:?}");
    ensure!(
        answer.exited_at == exit.exited_at,
        "{answer:?} and {exit:?}"
    );
    Ok(())
}

#[test]
fn a_shim_that_serves_others_keeps_its_shim_of_linux_containers() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let member = |id: &str| {
        fake.bundle(id)
            .annotation("io.containerd.runc.v2.group", "kept")
            .file("/main.wasm", guests::spins()?)
            .write()
    };
    let (first, second) = (member("first")?, member("second")?);
    let tasks = fake.serve(&first)?;
    fake.start(&second, Dialect::Bootstrap)?;
    for bundle in [&first, &second] {
        tasks.create(bundle)?;
        tasks.start(bundle.id())?;
    }
    // Ends with the test in any case, by the end of its stdin.
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
    let folder = first.path().join("runc-shim");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("sockets"), "")?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let started: u64 = stat.split(' ').nth(21).context("a start time")?.parse()?;
    let record = json!({ "pid": child.id(), "start_time": started });
    std::fs::write(folder.join("shim.json"), record.to_string())?;

    let end = |bundle: &Bundle| -> Result<()> {
        tasks.kill(bundle.id(), KILL)?;
        tasks.wait(bundle.id())?;
        fake.forget(&tasks, bundle).map(drop)
    };
    end(&first)?;
    ensure!(child.try_wait()?.is_none(), "it was ended with the first");
    end(&second)?;
    fake.shims_end()?;
    fake.delete(&first)?;
    // Killed: a `delete` that finds no shim ends what that has left.
    ensure!(!child.wait()?.success());
    Ok(())
}

/// Reads lines until `count` have come, each of them the next number.
fn read(fifo: &mut impl std::io::BufRead, next: &mut u64, count: usize) -> Result<()> {
    for _ in 0..count {
        let mut line = String::new();
        fifo.read_line(&mut line)?;
        ensure!(
            line.trim().parse() == Ok(*next),
            "{line:?} where {next} comes"
        );
        *next += 1;
    }
    Ok(())
}

/// containerd's end of the stream is closed and opened again, and its event service away for as long.
#[test]
fn output_goes_on_where_it_was_when_its_reader_is_back() -> Result<()> {
    let mut fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "counting", guests::counts()?)?;
    let tasks = fake.serve(&bundle)?;
    let path = fake.folder().join("stdout");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let open = || -> Result<BufReader<File>> {
        // A line at a time, so that no reader takes more than it reads.
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(BufReader::with_capacity(9, file))
    };
    let mut next = 0;
    let mut fifo = open()?;
    tasks.create_with(&bundle, |request| {
        request.stdout = path.display().to_string();
    })?;
    tasks.start(bundle.id())?;
    for _ in 0..3 {
        read(&mut fifo, &mut next, 20)?;
        drop(fifo);
        fake.receiver.stop();
        tasks.kill(bundle.id(), 19)?;
        tasks.kill(bundle.id(), 18)?;
        fake.receiver.resume()?;
        fifo = open()?;
    }
    read(&mut fifo, &mut next, 20)?;
    tasks.kill(bundle.id(), KILL)?;
    ensure!(tasks.wait(bundle.id())?.exit_status == 137);
    tasks.delete(bundle.id())?;
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    let expected = [
        "create", "start", "paused", "resumed", "paused", "resumed", "paused", "resumed", "exit",
        "delete",
    ];
    ensure!(topics == expected, "{topics:?}");
    Ok(())
}

/// A guest ends while nobody reads, and the client that comes back has the rest before it deletes.
#[test]
fn the_rest_of_the_output_waits_for_its_reader() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "deserted", guests::named("cat")?)?;
    let id = bundle.id();
    let tasks = fake.serve(&bundle)?;
    let shim = fake.shim()?.pid;
    // A thread names itself, and is gone after it is told to go.
    let keeps = |wanted: bool| {
        poll::until("its output is kept, or not", PATIENCE, || {
            let threads = std::fs::read_dir(format!("/proc/{shim}/task"));
            let threads = threads.map_err(|error| error.to_string())?.flatten();
            let names = threads.map(|thread| std::fs::read_to_string(thread.path().join("comm")));
            let names: Vec<_> = names.flatten().collect();
            let kept = names.iter().any(|name| name == "unread\n");
            (kept == wanted).then_some(()).ok_or(format!("{names:?}"))
        })
    };
    for comes_back in [true, false] {
        let [stdin, stdout] = ["stdin", "stdout"]
            .map(|name| Fifo::new(fake.folder(), &format!("{name}-{comes_back}")));
        let (stdin, stdout) = (stdin?, stdout?);
        // Both, so as not to wait for the shim: it is to find a reader.
        let mut both = OpenOptions::new();
        let mut reader = both.read(true).write(true).open(stdout.uri())?;
        tasks.create_with(&bundle, |request| {
            request.stdin = stdin.uri();
            request.stdout = stdout.uri();
        })?;
        let mut typed = stdin.writer()?;
        tasks.start(id)?;
        typed.write_all(b"read\n")?;
        shows(&mut reader, "read\n")?;
        drop(reader);
        typed.write_all(b"unread\n")?;
        drop(typed);
        tasks.close_stdin(id)?;
        ensure!(tasks.wait(id)?.exit_status == 0);
        keeps(true)?;
        if comes_back {
            let mut rest = String::new();
            stdout.reader()?.read_to_string(&mut rest)?;
            ensure!(rest == "unread\n", "{rest:?}");
        }
        tasks.delete(id)?;
        keeps(false)?;
    }
    Ok(())
}
