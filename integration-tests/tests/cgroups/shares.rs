//! The share of the processors that the threads of a container have.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::cgroups::{Below, cgroup, is_v2, mount};
use integration_tests::fake::FakeContainerd;
use integration_tests::{guests, poll};
use serde_json::json;

use super::{KILL, bundle, end, home, run};

#[test]
fn a_quota_is_for_the_threads_of_a_container() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let path = format!("{}/web", below.path());
    let cpu = json!({ "shares": 512, "quota": 20_000, "period": 100_000 });
    let bundle = bundle(&fake, "held", &path)?
        .edit(|spec| spec["linux"]["resources"] = json!({ "cpu": cpu }))
        .write()?;
    let tasks = fake.serve(&bundle)?;
    let pid = run(&tasks, &bundle)?;
    let own = format!("{path}/wasi-held");
    let found = cgroup(&format!("/proc/{pid}/cgroup"), "cpu")?;
    ensure!(found == own, "the thread is in {found}");
    // That of an exec, which is started from elsewhere, too.
    let pid = tasks.exec(bundle.id(), "more").run(&["/main.wasm"])?;
    let found = cgroup(&format!("/proc/{pid}/cgroup"), "cpu")?;
    ensure!(found == own, "the exec's thread is in {found}");
    ensure!(
        home(&fake, "cpu")? == path,
        "the shim is in {}",
        home(&fake, "cpu")?
    );
    let folder = mount("cpu").join(&own[1..]);
    if is_v2() {
        has(
            &folder,
            &[("cpu.max", "20000 100000"), ("cgroup.type", "threaded")],
        )?;
        has(&mount("cpu").join(&path[1..]), &[("cpu.weight", "20")])?;
    } else {
        has(
            &folder,
            &[
                ("cpu.cfs_quota_us", "20000"),
                ("cpu.cfs_period_us", "100000"),
            ],
        )?;
        has(&mount("cpu").join(&path[1..]), &[("cpu.shares", "512")])?;
    }
    poll::until(
        "the kernel holds it to its quota",
        Duration::from_secs(20),
        || {
            let stat =
                fs::read_to_string(folder.join("cpu.stat")).map_err(|error| error.to_string())?;
            let throttled = stat
                .lines()
                .find_map(|line| line.strip_prefix("nr_throttled "));
            if throttled.is_some_and(|count| count != "0") {
                Ok(())
            } else {
                Err(stat)
            }
        },
    )?;
    // An update changes what the kernel holds it to, too.
    tasks.update(
        bundle.id(),
        r#"{"cpu": {"shares": 2, "quota": 50000, "period": 50000}}"#,
    )?;
    if is_v2() {
        has(&folder, &[("cpu.max", "50000 50000")])?;
        has(&mount("cpu").join(&path[1..]), &[("cpu.weight", "1")])?;
    } else {
        has(&folder, &[("cpu.cfs_quota_us", "50000")])?;
        has(&folder, &[("cpu.cfs_period_us", "50000")])?;
        has(&mount("cpu").join(&path[1..]), &[("cpu.shares", "2")])?;
    }
    tasks.update(bundle.id(), r#"{"cpu": {"quota": -1}}"#)?;
    if is_v2() {
        has(&folder, &[("cpu.max", "max 50000")])?;
    } else {
        has(&folder, &[("cpu.cfs_quota_us", "-1")])?;
    }
    tasks.kill(bundle.id(), KILL)?;
    tasks.wait(bundle.id())?;
    tasks.delete(bundle.id())?;
    ensure!(!folder.exists(), "its cgroup outlives the container");
    tasks.shutdown(bundle.id())?;
    fake.shims_end()?;
    below.is_gone()
}

#[test]
fn shares_are_between_the_containers_of_a_pod() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let bundle = bundle(&fake, "member", &format!("{}/member", below.path()))?
        .annotation("io.kubernetes.cri.sandbox-id", "pod")
        .edit(|spec| spec["linux"]["resources"] = json!({ "cpu": { "shares": 512 } }))
        .write()?;
    let tasks = fake.serve(&bundle)?;
    let pid = run(&tasks, &bundle)?;
    let own = format!("{}/pod/wasi-member", below.path());
    let found = cgroup(&format!("/proc/{pid}/cgroup"), "cpu")?;
    ensure!(found == own, "the thread is in {found}");
    let wanted = if is_v2() {
        ("cpu.weight", "20")
    } else {
        ("cpu.shares", "512")
    };
    has(&mount("cpu").join(&own[1..]), &[wanted])?;
    tasks.update(bundle.id(), r#"{"cpu": {"shares": 1024}}"#)?;
    let wanted = if is_v2() {
        ("cpu.weight", "39")
    } else {
        ("cpu.shares", "1024")
    };
    has(&mount("cpu").join(&own[1..]), &[wanted])?;
    end(&fake, &tasks, &bundle)?;
    fake.shims_end()?;
    below.is_gone()
}

#[test]
fn all_threads_of_a_service_share_its_quota() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let path = format!("{}/web", below.path());
    let bundle = bundle(&fake, "serves", &path)?
        .file("/main.wasm", guests::named("handler")?)
        .edit(|spec| {
            spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "network" }]);
            spec["linux"]["resources"] = json!({ "cpu": { "quota": 150_000 } });
        })
        .write()?;
    let tasks = fake.serve(&bundle)?;
    run(&tasks, &bundle)?;
    let own = format!("{path}/wasi-serves");
    let mut workers = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", fake.shim()?.pid))? {
        let thread = thread?.path();
        let name = fs::read_to_string(thread.join("comm"))?;
        if name.starts_with("wasi-worker") {
            let found = cgroup(&thread.join("cgroup").display().to_string(), "cpu")?;
            ensure!(found == own, "{name} is in {found}");
            workers += 1;
        }
    }
    // The container's own thread is another, and there are no more than processors.
    let processors = std::thread::available_parallelism()?.get();
    ensure!(workers == processors.min(2) - 1, "{workers} workers");
    end(&fake, &tasks, &bundle)?;
    fake.shims_end()?;
    below.is_gone()
}

fn has(folder: &Path, wanted: &[(&str, &str)]) -> Result<()> {
    for (file, value) in wanted {
        let told = fs::read_to_string(folder.join(file)).with_context(|| (*file).to_owned())?;
        ensure!(told.trim() == *value, "{file} is {told}");
    }
    Ok(())
}
