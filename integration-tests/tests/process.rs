//! The built shim as a process, under a containerd that is only its edge: bootstrap, services, deaths.
//!
//! Root and the built binary are all that is needed. Each test has its own fake, and with it its own sockets.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::events::task::TaskExit;
use integration_tests::bundle::Bundle;
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::{Api, Tasks, code};
use integration_tests::{guests, poll};
use ttrpc::Code;

const KILL: u32 = 9;

#[test]
fn start_answers_in_the_dialect_it_was_asked_in() -> Result<()> {
    let fake = FakeContainerd::new()?;
    for dialect in Dialect::ALL {
        let bundle = bundle(
            &fake,
            &format!("{dialect:?}").to_lowercase(),
            guests::exits(0)?,
        )?;
        let endpoint = fake.start(&bundle, dialect)?;
        let expected = if dialect == Dialect::Bootstrap {
            (3, true)
        } else {
            (2, false)
        };
        ensure!(
            (endpoint.version, endpoint.as_protobuf) == expected,
            "{dialect:?}: {endpoint:?}"
        );
        Tasks::connect(&endpoint.address, Api::V2)?;
    }
    Ok(())
}

#[test]
fn start_writes_the_address_file() -> Result<()> {
    let fake = FakeContainerd::new()?;
    for dialect in Dialect::ALL {
        let bundle = bundle(
            &fake,
            &format!("{dialect:?}").to_lowercase(),
            guests::exits(0)?,
        )?;
        let endpoint = fake.start(&bundle, dialect)?;
        ensure!(
            bundle.address()? == endpoint.address,
            "{:?} and {endpoint:?}",
            bundle.address()?
        );
    }
    Ok(())
}

#[test]
fn a_second_start_in_a_group_answers_the_same_address() -> Result<()> {
    let fake = FakeContainerd::new()?;
    for annotation in [
        "io.kubernetes.cri.sandbox-id",
        "io.containerd.runc.v2.group",
    ] {
        let group = annotation.rsplit(['.', '/']).next().unwrap_or_default();
        let member = |id: &str| {
            fake.bundle(&format!("{group}-{id}"))
                .annotation(annotation, group)
                .write()
        };
        let (first, second) = (member("first")?, member("second")?);
        let address = fake.start(&first, Dialect::Options)?.address;
        ensure!(
            fake.start(&second, Dialect::Options)?.address == address,
            "two shims in one {group}"
        );
        ensure!(
            second.address()? == address,
            "the second bundle has no address of it"
        );
    }
    let other = fake.bundle("other").write()?;
    let alone = fake.start(&other, Dialect::Options)?.address;
    ensure!(
        alone
            != fake
                .bundle("third")
                .write()
                .and_then(|third| fake.start(&third, Dialect::Options))?
                .address
    );
    Ok(())
}

#[test]
fn both_task_services_run_a_container() -> Result<()> {
    let fake = FakeContainerd::new()?;
    for api in Api::ALL {
        let bundle = bundle(&fake, &format!("{api:?}").to_lowercase(), guests::exits(7)?)?;
        let tasks = Tasks::connect(&fake.start(&bundle, Dialect::Options)?.address, api)?;
        let pid = tasks.create(&bundle)?.pid;
        ensure!(pid != 0, "pid 0 at Create");
        ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::CREATED));
        ensure!(tasks.start(bundle.id())?.pid == pid);
        ensure!(tasks.wait(bundle.id())?.exit_status == 7);
        ensure!(tasks.delete(bundle.id())?.exit_status == 7);
        ensure!(code(&tasks.state(bundle.id())) == Some(Code::NOT_FOUND));
    }
    Ok(())
}

#[test]
fn an_unknown_container_is_not_found() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "known", guests::exits(0)?)?;
    let address = fake.start(&bundle, Dialect::Options)?.address;
    for api in Api::ALL {
        let tasks = Tasks::connect(&address, api)?;
        let answers = [
            code(&tasks.start("unknown")),
            code(&tasks.state("unknown")),
            code(&tasks.kill("unknown", KILL)),
            code(&tasks.wait("unknown")),
            code(&tasks.delete("unknown")),
            code(&tasks.pids("unknown")),
        ];
        ensure!(
            answers == [Some(Code::NOT_FOUND); 6],
            "{api:?}: {answers:?}"
        );
        // An error here would send containerd down the path for dead shims.
        ensure!(tasks.connect_task("unknown")?.task_pid == 0);
    }
    Ok(())
}

#[test]
fn events_are_forwarded_in_order() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "ordered", guests::exits(3)?)?;
    run_to_the_end(&fake.serve(&bundle)?, &bundle)?;
    let exit: TaskExit = fake.receiver.wait_for("exit")?.decode()?;
    ensure!(
        (
            exit.container_id.as_str(),
            exit.id.as_str(),
            exit.exit_status
        ) == ("ordered", "ordered", 3),
        "{exit:?}"
    );
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics == ["create", "start", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}

#[test]
fn events_outlast_a_containerd_that_refuses_them() -> Result<()> {
    let fake = FakeContainerd::new()?;
    fake.receiver.refuse(2);
    let bundle = bundle(&fake, "refused", guests::exits(0)?)?;
    run_to_the_end(&fake.serve(&bundle)?, &bundle)?;
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics == ["create", "start", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}

#[test]
fn events_outlast_a_containerd_that_is_restarted() -> Result<()> {
    let mut fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "restarted", guests::exits(0)?)?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    fake.receiver.wait_for("create")?;
    fake.receiver.stop();
    tasks.start(bundle.id())?;
    tasks.wait(bundle.id())?;
    fake.receiver.resume()?;
    fake.receiver.wait_for("exit")?;
    let topics = fake.receiver.topics();
    ensure!(topics == ["create", "start", "exit"], "{topics:?}");
    Ok(())
}

