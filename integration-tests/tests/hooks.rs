//! Hooks of the built shim: what they are told, where and when they run, and that poststop is run once.
//!
//! Root, a shell and the built binary are all that is needed. Each test has its own fake, and with it its own
//! folder, into which the hooks write what they saw.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::Status;
use integration_tests::fake::FakeContainerd;
use integration_tests::hooks::{Notes, end, with_hooks, with_program};
use integration_tests::{guests, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

fn namespaces(pid: i64) -> Result<Vec<String>> {
    ["net", "ipc", "uts", "mnt", "pid"]
        .into_iter()
        .map(|name| {
            let link = fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
            Ok(link.display().to_string())
        })
        .collect()
}

#[test]
fn they_run_in_order_and_are_told_the_whole_state() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let bundle = with_hooks(
        &fake,
        "whole",
        json!({
            "poststop": [notes.hook("poststop", ""), notes.hook("poststop-2", "")],
            "poststart": [notes.hook("poststart", "")],
            "createContainer": [notes.hook("createContainer", "")],
            "createRuntime": [notes.hook("createRuntime", ""), notes.hook("createRuntime-2", "")],
            "prestart": [notes.hook("prestart", "")],
        }),
    )?
    .annotation("com.example/key", "a \"value\"\n")
    .write()?;
    let tasks = fake.serve(&bundle)?;
    let pid = tasks.create(&bundle)?.pid;
    let created = [
        "prestart",
        "createRuntime",
        "createRuntime-2",
        "createContainer",
    ];
    ensure!(notes.order() == created, "{:?}", notes.order());
    let (own, host) = (
        namespaces(pid.into())?,
        namespaces(fake.shim()?.pid.into())?,
    );
    tasks.start(bundle.id())?;
    ensure!(
        notes.order().last().is_some_and(|last| last == "poststart"),
        "{:?}",
        notes.order()
    );
    // None is run for an exec, as the order of those to come shows.
    tasks.exec(bundle.id(), "more").run(&["/main.wasm"])?;
    end(&fake, &tasks, &bundle)?;
    let order = notes.order();
    ensure!(order[5..] == ["poststop", "poststop-2"], "{order:?}");

    for name in &order {
        let status = match name.as_str() {
            "poststart" => "running",
            "poststop" | "poststop-2" => "stopped",
            _ => "creating",
        };
        let mut wanted = json!({
            "ociVersion": "1.1.0",
            "id": "whole",
            "status": status,
            "pid": pid,
            "bundle": bundle.path(),
            "annotations": { "com.example/key": "a \"value\"\n" },
        });
        if status == "stopped" {
            wanted.as_object_mut().context("an object")?.remove("pid");
        }
        let state = notes.state(name)?;
        ensure!(state == wanted, "{name} was told {state}");
        let env = notes.read(&format!("{name}.env"))?;
        let given = format!(
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nFOLDER={}\nNAME={name}\n",
            notes.folder().display()
        );
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        ensure!(sorted(&env) == sorted(&given), "{name} has {env}");
        ensure!(
            notes.read(&format!("{name}.fds"))?.is_empty(),
            "{name} inherits descriptors"
        );
        let within: Vec<_> = notes
            .read(&format!("{name}.ns"))?
            .lines()
            .map(str::to_owned)
            .collect();
        let wanted = if name == "createContainer" {
            &own
        } else {
            &host
        };
        ensure!(
            within == *wanted,
            "{name} ran in {within:?}, not {wanted:?}"
        );
    }
    ensure!(
        own[0] != host[0] && own[3] != host[3],
        "{own:?} are the host's"
    );
    Ok(())
}

/// The program itself is mounted by a hook: only a mount that the guest can see makes it end with 42.
#[test]
fn what_a_create_container_hook_mounts_is_the_containers() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let program = notes.folder().join("program.wasm");
    fs::write(&program, guests::exits(42)?)?;
    let over = fake.folder().join("process-test/mounts/rootfs/main.wasm");
    let script = format!("mount --bind {} {}", program.display(), over.display());
    let hooks = json!({ "createContainer": [notes.hook("mounts", &script)] });
    let bundle = with_hooks(&fake, "mounts", hooks)?.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    ensure!(
        bundle.mounts().is_empty(),
        "the host sees {:?}",
        bundle.mounts()
    );
    tasks.start(bundle.id())?;
    let exit = tasks.wait(bundle.id())?;
    ensure!(exit.exit_status == 42, "{exit:?}");
    fake.forget(&tasks, &bundle)?;
    fake.shims_end()
}

