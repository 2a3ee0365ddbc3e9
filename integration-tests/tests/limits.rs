//! Limits of the real binary, changed while containers run.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::UpdateTaskRequest;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use integration_tests::bundle::Bundle;
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::{LINUX_RESOURCES, Tasks, code};
use integration_tests::{guests, poll};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use ttrpc::Code;

const KILL: u32 = 9;
/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A container that was created, with these resources.
fn created(
    fake: &FakeContainerd,
    id: &str,
    module: Vec<u8>,
    resources: &Value,
) -> Result<(Tasks, Bundle)> {
    let bundle = fake
        .bundle(id)
        .file("/app.wasm", module)
        .args(["/app.wasm"])
        .annotation("io.containerd.runc.v2.group", "limits")
        .edit(|config| config["linux"]["resources"] = resources.clone())
        .write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    Ok((tasks, bundle))
}

/// What is told of a container, by whichever message the host's cgroup version has.
#[derive(Debug, Clone, Copy)]
struct Told {
    cpu: Duration,
    throttled: u64,
    memory: u64,
    limit: u64,
    oom_kills: u64,
}

fn told(tasks: &Tasks, id: &str) -> Result<Told> {
    let any = tasks.stats(id)?;
    if any.type_url == "io.containerd.cgroups.v1.Metrics" {
        let told = v1::Metrics::parse_from_bytes(&any.value)?;
        return Ok(Told {
            cpu: Duration::from_nanos(told.cpu.usage.total),
            throttled: told.cpu.throttling.throttled_periods,
            memory: told.memory.usage.usage,
            limit: told.memory.usage.limit,
            oom_kills: told.memory_oom_control.oom_kill,
        });
    }
    let told = v2::Metrics::parse_from_bytes(&any.value)?;
    Ok(Told {
        cpu: Duration::from_micros(told.cpu.usage_usec),
        throttled: told.cpu.nr_throttled,
        memory: told.memory.usage,
        limit: told.memory.usage_limit,
        oom_kills: told.memory_events.oom_kill,
    })
}

fn until(tasks: &Tasks, id: &str, what: &str, enough: impl Fn(&Told) -> bool) -> Result<Told> {
    poll::until(what, PATIENCE, || match told(tasks, id) {
        Ok(told) if enough(&told) => Ok(told),
        Ok(told) => Err(format!("{told:?}")),
        Err(error) => Err(format!("{error:#}")),
    })
}

