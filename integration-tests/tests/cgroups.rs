//! Cgroups of the built shim: where it lives, what its containers' threads are given, and what is left of it.
//!
//! Root, a writable cgroup file system of either version and the built binary are all that is needed. Each test
//! has its own fake, and its own cgroup below the root.

#[path = "cgroups/pods.rs"]
mod pods;
#[path = "cgroups/shares.rs"]
mod shares;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::shim::oci::Options;
use integration_tests::bundle::{Bundle, BundleBuilder};
use integration_tests::cgroups::{Below, cgroup, is_v2, mount, mounts};
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::{Api, Tasks, code};
use integration_tests::{guests, poll};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use rustix::process::Signal;
use serde_json::json;
use ttrpc::Code;

const KILL: u32 = 9;

fn home(fake: &FakeContainerd, controller: &str) -> Result<String> {
    cgroup(&format!("/proc/{}/cgroup", fake.shim()?.pid), controller)
}

fn bundle(fake: &FakeContainerd, id: &str, path: &str) -> Result<BundleBuilder> {
    let bundle = fake.bundle(id).file("/main.wasm", guests::spins()?);
    Ok(bundle.edit(|spec| spec["linux"]["cgroupsPath"] = json!(path)))
}

fn run(tasks: &Tasks, bundle: &Bundle) -> Result<u32> {
    let pid = tasks.create(bundle)?.pid;
    tasks.start(bundle.id())?;
    Ok(pid)
}

fn end(fake: &FakeContainerd, tasks: &Tasks, bundle: &Bundle) -> Result<()> {
    tasks.kill(bundle.id(), KILL)?;
    tasks.wait(bundle.id())?;
    fake.forget(tasks, bundle).map(drop)
}

#[test]
fn a_shim_lives_in_its_containers_cgroup_and_removes_it() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let path = format!("{}/web", below.path());
    let seen = fake.folder().join("seen");
    let script = format!("cat /proc/self/cgroup > {}", seen.display());
    let hook =
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] });
    let bundle = bundle(&fake, "alone", &path)?
        .edit(|spec| spec["hooks"] = json!({ "poststart": [hook] }))
        .write()?;
    let tasks = fake.serve(&bundle)?;
    run(&tasks, &bundle)?;
    for controller in ["memory", "pids", "cpu"] {
        ensure!(
            home(&fake, controller)? == path,
            "{}",
            home(&fake, controller)?
        );
        // Hooks are nobody's.
        let hook = cgroup(&seen.display().to_string(), controller)?;
        let own = cgroup("/proc/self/cgroup", controller)?;
        ensure!(
            hook == own,
            "{controller}: a hook ran in {hook}, not in {own}"
        );
    }
    end(&fake, &tasks, &bundle)?;
    fake.shims_end()?;
    below.is_gone()
}

/// While it has one thread the kernel need not wait for the others.
#[test]
fn a_shim_is_there_before_its_first_container() -> Result<()> {
    if is_v2() {
        // It has to wait there in any case, and does so beside what else Create does.
        return Ok(());
    }
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let path = format!("{}/early", below.path());
    let bundle = bundle(&fake, "early", &path)?.write()?;
    fake.start(&bundle, Dialect::Options)?;
    poll::until("the shim is there", Duration::from_secs(20), || {
        let home = home(&fake, "memory").map_err(|error| error.to_string())?;
        if home == path { Ok(()) } else { Err(home) }
    })?;
    fake.shim()?.signal(Signal::TERM);
    fake.shims_end()?;
    below.is_gone()
}

#[test]
fn memory_of_guests_is_counted_there() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let path = format!("{}/big", below.path());
    let bundle = bundle(&fake, "big", &path)?
        .file("/main.wasm", guests::fills(48)?)
        .write()?;
    let tasks = fake.serve(&bundle)?;
    run(&tasks, &bundle)?;
    let file = if is_v2() {
        "memory.current"
    } else {
        "memory.usage_in_bytes"
    };
    let file = mount("memory").join(&path[1..]).join(file);
    poll::until("48 MiB are counted", Duration::from_secs(20), || {
        let told = fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let bytes: u64 = told.trim().parse().map_err(|_| told.clone())?;
        if bytes >= 48 << 20 { Ok(()) } else { Err(told) }
    })?;
    end(&fake, &tasks, &bundle)?;
    below.is_gone()
}

#[test]
fn the_containers_of_a_group_share_the_one_beside_theirs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let member = |id: &str| -> Result<Bundle> {
        let bundle = bundle(&fake, id, &format!("{}/{id}", below.path()))?;
        bundle
            .annotation("io.kubernetes.cri.sandbox-id", "pod")
            .write()
    };
    let (first, second) = (member("first")?, member("second")?);
    let tasks = fake.serve(&first)?;
    run(&tasks, &first)?;
    let pod = format!("{}/pod", below.path());
    ensure!(home(&fake, "memory")? == pod, "{}", home(&fake, "memory")?);
    fake.start(&second, Dialect::Bootstrap)?;
    run(&tasks, &second)?;
    ensure!(home(&fake, "memory")? == pod, "{}", home(&fake, "memory")?);
    // The bundle of the first is gone when the shim is killed.
    end(&fake, &tasks, &first)?;
    fs::remove_dir_all(first.path())?;
    fake.kill_shims()?;
    ensure!(
        !below.found().is_empty(),
        "there is nothing for delete to do"
    );
    fake.delete(&second)?;
    below.is_gone()
}

