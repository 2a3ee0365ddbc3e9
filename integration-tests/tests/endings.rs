//! How shims end, and what outlives them: `delete` beside a shim in every state, signals, failed starts.
//!
//! Root and the built binary are all that is needed. Each test has its own fake, and with it its own sockets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::events::task::TaskExit;
use integration_tests::bundle::Bundle;
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::{Api, Tasks};
use integration_tests::{guests, poll};
use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};

const KILL: u32 = 9;
/// What containerd gives `delete`, without the time that a busy machine takes to run it.
const DELETE: Duration = Duration::from_millis(4500);

#[test]
fn delete_after_a_normal_delete_leaves_the_shim_to_its_other_containers() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (first, second) = (member(&fake, "first")?, member(&fake, "second")?);
    let address = fake.start(&first, Dialect::Options)?.address;
    let tasks = Tasks::connect(&address, Api::V2)?;
    run(&tasks, &first)?;
    ensure!(fake.start(&second, Dialect::Options)?.address == address);
    run(&tasks, &second)?;

    tasks.kill(first.id(), KILL)?;
    tasks.wait(first.id())?;
    let answer = fake.forget(&tasks, &first)?;
    ensure!(answer.exit_status == 137, "{answer:?}");
    ensure!(tasks.state(second.id())?.status.enum_value() == Ok(Status::RUNNING));

    tasks.kill(second.id(), KILL)?;
    tasks.wait(second.id())?;
    fake.forget(&tasks, &second)?;
    fake.shims_end()
}

#[test]
fn delete_ends_one_container_of_a_shim_that_serves_another() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (first, second) = (member(&fake, "lost")?, member(&fake, "kept")?);
    let tasks = fake.serve(&first)?;
    let pid = run(&tasks, &first)?;
    fake.start(&second, Dialect::Bootstrap)?;
    run(&tasks, &second)?;
    let answer = fake.delete(&first)?;
    ensure!((answer.pid, answer.exit_status) == (pid, 137), "{answer:?}");
    ensure!(tasks.state(first.id()).is_err(), "it is still there");
    ensure!(tasks.state(second.id())?.status.enum_value() == Ok(Status::RUNNING));
    Ok(())
}

#[test]
fn delete_lets_a_shim_send_its_last_events() -> Result<()> {
    let fake = FakeContainerd::new()?;
    fake.receiver.hang(1);
    let bundle = bundle(&fake, "draining", guests::exits(0)?)?;
    let endpoint = fake.start(&bundle, Dialect::Bootstrap)?;
    let tasks = Tasks::connect(&endpoint.address, Api::V3)?;
    run(&tasks, &bundle)?;
    tasks.wait(bundle.id())?;
    tasks.delete(bundle.id())?;
    tasks.shutdown(bundle.id())?;
    poll::until("the socket is withdrawn", Duration::from_secs(5), || {
        gone(&endpoint.address)
    })?;
    std::thread::scope(|scope| {
        let delete = scope.spawn(|| fake.delete(&bundle));
        let running = poll::until("delete runs", Duration::from_secs(5), || {
            let shims = fake.shims();
            let runs = shims.iter().any(|shim| shim.command.ends_with(" delete"));
            runs.then_some(()).ok_or_else(|| format!("{shims:?}"))
        });
        fake.receiver.release();
        running?;
        delete.join().ok().context("delete panicked")?
    })?;
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics == ["create", "start", "exit", "delete"],
        "{topics:?}"
    );
    fake.shims_end()
}

#[test]
fn delete_of_a_shim_that_hangs_kills_it_in_time() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "hanging", guests::spins()?)?;
    let endpoint = fake.start(&bundle, Dialect::Bootstrap)?;
    run(&Tasks::connect(&endpoint.address, Api::V3)?, &bundle)?;
    fake.shim()?.signal(Signal::STOP);
    let begun = Instant::now();
    let answer = fake.delete(&bundle)?;
    ensure!(begun.elapsed() < DELETE, "{:?}", begun.elapsed());
    ensure!(answer.exit_status == 137, "{answer:?}");
    ensure!(fake.shims().is_empty(), "{:?}", fake.shims());
    ensure!(gone(&endpoint.address).is_ok(), "the socket is still there");
    Ok(())
}