#[test]
fn a_start_container_hook_is_the_containers_own_program() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = with_program(&fake, "good", &["hello"])?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start(bundle.id())?;
    ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::RUNNING));
    end(&fake, &tasks, &bundle)
}

#[test]
fn delete_runs_what_a_killed_shim_owes_once() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let hooks = json!({ "poststop": [notes.hook("first", ""), notes.hook("second", "")] });
    let bundle = with_hooks(&fake, "killed", hooks)?.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start(bundle.id())?;
    fake.kill_shims()?;
    fake.delete(&bundle)?;
    ensure!(notes.order() == ["first", "second"], "{:?}", notes.order());
    ensure!(notes.state("second")?["status"] == "stopped");
    fake.delete(&bundle)?;
    ensure!(notes.order().len() == 2, "{:?}", notes.order());
    Ok(())
}

#[test]
fn delete_goes_on_where_a_shim_was_killed() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let hangs = notes.hook("first", "echo $$ > \"$FOLDER/pid\"; exec sleep 1000");
    let hooks = json!({ "poststop": [hangs, notes.hook("second", "")] });
    let bundle = with_hooks(&fake, "halfway", hooks)?.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    std::thread::scope(|scope| {
        let deleting = scope.spawn(|| tasks.delete(bundle.id()));
        notes.waits_for("first")?;
        fake.kill_shims()?;
        drop(deleting.join());
        fake.delete(&bundle)?;
        ensure!(notes.order() == ["first", "second"], "{:?}", notes.order());
        let pid = poll::until(
            "the first has written its pid",
            Duration::from_secs(20),
            || {
                let pid = notes.read("pid").map_err(|error| error.to_string())?;
                pid.trim().parse().map_err(|_| pid)
            },
        )?;
        let pid = Pid::from_raw(pid).context("a pid above zero")?;
        kill_process(pid, Signal::KILL).context("end the first")
    })
}

/// What nerdctl's own hook does with its state (`pkg/ocihook`): it finds the bundle and its annotations, and
/// does its work in the network namespace, from the host's namespaces.
#[test]
fn a_network_is_attached_as_nerdctl_does() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let attach = r#"
        state="$FOLDER/$NAME.state"
        field() { sed -n "s|.*\"$1\":\"\([^\"]*\)\".*|\1|p" "$state"; }
        pid=$(sed -n 's|.*"pid":\([0-9]*\).*|\1|p' "$state")
        [ -f "$(field bundle)/config.json" ] || { echo no bundle; exit 1; }
        [ -n "$(field nerdctl/state-dir)" ] || { echo state dir must be set; exit 1; }
        ns=$(field nerdctl/network-namespace)
        [ "$ns" -ef "/proc/$pid/ns/net" ] || { echo "not the same: $ns and $pid"; exit 1; }
        ip link add nerdtest0 type veth peer name eth0 netns "$ns"
        nsenter --net="$ns" ip address add 10.99.0.2/24 dev eth0
    "#;
    let hooks = json!({
        "createRuntime": [notes.hook("createRuntime", &format!("set -e\n{attach}"))],
        "poststop": [notes.hook("poststop", "ip link show nerdtest0 >&2 && ip link delete nerdtest0; true")],
    });
    let bundle = with_hooks(&fake, "networked", hooks)?
        .annotation("nerdctl/state-dir", "/var/lib/nerdctl/x")
        .write()?;
    let tasks = fake.serve(&bundle)?;
    let pid = tasks.create(&bundle)?.pid;
    let interfaces = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    ensure!(interfaces.contains("eth0:"), "{interfaces}");
    let inode = |path: &str| fs::metadata(path).map(|found| found.ino());
    ensure!(inode(&format!("/proc/{pid}/ns/net"))? != inode("/proc/self/ns/net")?);
    tasks.start(bundle.id())?;
    end(&fake, &tasks, &bundle)?;
    ensure!(
        notes.order() == ["createRuntime", "poststop"],
        "{:?}",
        notes.order()
    );
    Ok(())
}