#[test]
fn a_systemd_path_is_a_scope_in_its_slice() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let name = below.path()[1..].replace('-', "_");
    let bundle = bundle(&fake, "scope", &format!("{name}-pod.slice:cri:abc"))?.write()?;
    let tasks = fake.serve(&bundle)?;
    run(&tasks, &bundle)?;
    let wanted = format!("/{name}.slice/{name}-pod.slice/cri-abc.scope");
    ensure!(
        home(&fake, "memory")? == wanted,
        "{}",
        home(&fake, "memory")?
    );
    end(&fake, &tasks, &bundle)?;
    fake.shims_end()?;
    Below::at(&format!("/{name}.slice")).is_gone()
}

#[test]
fn what_was_there_before_stays() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    below.make()?;
    let bundle = bundle(&fake, "guest", &format!("{}/web", below.path()))?.write()?;
    let tasks = fake.serve(&bundle)?;
    run(&tasks, &bundle)?;
    end(&fake, &tasks, &bundle)?;
    fake.shims_end()?;
    let there = below.found();
    ensure!(there.len() == mounts().len(), "{there:?}");
    for folder in there {
        fs::remove_dir(&folder).with_context(|| format!("{} is not empty", folder.display()))?;
    }
    Ok(())
}

#[test]
fn a_killed_shim_leaves_nothing_to_stay() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    let bundle = bundle(&fake, "killed", &format!("{}/web", below.path()))?
        .edit(|spec| spec["linux"]["resources"] = json!({ "cpu": { "quota": 50_000 } }))
        .write()?;
    run(&fake.serve(&bundle)?, &bundle)?;
    fake.kill_shims()?;
    ensure!(
        !below.found().is_empty(),
        "there is nothing for delete to do"
    );
    fake.delete(&bundle)?;
    below.is_gone()
}

#[test]
fn a_cgroup_that_cannot_be_joined_fails_create() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let below = Below::of(&fake)?;
    // A file is in the way.
    let path = format!("{}/a/cgroup.procs/x", below.path());
    let bundle = bundle(&fake, "blocked", &path)?.write()?;
    let tasks = fake.serve(&bundle)?;
    let refused = tasks.create(&bundle);
    ensure!(code(&refused) == Some(Code::INTERNAL), "{refused:?}");
    let text = format!("{:?}", refused.err());
    ensure!(
        text.contains("cannot join the cgroup") && text.contains("cgroupsPath"),
        "{text}"
    );
    below.is_gone()
}

/// As containerd's own TestShimInCgroup has it: joined before the answer, and it was there before.
#[test]
fn a_cgroup_for_the_shim_wins_over_its_containers() -> Result<()> {
    for dialect in [Dialect::Options, Dialect::Bootstrap] {
        let mut fake = FakeContainerd::new()?;
        let below = Below::of(&fake)?;
        fake.options = Some(options(below.path())?);
        let bundle = bundle(&fake, "kept", &format!("{}-other/web", below.path()))?.write()?;
        let refused = fake.start(&bundle, dialect).map(drop);
        let text = format!(
            "{:#}",
            refused.err().context("start succeeds without the cgroup")?
        );
        ensure!(
            text.contains("ShimCgroup") && text.contains("make it first"),
            "{text}"
        );
        ensure!(fake.shims().is_empty(), "{:?}", fake.shims());

        below.make()?;
        let address = fake.start(&bundle, dialect)?.address;
        ensure!(
            home(&fake, "memory")? == below.path(),
            "{}",
            home(&fake, "memory")?
        );
        let tasks = Tasks::connect(&address, Api::V2)?;
        run(&tasks, &bundle)?;
        ensure!(
            home(&fake, "memory")? == below.path(),
            "{}",
            home(&fake, "memory")?
        );
        end(&fake, &tasks, &bundle)?;
        fake.shims_end()?;
        ensure!(below.found().len() == mounts().len(), "{:?}", below.found());
    }
    Ok(())
}

fn options(cgroup: &str) -> Result<Any> {
    let options = Options {
        shim_cgroup: cgroup.into(),
        binary_name: "runc".into(),
        ..Options::default()
    };
    Ok(Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.write_to_bytes()?,
        ..Any::default()
    })
}

#[test]
fn the_score_of_the_shim_is_that_of_its_likeliest_container() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let member = |id: &str, score: i32| -> Result<Bundle> {
        let bundle = fake.bundle(id).file("/main.wasm", guests::spins()?);
        let bundle = bundle.edit(|spec| spec["process"]["oomScoreAdj"] = json!(score));
        bundle
            .annotation("io.containerd.runc.v2.group", "together")
            .write()
    };
    let score = || -> Result<i32> {
        let file = format!("/proc/{}/oom_score_adj", fake.shim()?.pid);
        Ok(fs::read_to_string(file)?.trim().parse()?)
    };
    let (low, high) = (member("low", -998)?, member("high", 937)?);
    let tasks = fake.serve(&low)?;
    // Who answers has set its score.
    ensure!(code(&tasks.state(low.id())) == Some(Code::NOT_FOUND));
    let own = score()?;
    run(&tasks, &low)?;
    ensure!(score()? == own, "{} after one of -998", score()?);
    fake.start(&high, Dialect::Bootstrap)?;
    run(&tasks, &high)?;
    ensure!(score()? == own.max(937), "{} after one of 937", score()?);
    end(&fake, &tasks, &high)?;
    ensure!(score()? == own, "{} when that is gone", score()?);
    Ok(())
}
