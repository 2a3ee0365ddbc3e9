//! Hooks of the built shim: what they are told, where and when they run, and what becomes of their failures.
//!
//! Root, a shell and the built binary are all that is needed. Each test has its own fake, and with it its own
//! folder, into which the hooks write what they saw.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::events::task::TaskExit;
use integration_tests::bundle::{Bundle, BundleBuilder};
use integration_tests::fake::FakeContainerd;
use integration_tests::native;
use integration_tests::tasks::{Tasks, code};
use integration_tests::{guests, poll};
use rustix::process::Signal;
use serde_json::{Value, json};
use ttrpc::Code;

const KILL: u32 = 9;
const PATIENCE: Duration = Duration::from_secs(20);

/// What each recording hook does: its state, environment and namespaces into files named for it, and its name
/// into the one list.
const RECORD: &str = r#"
cat > "$FOLDER/$NAME.state"
tr '\0' '\n' < /proc/$$/environ > "$FOLDER/$NAME.env"
for n in net ipc uts mnt pid; do readlink /proc/$$/ns/$n; done > "$FOLDER/$NAME.ns"
for n in 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$n ] || echo "$n"; done > "$FOLDER/$NAME.fds"
echo "$NAME" >> "$FOLDER/order"
"#;

/// Where hooks write to, and the making of them.
struct Notes(PathBuf);

impl Notes {
    fn new(fake: &FakeContainerd) -> Result<Self> {
        let folder = fake.folder().join("notes");
        fs::create_dir(&folder).context("a folder for the hooks")?;
        Ok(Self(folder))
    }

    /// A hook that records, and then does what `script` says.
    fn hook(&self, name: &str, script: &str) -> Value {
        json!({
            "path": "/bin/sh",
            "args": ["a-hook", "-c", format!("{RECORD}{script}"), "zeroth"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", format!("FOLDER={}", self.0.display()), format!("NAME={name}")],
        })
    }

    fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.0.join(file)).with_context(|| format!("read {file} of the notes"))
    }

    fn state(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.read(&format!("{name}.state"))?)?)
    }

    /// The names of those that ran, in order.
    fn order(&self) -> Vec<String> {
        let order = self.read("order").unwrap_or_default();
        order.lines().map(str::to_owned).collect()
    }

    fn waits_for(&self, name: &str) -> Result<()> {
        poll::until("a hook has begun", PATIENCE, || {
            let order = self.order();
            let begun = order.iter().any(|begun| begun == name);
            begun.then_some(()).ok_or_else(|| format!("{order:?}"))
        })
    }
}

fn with_hooks(fake: &FakeContainerd, id: &str, hooks: Value) -> Result<BundleBuilder> {
    let bundle = fake.bundle(id).file("/main.wasm", guests::spins()?);
    Ok(bundle.edit(|spec| spec["hooks"] = hooks))
}

/// Kill, Wait, and all that containerd does to forget a task.
fn end(fake: &FakeContainerd, tasks: &Tasks, bundle: &Bundle) -> Result<()> {
    tasks.kill(bundle.id(), KILL)?;
    tasks.wait(bundle.id())?;
    fake.forget(tasks, bundle)?;
    fake.shims_end()
}

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
            notes.0.display()
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
    let program = notes.0.join("program.wasm");
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
fn a_failure_before_the_program_fails_create_and_poststop_runs_once() -> Result<()> {
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let fake = FakeContainerd::new()?;
        let notes = Notes::new(&fake)?;
        let mut hooks = json!({ "poststop": [notes.hook("poststop", "")] });
        hooks[moment] = json!([
            notes.hook("fails", "echo the reason >&2; exit 3"),
            notes.hook("after", ""),
        ]);
        let bundle = with_hooks(&fake, "refused", hooks)?.write()?;
        let tasks = fake.serve(&bundle)?;
        let refused = tasks.create(&bundle);
        ensure!(code(&refused) == Some(Code::INTERNAL), "{refused:?}");
        let text = format!("{:?}", refused.err());
        let wanted = format!("the {moment} hook /bin/sh failed (exit status: 3): the reason");
        ensure!(text.contains(&wanted), "{text}");
        ensure!(
            notes.order() == ["fails", "poststop"],
            "{:?}",
            notes.order()
        );
        let told = notes.state("poststop")?;
        ensure!(
            told["status"] == "stopped" && told.get("pid").is_none(),
            "{told}"
        );
        // As containerd goes on.
        ensure!(code(&tasks.delete(bundle.id())) == Some(Code::NOT_FOUND));
        tasks.shutdown(bundle.id())?;
        fake.delete(&bundle)?;
        fake.shims_end()?;
        ensure!(notes.order().len() == 2, "{:?}", notes.order());
        ensure!(
            fake.receiver.topics().is_empty(),
            "{:?}",
            fake.receiver.topics()
        );
    }
    Ok(())
}

