//! Execs of the real binary: their life beside the init's, the order of events, races, errors, and that
//! nothing is left of them.
//!
//! Root and the built binary are all that is needed. Each test has its own fake, and with it its own sockets.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::{PidsResponse, StatsRequest, StatsResponse, Status};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted, TaskExit};
use containerd_shim_protos::shim::oci::ProcessDetails;
use integration_tests::bundle::Bundle;
use integration_tests::fake::FakeContainerd;
use integration_tests::receiver::Forwarded;
use integration_tests::tasks::{Tasks, code};
use integration_tests::{guests, poll};
use protobuf::Message as _;
use ttrpc::Code;

const TERM: u32 = 15;
const KILL: u32 = 9;
const STOP: u32 = 19;
const CONT: u32 = 18;

const PATIENCE: Duration = Duration::from_secs(20);

/// A created container whose init computes for ever, with programs beside it.
fn created(fake: &FakeContainerd, id: &str) -> Result<(Tasks, Bundle)> {
    let mut bundle = fake
        .bundle(id)
        .file("/main.wasm", guests::spins()?)
        .file("/bin/spins", guests::spins()?)
        .file("/script", "#!/bin/sh\n");
    for status in [0, 3, 7] {
        bundle = bundle.file(&format!("/bin/exits-{status}"), guests::exits(status)?);
    }
    let bundle = bundle.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    Ok((tasks, bundle))
}

fn running(fake: &FakeContainerd, id: &str) -> Result<Tasks> {
    let (tasks, _) = created(fake, id)?;
    tasks.start(id)?;
    Ok(tasks)
}

/// The exits published so far, by the process's id.
fn exits(events: &[Forwarded]) -> Vec<TaskExit> {
    let exits = events.iter().filter(|event| event.topic == "/tasks/exit");
    exits.filter_map(|event| event.decode().ok()).collect()
}

/// Kills the init and waits for its exit event; all exits then, in order.
fn ends(fake: &FakeContainerd, tasks: &Tasks, id: &str) -> Result<Vec<TaskExit>> {
    tasks.kill(id, KILL)?;
    fake.receiver.wait_until("exit of the init", |events| {
        let exits = exits(events);
        exits.iter().any(|exit| exit.id == id).then_some(exits)
    })
}

fn ids(exits: &[TaskExit]) -> Vec<&str> {
    exits.iter().map(|exit| exit.id.as_str()).collect()
}

#[test]
fn an_exec_lives_and_ends_beside_the_init() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "web")?;
    let exec = tasks.exec("web", "first");
    exec.add(&["exits-7"])?;
    let state = exec.state()?;
    ensure!(state.status.enum_value() == Ok(Status::CREATED), "{state}");
    ensure!((state.id.as_str(), state.exec_id.as_str()) == ("first", "first"));
    ensure!(state.pid != 0 && state.pid != tasks.state("web")?.pid);
    ensure!(exec.start()?.pid == state.pid);
    ensure!(exec.wait()?.exit_status == 7);
    ensure!(exec.state()?.exit_status == 7);
    ensure!(tasks.state("web")?.status.enum_value() == Ok(Status::RUNNING));
    ensure!(code(&exec.start()) == Some(Code::FAILED_PRECONDITION));
    let deleted = exec.delete()?;
    ensure!((deleted.pid, deleted.exit_status) == (state.pid, 7));
    ensure!(code(&exec.delete()) == Some(Code::NOT_FOUND));

    let exits = ends(&fake, &tasks, "web")?;
    ensure!(ids(&exits) == ["first", "web"], "{exits:?}");
    tasks.delete("web")?;
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics
            == [
                "create",
                "start",
                "exec-added",
                "exec-started",
                "exit",
                "exit",
                "delete"
            ],
        "{topics:?}"
    );
    let added: TaskExecAdded = fake.receiver.wait_for("exec-added")?.decode()?;
    let started: TaskExecStarted = fake.receiver.wait_for("exec-started")?.decode()?;
    ensure!((added.container_id.as_str(), added.exec_id.as_str()) == ("web", "first"));
    ensure!((started.exec_id.as_str(), started.pid) == ("first", state.pid));
    ensure!(
        (
            exits[0].container_id.as_str(),
            exits[0].pid,
            exits[0].exit_status
        ) == ("web", state.pid, 7)
    );
    Ok(())
}

