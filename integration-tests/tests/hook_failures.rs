//! Hooks that fail, hang, write without end or stay: what becomes of the container, and what is told.
//!
//! As the tests in `hooks.rs`, of which these are the other half.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::events::task::TaskExit;
use integration_tests::fake::FakeContainerd;
use integration_tests::hooks::{Notes, end, with_hooks, with_program};
use integration_tests::tasks::code;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use ttrpc::Code;

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
        .file("/main.wasm", "neither")
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
    let left = Pid::from_raw(left).context("a pid above zero")?;
    kill_process(left, Signal::KILL).context("what a hook left running is gone")?;
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