#[test]
fn a_program_that_cannot_run_has_its_poststop_hooks_run() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let hooks = json!({
        "createRuntime": [notes.hook("createRuntime", "")],
        "poststop": [notes.hook("poststop", "")],
    });
    let bundle = with_hooks(&fake, "no-wasm", hooks)?
        .file("/main.wasm", "#!/bin/sh")
        .write()?;
    let refused = fake.serve(&bundle)?.create(&bundle);
    ensure!(
        code(&refused) == Some(Code::INVALID_ARGUMENT),
        "{refused:?}"
    );
    ensure!(
        notes.order() == ["createRuntime", "poststop"],
        "{:?}",
        notes.order()
    );
    Ok(())
}

#[test]
fn one_that_hangs_is_ended_at_its_timeout_and_nobody_waits_meanwhile() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let mut hangs = notes.hook("hangs", "echo still at it; sleep 1000 & wait");
    hangs["timeout"] = json!(2);
    let bundle = with_hooks(&fake, "hangs", json!({ "createRuntime": [hangs] }))?.write()?;
    let tasks = fake.serve(&bundle)?;
    let shim = fake.shim()?;
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| tasks.create(&bundle));
        notes.waits_for("hangs")?;
        let answered = tasks.connect_task(bundle.id())?;
        ensure!(
            i64::from(answered.shim_pid) == i64::from(shim.pid),
            "{answered:?}"
        );
        ensure!(
            !creating.is_finished(),
            "Create has not waited for its hook"
        );
        let refused = creating
            .join()
            .ok()
            .context("the creating thread panicked")?;
        let text = format!("{:?}", refused.err());
        ensure!(text.contains("took longer than 2s: still at it"), "{text}");
        Ok(())
    })
}

#[test]
fn a_create_that_waits_for_a_hook_can_be_given_up() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let hooks = json!({
        "createRuntime": [notes.hook("hangs", "echo $$ > \"$FOLDER/pid\"; exec sleep 1000")],
        "poststop": [notes.hook("poststop", "")],
    });
    let bundle = with_hooks(&fake, "given-up", hooks)?.write()?;
    let tasks = fake.serve(&bundle)?;
    let refused = std::thread::scope(|scope| {
        let creating = scope.spawn(|| tasks.create(&bundle));
        notes.waits_for("hangs")?;
        ensure!(code(&tasks.delete(bundle.id())) == Some(Code::NOT_FOUND));
        creating.join().ok().context("the creating thread panicked")
    })?;
    ensure!(code(&refused) == Some(Code::ABORTED), "{refused:?}");
    ensure!(
        notes.order() == ["hangs", "poststop"],
        "{:?}",
        notes.order()
    );
    if let Ok(pid) = notes.read("pid") {
        ensure!(
            !Path::new("/proc").join(pid.trim()).exists(),
            "the hook lives on"
        );
    }
    tasks.shutdown(bundle.id())?;
    fake.shims_end()
}

