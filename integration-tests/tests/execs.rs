//! Many execs of the real binary: at once, in races with each other and with the end of the init, what
//! they use, and that nothing is left of them.
//!
//! Root and the built binary are all that is needed. Each test has its own fake, and with it its own sockets.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::{PidsResponse, StatsRequest, StatsResponse};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use containerd_shim_protos::events::task::TaskExecAdded;
use containerd_shim_protos::shim::oci::ProcessDetails;
use integration_tests::execs::{ends, exits, running};
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::{Tasks, code};
use integration_tests::{guests, poll};
use protobuf::Message as _;
use ttrpc::Code;

const KILL: u32 = 9;

const PATIENCE: Duration = Duration::from_secs(20);

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
            0 => {
                exec.run(&["spins"])?;
                exec.kill(KILL)?;
                exec.wait()?;
            }
            1 => drop(exec.add(&["spins"])?),
            2 => ensure!(exec.add(&["/script"]).is_err()),
            _ => {
                exec.run(&["exits-3"])?;
                exec.wait()?;
            }
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
    only_the_init_is_left(shim, "tidy")
}

/// Waits until of all threads for guests only the init's is there.
fn only_the_init_is_left(shim: i32, container: &str) -> Result<()> {
    let expected = [format!("wasi:{container}\n")];
    poll::until("only the init's thread is left", PATIENCE, || {
        let tasks =
            fs::read_dir(format!("/proc/{shim}/task")).map_err(|error| error.to_string())?;
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let names: Vec<_> = names.filter(|name| name.starts_with("wasi:")).collect();
        (names == expected)
            .then_some(())
            .ok_or_else(|| format!("{names:?}"))
    })
}

#[test]
fn an_exec_that_nobody_waits_for_is_given_up() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "deserted")?;
    let exec = tasks.exec("deserted", "exec");
    // It has to be compiled first, which takes longer.
    let impatient = tasks.clone().patience(Duration::from_millis(1));
    let late = impatient.exec("deserted", "exec").add(&["exits-7"]);
    ensure!(late.is_err(), "compiled within a millisecond");
    // The shim may notice later than this client has, and the id is taken until it does.
    poll::until("the id is free", PATIENCE, || {
        exec.add(&["exits-7"]).map_err(|error| error.to_string())
    })?;
    exec.start()?;
    ensure!(exec.wait()?.exit_status == 7);
    exec.delete()?;
    only_the_init_is_left(fake.shim()?.pid, "deserted")?;
    fake.receiver.wait_for("exit")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics == ["create", "start", "exec-added", "exec-started", "exit"],
        "{topics:?}"
    );
    Ok(())
}