#[test]
fn an_event_that_hangs_does_not_hold_up_the_task() -> Result<()> {
    let fake = FakeContainerd::new()?;
    fake.receiver.hang(1);
    let bundle = bundle(&fake, "hung", guests::exits(0)?)?;
    run_to_the_end(&fake.serve(&bundle)?, &bundle)?;
    fake.receiver.release();
    fake.receiver.wait_for("delete")?;
    Ok(())
}

#[test]
fn delete_after_sigkill_answers_137_and_leaves_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "killed", guests::spins()?)?;
    let endpoint = fake.start(&bundle, Dialect::Bootstrap)?;
    let tasks = Tasks::connect(&endpoint.address, Api::V3)?;
    let pid = tasks.create(&bundle)?.pid;
    tasks.start(bundle.id())?;
    fake.kill_shims()?;
    for attempt in ["first", "second"] {
        let answer = fake.delete(&bundle)?;
        ensure!(answer.exit_status == 137, "{attempt}: {answer:?}");
        ensure!(answer.exited_at.is_some(), "{attempt}: {answer:?}");
        ensure!(answer.pid == pid, "{attempt}: {answer:?}");
    }
    ensure!(bundle.mounts().is_empty(), "{:?}", bundle.mounts());
    ensure!(fake.shims().is_empty(), "{:?}", fake.shims());
    ensure!(
        !socket(&endpoint.address).exists(),
        "{} is still there",
        endpoint.address
    );
    Ok(())
}

#[test]
fn shutdown_ends_the_shim_and_removes_its_socket() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "done", guests::exits(0)?)?;
    let endpoint = fake.start(&bundle, Dialect::Bootstrap)?;
    let tasks = Tasks::connect(&endpoint.address, Api::V3)?;
    run_to_the_end(&tasks, &bundle)?;
    tasks.shutdown(bundle.id())?;
    fake.shims_end()?;
    ensure!(
        !socket(&endpoint.address).exists(),
        "{} is still there",
        endpoint.address
    );
    ensure!(bundle.mounts().is_empty(), "{:?}", bundle.mounts());
    Ok(())
}

#[test]
fn shutdown_with_a_task_left_is_no_end() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "busy", guests::spins()?)?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start(bundle.id())?;
    tasks.shutdown(bundle.id())?;
    ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::RUNNING));
    tasks.kill(bundle.id(), KILL)?;
    ensure!(tasks.wait(bundle.id())?.exit_status == 137);
    tasks.delete(bundle.id())?;
    tasks.shutdown(bundle.id())?;
    fake.shims_end()
}

#[test]
fn a_log_fifo_without_a_reader_blocks_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = fake
        .bundle("unread")
        .file("/main.wasm", guests::exits(0)?)
        .without_log_reader()
        .write()?;
    run_to_the_end(&fake.serve(&bundle)?, &bundle)
}

#[test]
fn a_log_fifo_that_loses_its_reader_blocks_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let mut bundle = bundle(&fake, "abandoned", guests::exits(0)?)?;
    let tasks = fake.serve(&bundle)?;
    bundle.abandon_log();
    run_to_the_end(&tasks, &bundle)
}

#[test]
fn a_task_that_computes_is_answered_for_at_once() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "spinning", guests::spins()?)?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start(bundle.id())?;
    let asked = Instant::now();
    for _ in 0..20 {
        ensure!(tasks.state(bundle.id())?.status.enum_value() == Ok(Status::RUNNING));
        ensure!(
            !tasks.pids(bundle.id())?.processes.is_empty(),
            "an empty list lets containerd drop the task"
        );
    }
    ensure!(
        asked.elapsed().as_millis() < 2000,
        "40 answers took {:?}",
        asked.elapsed()
    );
    tasks.kill(bundle.id(), KILL)?;
    ensure!(tasks.wait(bundle.id())?.exit_status == 137);
    ensure!(tasks.delete(bundle.id())?.exit_status == 137);
    Ok(())
}

#[test]
fn the_reported_pid_is_a_thread_in_its_own_network_namespace() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "thread", guests::spins()?)?;
    let tasks = fake.serve(&bundle)?;
    let pid = tasks.create(&bundle)?.pid;
    let namespace = |pid: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).context("read a network namespace")
    };
    ensure!(
        namespace(&pid.to_string())? != namespace("self")?,
        "{pid} is in the host's network namespace"
    );
    tasks.kill(bundle.id(), KILL)?;
    tasks.delete(bundle.id())?;
    poll::until(
        "the thread is gone",
        std::time::Duration::from_secs(5),
        || {
            namespace(&pid.to_string())
                .map_or(Ok(()), |namespace| Err(format!("{}", namespace.display())))
        },
    )
}

#[test]
fn info_and_version_need_nothing() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let info = fake.info(None)?.success()?;
    ensure!(info.stdout.contains("io.containerd.wasi.v1"), "{info}");
    let version = fake.version()?.success()?;
    ensure!(
        version.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{version}"
    );
    Ok(())
}

fn bundle(fake: &FakeContainerd, id: &str, module: Vec<u8>) -> Result<Bundle> {
    fake.bundle(id).file("/main.wasm", module).write()
}

fn run_to_the_end(tasks: &Tasks, bundle: &Bundle) -> Result<()> {
    tasks.create(bundle)?;
    tasks.start(bundle.id())?;
    tasks.wait(bundle.id())?;
    tasks.delete(bundle.id())?;
    Ok(())
}

fn socket(address: &str) -> std::path::PathBuf {
    address.trim_start_matches("unix://").into()
}