#[test]
fn one_that_writes_without_end_costs_no_memory_and_one_that_stays_no_time() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let much = notes.hook("much", "head -c 50000000 /dev/zero | tr '\\0' x");
    let stays = notes.hook("stays", "sleep 1000 & echo $! > \"$FOLDER/pid\"");
    let fails = notes.hook(
        "fails",
        "head -c 50000000 /dev/zero | tr '\\0' x; echo the end; exit 1",
    );
    let hooks = json!({ "createRuntime": [much, stays, fails] });
    let bundle = with_hooks(&fake, "spews", hooks)?.write()?;
    let tasks = fake.serve(&bundle)?;
    let before = peak(&fake)?;
    let refused = tasks.create(&bundle);
    let left = notes.read("pid")?.trim().parse().context("a pid")?;
    let left = rustix::process::Pid::from_raw(left).context("a pid above zero")?;
    rustix::process::kill_process(left, Signal::KILL)
        .context("what a hook left running is gone")?;
    let text = format!("{:?}", refused.err());
    ensure!(
        text.contains("the end") && text.len() < 10_000,
        "{} bytes: {text}",
        text.len()
    );
    let grown = peak(&fake)? - before;
    ensure!(grown < 40_000, "the shim has grown by {grown} kB");
    Ok(())
}

/// The most memory that the shim has used, in kB.
fn peak(fake: &FakeContainerd) -> Result<i64> {
    let shims = fake.shims();
    let shim = shims.iter().find(|shim| shim.command.ends_with(" start"));
    let shim = shim.context("no shim")?;
    let status = fs::read_to_string(format!("/proc/{}/status", shim.pid))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    Ok(peak.context("no VmHWM")?.parse()?)
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
fn a_start_container_hook_that_fails_ends_the_container() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = with_program(&fake, "bad", &["hello", "exit", "7"])?;
    let tasks = fake.serve(&bundle)?;
    let pid = tasks.create(&bundle)?.pid;
    let refused = tasks.start(bundle.id());
    let text = format!("{:?}", refused.err());
    let wanted = "the startContainer hook /hello failed (exit status: 7)";
    ensure!(text.contains(wanted), "{text}");
    ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::STOPPED));
    ensure!(code(&tasks.start(bundle.id())) == Some(Code::FAILED_PRECONDITION));
    let exit: TaskExit = fake.receiver.wait_for("exit")?.decode()?;
    ensure!((exit.pid, exit.exit_status) == (pid, 137), "{exit:?}");
    fake.forget(&tasks, &bundle)?;
    fake.shims_end()
}

/// A bundle with a startContainer hook that is a Linux program of its own root.
fn with_program(fake: &FakeContainerd, id: &str, args: &[&str]) -> Result<Bundle> {
    let hooks = json!({ "startContainer": [{ "path": "/hello", "args": args }] });
    let bundle = with_hooks(fake, id, hooks)?.file("/hello", native::program()?);
    bundle.write()
}

#[test]
fn late_failures_are_passed_over() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let notes = Notes::new(&fake)?;
    let hooks = json!({
        "poststart": [notes.hook("poststart", "exit 1"), notes.hook("never", "")],
        "poststop": [notes.hook("poststop", "exit 1"), { "path": "/nowhere" }, notes.hook("last", "")],
    });
    let bundle = with_hooks(&fake, "late", hooks)?.write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start(bundle.id())?;
    ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::RUNNING));
    end(&fake, &tasks, &bundle)?;
    ensure!(
        notes.order() == ["poststart", "poststop", "last"],
        "{:?}",
        notes.order()
    );
    Ok(())
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
        let pid = poll::until("the first has written its pid", PATIENCE, || {
            let pid = notes.read("pid").map_err(|error| error.to_string())?;
            pid.trim().parse().map_err(|_| pid)
        })?;
        let pid = rustix::process::Pid::from_raw(pid).context("a pid above zero")?;
        rustix::process::kill_process(pid, Signal::KILL).context("end the first")
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