#[test]
fn a_terminated_shim_ends_its_containers_in_order() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "terminated", guests::spins()?)?;
    let endpoint = fake.start(&bundle, Dialect::Bootstrap)?;
    let tasks = Tasks::connect(&endpoint.address, Api::V3)?;
    let pid = run(&tasks, &bundle)?;
    let shim = fake.shim()?;
    let begun = Instant::now();
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| tasks.wait(bundle.id()));
        // It has most likely read the Wait when it has answered this.
        let state = tasks.state(bundle.id());
        shim.signal(Signal::TERM);
        state.map(|_| waiting.join())
    })?;
    match waited.ok().context("the waiting thread panicked")? {
        Ok(waited) => ensure!(waited.exit_status == 137, "{waited:?}"),
        // The Wait came too late.
        Err(error) => ensure!(!matches!(error, ttrpc::Error::RpcStatus(_)), "{error}"),
    }
    fake.shims_end()?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_millis(2500), "its end took {took:?}");
    let exit: TaskExit = fake.receiver.wait_for("exit")?.decode()?;
    ensure!((exit.pid, exit.exit_status) == (pid, 137), "{exit:?}");
    ensure!(bundle.path().join("exit.json").exists(), "no exit.json");
    ensure!(gone(&endpoint.address).is_ok(), "the socket is still there");
    Ok(())
}

/// Who takes the pid of a task for a process of its own signals the shim.
#[test]
fn a_signal_to_a_containers_thread_ends_no_shim() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "signalled", guests::spins()?)?;
    let tasks = fake.serve(&bundle)?;
    let pid = run(&tasks, &bundle)?;
    let thread = Pid::from_raw(i32::try_from(pid)?).context("no pid")?;
    for signal in [
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
    ] {
        kill_process(thread, signal)?;
        let state = tasks.state(bundle.id())?;
        ensure!(
            state.status.enum_value() == Ok(Status::RUNNING),
            "{signal:?}: {state:?}"
        );
    }
    tasks.kill(bundle.id(), KILL)?;
    ensure!(tasks.wait(bundle.id())?.exit_status == 137);
    fake.forget(&tasks, &bundle)?;
    fake.shims_end()
}

#[test]
fn a_start_that_cannot_succeed_leaves_nothing() -> Result<()> {
    let mut fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "refused", guests::exits(0)?)?;
    // Where its socket would be.
    let address = fake.start(&bundle, Dialect::Bootstrap)?.address;
    fake.shim()?.signal(Signal::TERM);
    fake.shims_end()?;
    gone(&address).map_err(anyhow::Error::msg)?;

    for (name, value, message) in [
        ("TTRPC_ADDRESS", "", "TTRPC_ADDRESS is not set"),
        (
            "CONTAINERD_SHIM_WASI_CACHE_LIMIT",
            "4G",
            "is no number of bytes",
        ),
    ] {
        fake.environment.push((name.to_owned(), value.to_owned()));
        fails(&fake, &bundle, message, &address)?;
        fake.environment.pop();
    }
    // What comes after the fork: the record cannot be written, then the address.
    for name in [".shim.json", "address"] {
        let file = bundle.path().join(name);
        std::fs::remove_file(&file).ok();
        std::fs::create_dir(&file).context("put a folder in the way")?;
        fails(&fake, &bundle, "cannot write the", &address)?;
        std::fs::remove_dir(&file).context("remove the folder")?;
    }
    fake.start(&bundle, Dialect::Bootstrap).map(drop)
}

/// Often, and on busy processors, because the signal has to come before the daemon listens for it.
#[test]
fn a_shim_that_is_terminated_at_once_leaves_no_socket() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "early", guests::exits(0)?)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let early = (0..30).try_for_each(|_| {
            let address = fake.start(&bundle, Dialect::Options)?.address;
            fake.shim()?.signal(Signal::TERM);
            fake.shims_end()?;
            gone(&address).map_err(anyhow::Error::msg)
        });
        done.store(true, Relaxed);
        early
    })
}

