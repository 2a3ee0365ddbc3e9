//! The Task API of the real binary, request by request: what a daemon does not ask in this order, or not
//! at all.

use anyhow::{Result, ensure};
use containerd_shim_protos::api::{CheckpointTaskRequest, Empty, Status};
use integration_tests::bundle::Bundle;
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::{Tasks, code, message};
use integration_tests::version::Version;
use integration_tests::{guests, native};
use ttrpc::Code;

const KILL: u32 = 9;
const TERM: u32 = 15;
const USR1: u32 = 10;
const STOP: u32 = 19;

/// A container that was created and would compute for ever.
fn created(fake: &FakeContainerd, id: &str) -> Result<(Tasks, Bundle)> {
    let bundle = fake
        .bundle(id)
        .file("/app.wasm", guests::spins()?)
        .args(["/app.wasm"])
        .write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    Ok((tasks, bundle))
}

/// All topics published, once the container is deleted.
fn topics(fake: &FakeContainerd) -> Result<Vec<String>> {
    fake.receiver.wait_for("delete")?;
    Ok(fake.receiver.topics())
}

#[test]
fn what_is_not_there_is_unimplemented() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "incomplete")?;
    macro_rules! answers {
        ($($method:literal: $request:ty => $answer:ty),* $(,)?) => {
            [$({
                let mut request = <$request>::default();
                bundle.id().clone_into(&mut request.id);
                ($method, code(&tasks.call::<_, $answer>($method, &request)))
            }),*]
        };
    }
    let answers = answers! {
        "Checkpoint": CheckpointTaskRequest => Empty,
    };
    for (method, answer) in answers {
        ensure!(answer == Some(Code::UNIMPLEMENTED), "{method}: {answer:?}");
    }
    Ok(())
}

#[test]
fn a_bad_config_is_refused_with_what_is_wrong() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, _first) = created(&fake, "good")?;
    let bad = fake
        .bundle("bad")
        .file("/app.wasm", guests::spins()?)
        .edit(|config| config["process"]["cwd"] = "relative".into())
        .write()?;
    let refused = tasks.create(&bad);
    ensure!(
        code(&refused) == Some(Code::INVALID_ARGUMENT),
        "{refused:?}"
    );
    let text = refused.unwrap_err().to_string();
    ensure!(
        text.contains("config.json") && text.contains("relative"),
        "{text}"
    );
    Ok(())
}

#[test]
fn an_id_is_created_once() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "once")?;
    ensure!(code(&tasks.create(&bundle)) == Some(Code::ALREADY_EXISTS));
    Ok(())
}

#[test]
fn of_many_creates_of_one_id_one_succeeds() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = fake
        .bundle("contested")
        .file("/app.wasm", guests::exits(0)?)
        .args(["/app.wasm"])
        .write()?;
    let tasks = fake.serve(&bundle)?;
    let codes: Vec<_> = std::thread::scope(|scope| {
        let creates: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| code(&tasks.create(&bundle))))
            .collect();
        creates
            .into_iter()
            .map(|create| create.join().unwrap())
            .collect()
    });
    ensure!(
        codes.iter().filter(|code| code.is_none()).count() == 1,
        "{codes:?}"
    );
    ensure!(
        codes
            .iter()
            .filter(|code| **code == Some(Code::ALREADY_EXISTS))
            .count()
            == 7,
        "{codes:?}"
    );
    Ok(())
}

#[test]
fn a_created_container_is_killed_without_having_run() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "unborn")?;
    tasks.kill(bundle.id(), USR1)?;
    ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::CREATED));
    tasks.kill(bundle.id(), TERM)?;
    ensure!(tasks.wait(bundle.id())?.exit_status == 143);
    ensure!(code(&tasks.start(bundle.id())) == Some(Code::FAILED_PRECONDITION));
    ensure!(tasks.delete(bundle.id())?.exit_status == 143);
    ensure!(topics(&fake)? == ["create", "exit", "delete"]);
    Ok(())
}

#[test]
fn each_ending_signal_ends_a_container_in_every_phase() -> Result<()> {
    let fake = FakeContainerd::new()?;
    for signal in [1, 2, 3, KILL, TERM] {
        for phase in [Status::CREATED, Status::RUNNING, Status::PAUSED] {
            let (tasks, bundle) = created(&fake, &format!("{phase:?}-{signal}").to_lowercase())?;
            let id = bundle.id();
            if phase != Status::CREATED {
                tasks.start(id)?;
            }
            if phase == Status::PAUSED {
                tasks.kill(id, STOP)?;
            }
            ensure!(tasks.state(id)?.status.enum_value() == Ok(phase));
            tasks.kill(id, signal)?;
            let exit = tasks.wait(id)?;
            ensure!(exit.exit_status == 128 + signal, "{phase:?}: {exit}");
            let again = code(&tasks.kill(id, signal));
            ensure!(again == Some(Code::NOT_FOUND), "{phase:?}: {again:?}");
            ensure!(tasks.delete(id)?.exit_status == 128 + signal);
        }
    }
    Ok(())
}