#[test]
fn an_exec_is_in_the_containers_namespaces() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "shared")?;
    let pid = tasks.exec("shared", "inside").run(&["spins"])?;
    let init = tasks.state("shared")?.pid;
    for name in ["net", "ipc", "uts", "mnt"] {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        ensure!(namespace(pid)? == namespace(init)?, "{name}");
    }
    let root = |pid: u32| fs::read_dir(format!("/proc/{pid}/root")).map(Iterator::count);
    ensure!(root(pid)? == root(init)?);
    ensure!(fs::exists(format!("/proc/{pid}/root/bin/spins"))?);
    Ok(())
}

#[test]
fn one_exec_is_killed_alone() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "alone")?;
    let (victim, other) = (tasks.exec("alone", "victim"), tasks.exec("alone", "other"));
    for exec in [&victim, &other] {
        exec.run(&["spins"])?;
    }
    let refused = victim.delete();
    ensure!(
        code(&refused) == Some(Code::FAILED_PRECONDITION),
        "{refused:?}"
    );
    victim.kill(TERM)?;
    ensure!(victim.wait()?.exit_status == 143);
    let again = victim.kill(KILL);
    ensure!(code(&again) == Some(Code::NOT_FOUND), "{again:?}");
    let text = again.unwrap_err().to_string();
    ensure!(text.contains("process already finished"), "{text}");
    ensure!(other.state()?.status.enum_value() == Ok(Status::RUNNING));
    ensure!(tasks.state("alone")?.status.enum_value() == Ok(Status::RUNNING));
    Ok(())
}

#[test]
fn the_end_of_the_init_is_the_end_of_its_execs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "family")?;
    let execs: Vec<_> = (0..5)
        .map(|n| tasks.exec("family", &format!("exec-{n}")))
        .collect();
    for exec in &execs[..4] {
        exec.run(&["spins"])?;
    }
    execs[4].add(&["spins"])?;
    let exits = ends(&fake, &tasks, "family")?;
    ensure!(exits.len() == 6, "{exits:?}");
    ensure!(exits[5].id == "family", "{exits:?}");
    ensure!(exits.iter().all(|exit| exit.exit_status == 137));
    // What came of them is told until they are deleted.
    ensure!(execs[0].wait()?.exit_status == 137);
    ensure!(code(&execs[4].start()) == Some(Code::FAILED_PRECONDITION));
    ensure!(execs[0].delete()?.exit_status == 137);
    let late = tasks.exec("family", "late").add(&["exits-0"]);
    ensure!(code(&late) == Some(Code::FAILED_PRECONDITION), "{late:?}");
    ensure!(tasks.delete("family")?.exit_status == 137);
    ensure!(code(&execs[1].state()) == Some(Code::NOT_FOUND));
    Ok(())
}

#[test]
fn kill_all_reaches_the_init_and_every_exec() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "everyone")?;
    let (exec, parked) = (
        tasks.exec("everyone", "exec"),
        tasks.exec("everyone", "parked"),
    );
    exec.run(&["spins"])?;
    parked.add(&["spins"])?;
    tasks.kill_all("everyone", STOP)?;
    for state in [exec.state()?, tasks.state("everyone")?] {
        ensure!(state.status.enum_value() == Ok(Status::PAUSED), "{state}");
    }
    ensure!(parked.state()?.status.enum_value() == Ok(Status::CREATED));
    tasks.kill_all("everyone", CONT)?;
    for state in [exec.state()?, tasks.state("everyone")?] {
        ensure!(state.status.enum_value() == Ok(Status::RUNNING), "{state}");
    }
    tasks.kill_all("everyone", TERM)?;
    ensure!(exec.wait()?.exit_status == 143);
    ensure!(parked.wait()?.exit_status == 143);
    ensure!(tasks.wait("everyone")?.exit_status == 143);
    let again = tasks.kill_all("everyone", KILL);
    ensure!(code(&again) == Some(Code::NOT_FOUND), "{again:?}");
    Ok(())
}