#[test]
fn the_kernel_prefers_the_shim_to_containerd() -> Result<()> {
    let score = |pid: &str| -> Result<i32> {
        let file = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
        Ok(std::fs::read_to_string(file)?.trim().parse()?)
    };
    let fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "score", guests::spins()?)?;
    run(&fake.serve(&bundle)?, &bundle)?;
    let (shim, own) = (score(&fake.shim()?.pid.to_string())?, score("self")?);
    ensure!(shim == (own + 1).min(1000), "{shim}, beside {own}");
    Ok(())
}

/// Where the kernel has no such thing, that is an error, as it is with runc's shim.
#[test]
fn no_stranger_is_beside_a_shim_where_containerd_asks_for_that() -> Result<()> {
    let mut fake = FakeContainerd::new()?;
    let bundle = bundle(&fake, "alone", guests::spins()?)?;
    let cookie = |process| core_scheduling_cookie(process, CoreSchedulingScope::Thread);
    fake.environment.push(("SCHED_CORE".into(), "1".into()));
    let Ok(own) = cookie(getpid()) else {
        let address = fake.folder().join("nowhere").display().to_string();
        return fails(&fake, &bundle, "SCHED_CORE", &address);
    };
    let pid = run(&fake.serve(&bundle)?, &bundle)?;
    let pid = Pid::from_raw(pid.cast_signed()).context("a pid")?;
    let guest = cookie(pid)?;
    ensure!(guest != 0 && guest != own, "{guest}, beside {own}");
    Ok(())
}

#[test]
fn a_shim_waits_for_the_container_that_a_start_promised_it_to() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (first, second) = (member(&fake, "last")?, member(&fake, "next")?);
    let tasks = fake.serve(&first)?;
    run(&tasks, &first)?;
    tasks.kill(first.id(), KILL)?;
    tasks.wait(first.id())?;
    let address = fake.start(&second, Dialect::Options)?.address;
    fake.forget(&tasks, &first)?;
    let tasks = Tasks::connect(&address, Api::V2)?;
    run(&tasks, &second)?;
    tasks.kill(second.id(), KILL)?;
    tasks.wait(second.id())?;
    fake.forget(&tasks, &second)?;
    fake.shims_end()
}

/// Demands that `start` fails with this message and leaves neither a socket nor a process.
fn fails(fake: &FakeContainerd, bundle: &Bundle, message: &str, address: &str) -> Result<()> {
    let Err(error) = fake.start(bundle, Dialect::Bootstrap) else {
        anyhow::bail!("start succeeds in spite of: {message}");
    };
    let error = format!("{error:#}");
    ensure!(error.contains(message), "{error}");
    ensure!(gone(address).is_ok(), "a socket after: {error}");
    ensure!(fake.shims().is_empty(), "{:?} after: {error}", fake.shims());
    Ok(())
}

/// A bundle of the one group of these tests, whose guest runs until it is killed.
fn member(fake: &FakeContainerd, id: &str) -> Result<Bundle> {
    fake.bundle(id)
        .annotation("io.containerd.runc.v2.group", "together")
        .file("/main.wasm", guests::spins()?)
        .write()
}

fn bundle(fake: &FakeContainerd, id: &str, module: Vec<u8>) -> Result<Bundle> {
    fake.bundle(id).file("/main.wasm", module).write()
}

/// Creates and starts, and returns the pid.
fn run(tasks: &Tasks, bundle: &Bundle) -> Result<u32> {
    let pid = tasks.create(bundle)?.pid;
    tasks.start(bundle.id())?;
    Ok(pid)
}

fn gone(address: &str) -> poll::Look<()> {
    let socket = Path::new(address.trim_start_matches("unix://"));
    if socket.exists() {
        Err(format!("{} exists", socket.display()))
    } else {
        Ok(())
    }
}