#[test]
fn memory_is_limited_while_the_guest_runs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "grower", guests::grows_slowly()?, &json!({}))?;
    let id = bundle.id();
    tasks.update(id, r#"{"memory": {"limit": 1073741824}}"#)?;
    ensure!(told(&tasks, id)?.limit == 1 << 30);
    tasks.start(id)?;
    until(&tasks, id, "it grows", |told| told.memory >= 5 << 16)?;
    // Other things that CRI sends along are not ours to apply, and no error.
    let all = json!({
        "memory": {"limit": 131_072, "swap": 131_072},
        "cpu": {"shares": 2, "cpus": "0", "mems": "0"},
        "pids": {"limit": 10},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "unified": {"memory.oom.group": "1"},
    });
    tasks.update(id, &all.to_string())?;
    ensure!(tasks.wait(id)?.exit_status == 137);
    let told = told(&tasks, id)?;
    ensure!(
        (told.limit, told.oom_kills, told.memory) == (131_072, 1, 0),
        "{told:?}"
    );
    let refused = tasks.update(id, "{}");
    ensure!(
        code(&refused) == Some(Code::FAILED_PRECONDITION),
        "{refused:?}"
    );
    tasks.delete(id)?;
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics == ["create", "start", "oom", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}

#[test]
fn a_quota_holds_and_is_changed_while_the_guest_runs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (quota, period) = (Duration::from_millis(4), Duration::from_millis(20));
    let resources = json!({"cpu": {"quota": 4000, "period": 20_000}});
    let (tasks, bundle) = created(&fake, "quota", guests::spins()?, &resources)?;
    let id = bundle.id();
    let begun = Instant::now();
    tasks.start(id)?;
    let told = until(&tasks, id, "it is throttled", |told| told.throttled >= 20)?;
    // Plausible: what the quota allows for the time, a tenth more, and 100 ms for a machine that was late.
    let periods = u32::try_from(begun.elapsed().as_nanos() / period.as_nanos() + 1)?;
    let allowed = quota * periods * 11 / 10 + Duration::from_millis(100);
    ensure!(told.cpu <= allowed, "{told:?}, {allowed:?} allowed");
    // A pause and a quota are different reasons not to run.
    tasks.update(id, r#"{"cpu": {"quota": -1}}"#)?;
    let free = until(&tasks, id, "it runs", |now| {
        now.cpu > told.cpu + Duration::from_millis(100)
    })?;
    ensure!(free.throttled == 0, "{free:?}");
    tasks.update(id, r#"{"cpu": {"quota": 1000, "period": 1000000}}"#)?;
    until(&tasks, id, "it is throttled again", |now| now.throttled > 0)?;
    tasks.kill(id, KILL)?;
    ensure!(tasks.wait(id)?.exit_status == 137);
    Ok(())
}

#[test]
fn an_update_that_makes_no_sense_changes_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let resources = json!({"memory": {"limit": 1 << 24}});
    let (tasks, bundle) = created(&fake, "sturdy", guests::spins()?, &resources)?;
    for (resources, words) in [
        (
            r#"{"memory": {"limit": 1}, "cpu": {"quota": 5}}"#,
            "the quota of 5µs is less than 1ms",
        ),
        (r#"{"memory": {"limit": -7}}"#, "-1 for no limit"),
        (r#"{"memory": 7}"#, "no LinuxResources"),
        ("", "no LinuxResources"),
    ] {
        let refused = tasks.update(bundle.id(), resources);
        ensure!(
            code(&refused) == Some(Code::INVALID_ARGUMENT),
            "{refused:?}"
        );
        let text = refused.unwrap_err().to_string();
        ensure!(text.contains(words), "{text}");
    }
    let windows = UpdateTaskRequest {
        id: bundle.id().to_owned(),
        resources: Some(Any {
            type_url: LINUX_RESOURCES.replace("Linux", "Windows"),
            value: b"{}".to_vec(),
            ..Any::default()
        })
        .into(),
        ..UpdateTaskRequest::default()
    };
    let refused = tasks.call::<_, Empty>("Update", &windows);
    ensure!(
        code(&refused) == Some(Code::INVALID_ARGUMENT),
        "{refused:?}"
    );
    ensure!(code(&tasks.update("nobody", "{}")) == Some(Code::NOT_FOUND));
    ensure!(told(&tasks, bundle.id())?.limit == 1 << 24);
    Ok(())
}

#[test]
fn every_limit_has_an_exit_of_its_own() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let run = |id: &str, module: Vec<u8>, change: fn(&mut Value)| -> Result<u32> {
        let bundle = fake
            .bundle(id)
            .file("/app.wasm", module)
            .args(["/app.wasm"])
            .annotation("io.containerd.runc.v2.group", "limits")
            .edit(change)
            .write()?;
        let tasks = fake.serve(&bundle)?;
        tasks.create(&bundle)?;
        tasks.start(bundle.id())?;
        Ok(tasks.wait(bundle.id())?.exit_status)
    };
    let status = run("deep", guests::recurses()?, |_| ())?;
    ensure!(status == 139, "a stack overflow: {status}");
    let status = run("opener", guests::opens()?, |config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 20, "hard": 20}]);
    })?;
    ensure!(status == 33, "too many open files, EMFILE: {status}");
    let status = run("late", guests::spins()?, |config| {
        config["annotations"]["io.containerd.wasi.v1.deadline"] = "50ms".into();
    })?;
    ensure!(status == 124, "a deadline: {status}");
    let refused = run("never", guests::spins()?, |config| {
        config["annotations"]["io.containerd.wasi.v1.deadline"] = "soon".into();
    });
    let text = format!("{:#}", refused.unwrap_err());
    ensure!(text.contains("a whole number and ms, s, m or h"), "{text}");
    Ok(())
}

#[test]
fn a_shim_may_open_as_much_as_it_can() -> Result<()> {
    let own = getrlimit(Resource::Nofile);
    // Enough for all tests of this program, and less than a container may have.
    let few = Rlimit {
        current: Some(700),
        ..own
    };
    setrlimit(Resource::Nofile, few)?;
    let fake = FakeContainerd::new()?;
    let (_tasks, _bundle) = created(&fake, "open", guests::sleeps()?, &json!({}))?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", fake.shim()?.pid))?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<_> = line
        .unwrap_or_default()
        .split_whitespace()
        .skip(3)
        .collect();
    ensure!(
        matches!(numbers[..], [soft, hard, "files"] if soft == hard && soft != "700"),
        "{numbers:?}"
    );
    Ok(())
}

/// Beside guests that compute, the thread that answers containerd comes first, and what it starts does not. Who
/// keeps a quota waits for nobody.
#[test]
fn who_answers_comes_before_guests() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let resources = json!({"cpu": {"quota": 50_000, "period": 100_000}});
    let (tasks, bundle) = created(&fake, "ordinary", guests::spins()?, &resources)?;
    tasks.start(bundle.id())?;
    let pid = fake.shim()?.pid;
    let mut seen = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        let stat = fs::read_to_string(thread.path().join("stat"))?;
        // The name, which may have spaces, then the third field and what follows (proc(5)).
        let (name, fields) = stat
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(") "))
            .context("no stat")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let (nice, policy) = (fields[19 - 3], fields[41 - 3]);
        if name == "wasi-interrupt" {
            // It comes and goes, and is urgent until it has begun.
            continue;
        }
        let expected = match name {
            _ if thread.file_name().to_str() == Some(&pid.to_string()) => ("-10", "0"),
            "control" | "wasi-quota" => ("-10", "0"),
            _ => ("0", "0"),
        };
        // A guest's thread is urgent for a moment when its quota stops it.
        let urgent = name.starts_with("wasi:") && nice == "0";
        ensure!(urgent || (nice, policy) == expected, "{stat}");
        seen.push(name.to_owned());
    }
    ensure!(seen.iter().any(|name| name == "wasi-quota"), "{seen:?}");
    ensure!(seen.iter().any(|name| name == "wasi:ordinary"), "{seen:?}");
    tasks.kill(bundle.id(), KILL)?;
    tasks.wait(bundle.id())?;
    Ok(())
}
