//! A container that runs on its own: looked at, stopped, started again, and outliving its daemon.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration_tests::docker::Docker;
use integration_tests::poll;

use crate::IMAGE;

cases![
    what_it_writes_is_logged,
    a_stop_is_graceful_and_a_start_works_again,
    a_kill_is_137,
    a_restart_has_another_pid,
    it_is_paused,
    a_paused_container_is_removed,
    its_numbers_are_plausible,
    it_is_updated,
    a_policy_starts_it_again,
    files_are_copied,
    top_shows_no_process,
    it_outlives_its_daemon,
];

/// Starts a container that sleeps for an hour, and has said so.
pub(crate) fn sleeper<'a>(
    docker: &Docker,
    name: &'a str,
    flags: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let run = docker.run(["--detach", "--name", name]).args(flags);
    run.args(["--entrypoint", "/sleep.wasm", IMAGE]).success()?;
    logs(docker, name, "sleeping\n")
}

/// Waits until that is all it has written.
fn logs(docker: &Docker, name: &str, text: &str) -> Result<()> {
    let logged = format!("{name} has written {text:?}");
    poll::until(&logged, Duration::from_secs(30), || {
        match docker.docker(["logs", name]).success() {
            Ok(output) if output.stdout == text => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

fn state(docker: &Docker, name: &str, expected: &str) -> Result<()> {
    let state = docker.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")?;
    ensure!(state == expected, "{name}: {state}, not {expected}");
    Ok(())
}

fn remove(docker: &Docker, name: &str) -> Result<()> {
    docker.docker(["rm", "--force", name]).success()?;
    Ok(())
}

fn what_it_writes_is_logged(docker: &Docker) -> Result<()> {
    sleeper(docker, "logged", [])?;
    remove(docker, "logged")
}

fn a_stop_is_graceful_and_a_start_works_again(docker: &Docker) -> Result<()> {
    sleeper(docker, "stopped", [])?;
    // 143 and not 137: it was SIGTERM that ended it, not the SIGKILL after the timeout.
    docker.docker(["stop", "stopped"]).success()?;
    state(docker, "stopped", "exited 143")?;
    docker.docker(["start", "stopped"]).success()?;
    logs(docker, "stopped", "sleeping\nsleeping\n")?;
    remove(docker, "stopped")
}

fn a_kill_is_137(docker: &Docker) -> Result<()> {
    sleeper(docker, "killed", [])?;
    docker.docker(["kill", "killed"]).success()?;
    docker.docker(["wait", "killed"]).success()?;
    state(docker, "killed", "exited 137")?;
    remove(docker, "killed")
}

fn a_restart_has_another_pid(docker: &Docker) -> Result<()> {
    sleeper(docker, "restarted", [])?;
    let first = docker.inspect("restarted", "{{.State.Pid}}")?;
    docker.docker(["restart", "restarted"]).success()?;
    logs(docker, "restarted", "sleeping\nsleeping\n")?;
    let second = docker.inspect("restarted", "{{.State.Pid}}")?;
    ensure!(first != second && second != "0", "{first}, then {second}");
    remove(docker, "restarted")
}

fn it_is_paused(docker: &Docker) -> Result<()> {
    sleeper(docker, "paused", [])?;
    docker.docker(["pause", "paused"]).success()?;
    state(docker, "paused", "paused 0")?;
    docker.docker(["unpause", "paused"]).success()?;
    state(docker, "paused", "running 0")?;
    remove(docker, "paused")
}

fn a_paused_container_is_removed(docker: &Docker) -> Result<()> {
    sleeper(docker, "paused-removed", [])?;
    docker.docker(["pause", "paused-removed"]).success()?;
    remove(docker, "paused-removed")
}

fn its_numbers_are_plausible(docker: &Docker) -> Result<()> {
    let flags = ["--detach", "--name", "numbers", "--memory", "64m"];
    let run = docker.run(flags).args(["--cpus", "0.5", "--entrypoint"]);
    run.args(["/spin.wasm", IMAGE]).success()?;
    let stats = docker.docker(["stats", "--no-stream", "--format"]);
    let output = stats
        .args(["{{.CPUPerc}} {{.MemUsage}}", "numbers"])
        .success()?;
    let (cpu, memory) = output.stdout.trim().split_once("% ").unwrap_or_default();
    // It wants a core and may have half of one; how much of it it gets is the machine's business.
    let cpu: f64 = cpu.parse()?;
    ensure!(0.0 < cpu && cpu < 75.0, "{output}");
    ensure!(
        memory.ends_with(" / 64MiB") && !memory.starts_with("0B"),
        "{output}"
    );
    remove(docker, "numbers")
}

fn it_is_updated(docker: &Docker) -> Result<()> {
    sleeper(docker, "updated", ["--memory", "64m"])?;
    let update = docker.docker(["update", "--memory", "256m", "--memory-swap", "-1"]);
    update.args(["--cpus", "0.5", "updated"]).success()?;
    let stats = docker.docker(["stats", "--no-stream", "--format", "{{.MemUsage}}"]);
    let output = stats.arg("updated").success()?;
    ensure!(output.stdout.contains("/ 256MiB"), "{output}");
    remove(docker, "updated")
}

fn a_policy_starts_it_again(docker: &Docker) -> Result<()> {
    let flags = ["--detach", "--name", "again", "--restart", "on-failure:2"];
    let run = docker.run(flags);
    run.args(["--entrypoint", "/exit.wasm", IMAGE, "3"])
        .success()?;
    poll::until(
        "it was started three times",
        Duration::from_secs(30),
        || match docker.inspect(
            "again",
            "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}",
        ) {
            Ok(state) if state == "2 exited 3" => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )?;
    remove(docker, "again")
}

fn files_are_copied(docker: &Docker) -> Result<()> {
    sleeper(docker, "copied", [])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("text");
    let path = file.display().to_string();
    docker.docker(["cp", "copied:/text", &path]).success()?;
    ensure!(std::fs::read(&file)? == b"no program\n");
    std::fs::write(&file, "from outside\n")?;
    docker.docker(["cp", &path, "copied:/new"]).success()?;
    let exec = docker.docker(["exec", "copied", "/files.wasm", "read", "/new"]);
    let output = exec.success()?;
    ensure!(output.stdout == "from outside\n", "{output}");
    remove(docker, "copied")
}

/// A container is a thread, and `ps` is asked for processes.
fn top_shows_no_process(docker: &Docker) -> Result<()> {
    sleeper(docker, "top", [])?;
    let output = docker.docker(["top", "top"]).success()?;
    ensure!(output.stdout.lines().count() == 1, "{output}");
    remove(docker, "top")
}

/// On a daemon of its own: the other cases need theirs.
fn it_outlives_its_daemon(docker: &Docker) -> Result<()> {
    let docker = crate::start(docker.release())?;
    sleeper(&docker, "outlives", [])?;
    let pid = docker.inspect("outlives", "{{.State.Pid}}")?;
    docker.restart()?;
    let after = docker.inspect("outlives", "{{.State.Status}} {{.State.Pid}}")?;
    ensure!(after == format!("running {pid}"), "{after}, and was {pid}");
    let exec = docker.docker(["exec", "outlives", "/hello.wasm"]);
    ensure!(exec.success()?.stdout == "hello from wasi\n");
    docker.docker(["stop", "outlives"]).success()?;
    state(&docker, "outlives", "exited 143")?;
    remove(&docker, "outlives")?;
    docker.stop()
}