#[test]
fn a_paused_container_has_paused_execs_and_gets_no_more() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "halted")?;
    let (exec, parked) = (tasks.exec("halted", "exec"), tasks.exec("halted", "parked"));
    exec.run(&["spins"])?;
    parked.add(&["exits-3"])?;
    tasks.kill("halted", STOP)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::PAUSED));
    // It goes on with its container only.
    exec.kill(CONT)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::PAUSED));
    let refused = [
        code(&parked.start()),
        code(&tasks.exec("halted", "new").add(&["exits-0"])),
    ];
    ensure!(
        refused == [Some(Code::FAILED_PRECONDITION); 2],
        "{refused:?}"
    );
    tasks.kill("halted", CONT)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::RUNNING));
    // Of an exec alone nobody is told.
    exec.kill(STOP)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::PAUSED));
    ensure!(tasks.state("halted")?.status.enum_value() == Ok(Status::RUNNING));
    exec.kill(TERM)?;
    ensure!(exec.wait()?.exit_status == 143);
    parked.start()?;
    ensure!(parked.wait()?.exit_status == 3);
    let topics = fake.receiver.topics();
    let count = |topic| topics.iter().filter(|known| *known == topic).count();
    ensure!(count("paused") == 1 && count("resumed") == 1, "{topics:?}");
    Ok(())
}

#[test]
fn a_created_container_has_execs_too() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, _bundle) = created(&fake, "early")?;
    let exec = tasks.exec("early", "exec");
    exec.run(&["exits-3"])?;
    ensure!(exec.wait()?.exit_status == 3);
    ensure!(tasks.state("early")?.status.enum_value() == Ok(Status::CREATED));
    tasks.exec("early", "other").run(&["spins"])?;
    ensure!(tasks.delete("early")?.exit_status == 137);
    fake.receiver.wait_for("delete")?;
    let exits = exits(&fake.receiver.all());
    ensure!(ids(&exits) == ["exec", "other", "early"], "{exits:?}");
    Ok(())
}

#[test]
fn an_exec_that_was_not_started_is_deleted_with_an_exit() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "hesitant")?;
    let exec = tasks.exec("hesitant", "exec");
    exec.add(&["spins"])?;
    ensure!(exec.delete()?.exit_status == 137);
    exec.add(&["spins"])?;
    exec.kill(TERM)?;
    ensure!(exec.wait()?.exit_status == 143);
    ensure!(code(&exec.start()) == Some(Code::FAILED_PRECONDITION));
    ensure!(exec.delete()?.exit_status == 143);
    fake.receiver.wait_until("two exits", |events| {
        (exits(events).len() == 2).then_some(())
    })?;
    let topics = fake.receiver.topics();
    ensure!(
        topics
            == [
                "create",
                "start",
                "exec-added",
                "exit",
                "exec-added",
                "exit"
            ],
        "{topics:?}"
    );
    Ok(())
}

#[test]
fn what_is_not_there_is_not_found() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "known")?;
    for (container, exec) in [("known", "unknown"), ("unknown", "exec")] {
        let exec = tasks.exec(container, exec);
        let answers = [
            code(&exec.start()),
            code(&exec.state()),
            code(&exec.kill(KILL)),
            code(&exec.wait()),
            code(&exec.delete()),
        ];
        ensure!(answers == [Some(Code::NOT_FOUND); 5], "{answers:?}");
    }
    let exec = tasks.exec("unknown", "exec").add(&["exits-0"]);
    ensure!(code(&exec) == Some(Code::NOT_FOUND), "{exec:?}");
    Ok(())
}

#[test]
fn what_cannot_run_is_refused_in_the_words_of_linux() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "strict")?;
    let exec = tasks.exec("strict", "exec");
    for (program, words) in [
        ("absent", "executable file not found in $PATH"),
        ("/absent", "no such file or directory"),
        ("/script", "exec format error"),
        ("/bin", "permission denied"),
    ] {
        let refused = exec.add(&[program]);
        ensure!(
            code(&refused) == Some(Code::FAILED_PRECONDITION),
            "{refused:?}"
        );
        let text = refused.unwrap_err().to_string();
        ensure!(text.contains(&format!("{program:?}: {words}")), "{text}");
    }
    // An export alone is one of the container's own program.
    let text = exec.add(&["#missing"]).unwrap_err().to_string();
    ensure!(
        text.contains("missing") && text.contains("/main.wasm"),
        "{text}"
    );
    for (what, words) in [
        (("cwd", "/absent"), "cannot use /absent as the working"),
        (("cwd", "relative"), "is not absolute"),
        (("args", ""), "holds no OCI process"),
    ] {
        let ((field, value), path) = (what, "exits-0");
        let refused = exec.add_with(&[path], |_, spec| spec[field] = value.into());
        ensure!(
            code(&refused) == Some(Code::INVALID_ARGUMENT),
            "{refused:?}"
        );
        let text = refused.unwrap_err().to_string();
        ensure!(text.contains(words), "{text}");
    }
    // Nothing is left of any of them: the id is free, and nothing was announced.
    exec.run(&["exits-0"])?;
    ensure!(exec.wait()?.exit_status == 0);
    let topics = fake.receiver.topics();
    let added = topics.iter().filter(|topic| *topic == "exec-added").count();
    ensure!(added == 1, "{topics:?}");
    Ok(())
}