/// `nerdctl stop` and CRI send the image's stop signal, wait, and send KILL to what is still there.
#[test]
fn a_stop_signal_without_effect_is_followed_by_kill() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "stubborn")?;
    tasks.start(bundle.id())?;
    for signal in [USR1, 28, 37, 0] {
        tasks.kill(bundle.id(), signal)?;
        ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::RUNNING));
    }
    tasks.kill(bundle.id(), KILL)?;
    ensure!(tasks.wait(bundle.id())?.exit_status == 137);
    // What runc says when the two of them meet: it is done already.
    let late = tasks.kill(bundle.id(), 0);
    ensure!(code(&late) == Some(Code::NOT_FOUND), "{late:?}");
    Ok(())
}

#[test]
fn a_number_that_is_no_signal_is_refused() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "numbered")?;
    for number in [65, 255, u32::MAX] {
        let refused = tasks.kill(bundle.id(), number);
        ensure!(
            code(&refused) == Some(Code::INVALID_ARGUMENT),
            "{refused:?}"
        );
        let text = message(refused);
        ensure!(text.contains(&number.to_string()), "{text}");
    }
    ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::CREATED));
    Ok(())
}

#[test]
fn a_created_container_is_deleted_with_an_exit() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "unwanted")?;
    ensure!(tasks.delete(bundle.id())?.exit_status == 137);
    ensure!(topics(&fake)? == ["create", "exit", "delete"]);
    ensure!(code(&tasks.delete(bundle.id())) == Some(Code::NOT_FOUND));
    Ok(())
}

#[test]
fn a_running_container_is_neither_started_nor_deleted() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, bundle) = created(&fake, "running")?;
    tasks.start(bundle.id())?;
    ensure!(code(&tasks.start(bundle.id())) == Some(Code::FAILED_PRECONDITION));
    let refused = tasks.delete(bundle.id());
    ensure!(code(&refused) == Some(Code::FAILED_PRECONDITION));
    let text = refused.unwrap_err().to_string();
    ensure!(
        text.contains("container running is running; stop it before deleting it"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_group_shares_a_shim_until_its_last_container_is_gone() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let group = "io.containerd.runc.v2.group";
    let bundle = |id: &str| {
        let module = guests::exits(3)?;
        fake.bundle(id)
            .annotation(group, "pod")
            .file("/app.wasm", module)
            .args(["/app.wasm"])
            .write()
    };
    let (leader, member) = (bundle("leader")?, bundle("member")?);
    let tasks = fake.serve(&leader)?;
    ensure!(
        fake.serve(&member)?.connect_task("leader")?.shim_pid
            == tasks.connect_task("leader")?.shim_pid
    );
    for bundle in [&leader, &member] {
        tasks.create(bundle)?;
        tasks.start(bundle.id())?;
        ensure!(tasks.wait(bundle.id())?.exit_status == 3);
    }
    tasks.delete("leader")?;
    tasks.shutdown("leader")?;
    ensure!(
        tasks.state("member")?.exit_status == 3,
        "the shim went with its leader"
    );
    tasks.delete("member")?;
    fake.shims_end()
}

/// No wasm container was ever checkpointed; one for Linux is restored by runc, when it is started.
#[test]
fn a_checkpoint_is_of_a_linux_container() -> Result<()> {
    let mut fake = FakeContainerd::new()?;
    let path = Version::newest()?.path();
    fake.environment
        .push(("PATH".into(), path.to_string_lossy().into_owned()));
    let leader = fake.bundle("restores").write()?;
    let tasks = fake.serve(&leader)?;
    let restored = |bundle: &Bundle| {
        tasks.create_with(bundle, |request| request.checkpoint = "/nonexistent".into())
    };
    let wasm = fake.bundle("wasm").file("/main.wasm", guests::exits(0)?);
    let refused = restored(&wasm.write()?);
    ensure!(code(&refused) == Some(Code::UNIMPLEMENTED), "{refused:?}");
    ensure!(code(&tasks.state("wasm")) == Some(Code::NOT_FOUND));
    let linux = fake.bundle("linux").file("/hello", native::program()?);
    let linux = linux.args(["/hello"]).edit(|spec| {
        spec["linux"]["cgroupsPath"] = "/fake-restored".into();
    });
    restored(&linux.write()?)?;
    let refused = message(tasks.start("linux"));
    ensure!(refused.contains("restore"), "{refused}");
    tasks.delete("linux")?;
    // With the shim of Linux containers, whose socket nobody else would remove.
    tasks.shutdown("restores")?;
    fake.shims_end()
}