#[test]
fn of_many_execs_of_one_id_one_succeeds() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "contested")?;
    let codes: Vec<_> = std::thread::scope(|scope| {
        let exec = || code(&tasks.exec("contested", "one").add(&["exits-0"]));
        let adds: Vec<_> = (0..8).map(|_| scope.spawn(exec)).collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let count = |wanted| codes.iter().filter(|code| **code == wanted).count();
    ensure!(
        (count(None), count(Some(Code::ALREADY_EXISTS))) == (1, 7),
        "{codes:?}"
    );
    Ok(())
}

#[test]
fn many_execs_run_at_once_and_end_each_with_its_own_status() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "crowd")?;
    let one = |n: usize| -> Result<()> {
        let exec = tasks.exec("crowd", &format!("exec-{n}"));
        let (program, status) = [("exits-3", 3), ("exits-7", 7), ("spins", 137)][n % 3];
        exec.run(&[program])?;
        if program == "spins" {
            exec.kill(KILL)?;
        }
        let exit = exec.wait()?;
        ensure!(exit.exit_status == status, "{n}: {exit}");
        ensure!(exec.delete()?.exit_status == status);
        Ok(())
    };
    std::thread::scope(|scope| {
        let execs: Vec<_> = (0..30).map(|n| scope.spawn(move || one(n))).collect();
        let mut ends = execs.into_iter().map(|exec| exec.join().unwrap());
        ends.try_for_each(|end| end)
    })?;
    let exits = ends(&fake, &tasks, "crowd")?;
    ensure!(exits.len() == 31, "{}", exits.len());
    Ok(())
}

#[test]
fn whenever_the_init_ends_its_exit_is_the_last() -> Result<()> {
    let fake = FakeContainerd::new()?;
    for round in 0..10 {
        let id = format!("race-{round}");
        let tasks = running(&fake, &id)?;
        std::thread::scope(|scope| {
            for n in 0..6 {
                let (tasks, id) = (&tasks, &id);
                let program = ["spins", "exits-3"][n % 2];
                // Whether it comes before the end is open, and what becomes of it then is not.
                scope.spawn(move || tasks.exec(id, &format!("{id}-{n}")).run(&[program]));
            }
            // Not before the first is there.
            let first = fake.receiver.wait_until("an exec", |events| {
                let mut execs = events.iter().filter_map(|event| event.decode().ok());
                execs.find(|exec: &TaskExecAdded| exec.container_id == id)
            });
            first.and_then(|_| Ok(tasks.kill(&id, KILL)?))
        })?;
        tasks.wait(&id)?;
        tasks.delete(&id)?;
        let events = fake.receiver.wait_until("its delete", |events| {
            let deleted = events.iter().filter(|event| event.topic == "/tasks/delete");
            (deleted.count() > round).then(|| events.to_vec())
        })?;
        let exits: Vec<_> = exits(&events)
            .into_iter()
            .filter(|exit| exit.container_id == id)
            .collect();
        let mut count = HashMap::new();
        for exit in &exits {
            *count.entry(exit.id.clone()).or_insert(0) += 1;
        }
        ensure!(count.values().all(|count| *count == 1), "{exits:?}");
        ensure!(exits.last().context("no exit")?.id == id, "{exits:?}");
        let added = events
            .iter()
            .filter_map(|event| event.decode::<TaskExecAdded>().ok())
            .filter(|exec| exec.container_id == id);
        ensure!(added.count() == exits.len() - 1, "{exits:?}");
    }
    Ok(())
}

#[test]
fn execs_are_listed_while_they_live() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "listed")?;
    let exec = tasks.exec("listed", "exec");
    let pid = exec.run(&["spins"])?;
    let pids = |answer: PidsResponse| -> Result<Vec<(u32, String)>> {
        let processes = answer.processes.into_iter().map(|process| {
            let info = process.info.into_option().unwrap_or_default();
            ensure!(info.value.is_empty() || info.type_url == "containerd.runc.v1.ProcessDetails");
            let details = ProcessDetails::parse_from_bytes(&info.value)?;
            Ok((process.pid, details.exec_id))
        });
        processes.collect()
    };
    let init = tasks.state("listed")?.pid;
    ensure!(pids(tasks.pids("listed")?)? == [(init, String::new()), (pid, "exec".into())]);
    exec.kill(KILL)?;
    exec.wait()?;
    ensure!(pids(tasks.pids("listed")?)? == [(init, String::new())]);
    Ok(())
}

/// Processor time in nanoseconds.
fn cpu(tasks: &Tasks, id: &str) -> Result<u64> {
    let request = StatsRequest {
        id: id.into(),
        ..StatsRequest::default()
    };
    let stats: StatsResponse = tasks.call("Stats", &request)?;
    if stats.stats.type_url == "io.containerd.cgroups.v1.Metrics" {
        Ok(v1::Metrics::parse_from_bytes(&stats.stats.value)?
            .cpu
            .usage
            .total)
    } else {
        Ok(v2::Metrics::parse_from_bytes(&stats.stats.value)?
            .cpu
            .usage_usec
            * 1000)
    }
}

#[test]
fn what_execs_have_used_counts_for_the_container() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = fake
        .bundle("measured")
        .file("/main.wasm", guests::spins()?)
        .file("/bin/counts", guests::counts_to(500_000_000)?)
        .write()?;
    let tasks = fake.serve(&bundle)?;
    // The init is parked, and uses nothing.
    tasks.create(&bundle)?;
    let before = cpu(&tasks, "measured")?;
    let exec = tasks.exec("measured", "exec");
    let pid = exec.run(&["counts"])?;
    poll::until("its time is told while it runs", PATIENCE, || {
        let now = cpu(&tasks, "measured").map_err(|error| format!("{error:#}"))?;
        let more = now.saturating_sub(before) > 20_000_000;
        more.then_some(()).ok_or_else(|| format!("{before}, {now}"))
    })?;
    exec.wait()?;
    let used = cpu(&tasks, "measured")?;
    ensure!(used > before + 20_000_000, "{before}, {used}, {pid}");
    exec.delete()?;
    ensure!(cpu(&tasks, "measured")? >= used);
    Ok(())
}

#[test]
fn two_hundred_execs_leave_nothing_behind() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "tidy")?;
    let shim = fake.shim()?.pid;
    let count = |what: &str| -> Result<usize> {
        let folder = format!("/proc/{shim}/{what}");
        Ok(fs::read_dir(&folder).context(folder)?.count())
    };
    let run = |n: usize| -> Result<()> {
        let exec = tasks.exec("tidy", &format!("exec-{n}"));
        match n % 4 {
            0 => drop(exec.run(&["spins"])?),
            1 => drop(exec.add(&["spins"])?),
            2 => ensure!(exec.add(&["/script"]).is_err()),
            _ => {
                exec.run(&["exits-3"])?;
                exec.wait()?;
            }
        }
        if n % 4 == 0 {
            exec.kill(KILL)?;
            exec.wait()?;
        }
        if n % 4 != 2 {
            exec.delete()?;
        }
        Ok(())
    };
    // What the first ones make once and for all: the engine's and the runtime's own.
    (0..8).try_for_each(run)?;
    let before = count("fd")?;
    (8..208).try_for_each(run)?;
    ensure!(
        count("fd")? <= before,
        "{} descriptors, {before} before",
        count("fd")?
    );
    // The runtime's idle threads leave by themselves, after some seconds.
    poll::until(
        "only the threads of the container are left",
        PATIENCE,
        || {
            let names = fs::read_dir(format!("/proc/{shim}/task"))
                .map_err(|error| error.to_string())?
                .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
                .filter(|name| name.starts_with("wasi:"));
            let names: Vec<_> = names.collect();
            (names.len() == 1)
                .then_some(())
                .ok_or_else(|| format!("{names:?}"))
        },
    )
}
