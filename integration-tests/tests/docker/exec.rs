//! `docker exec`, and what Docker itself executes.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration_tests::docker::Docker;
use integration_tests::poll;
use integration_tests::terminal::Session;

use super::life::sleeper;
use crate::{HEALTHY, IMAGE};

cases![
    output_input_and_exit_code_arrive,
    a_terminal_is_one,
    what_is_missing_has_runcs_exit_code,
    an_ended_container_takes_none,
    health_is_checked,
];

fn output_input_and_exit_code_arrive(docker: &Docker) -> Result<()> {
    sleeper(docker, "execs", [])?;
    let exec = docker.docker(["exec", "--env", "COLOR=red", "execs", "/env.wasm", "one"]);
    let output = exec.success()?;
    ensure!(output.stdout.contains("arg: one\n"), "{output}");
    ensure!(output.stdout.contains("env: COLOR=red\n"), "{output}");
    let exec = docker.docker(["exec", "--interactive", "execs", "/cat.wasm"]);
    let output = exec.stdin("text").success()?;
    ensure!(output.stdout == "text", "{output}");
    let exec = docker.docker(["exec", "execs", "/exit.wasm", "42"]);
    exec.output()?.exited(42)?;
    docker.docker(["rm", "--force", "execs"]).success()?;
    Ok(())
}

fn a_terminal_is_one(docker: &Docker) -> Result<()> {
    sleeper(docker, "exec-tty", [])?;
    let flags = ["exec", "--interactive", "--tty", "exec-tty"];
    let shown = Session::start(docker.docker(flags).arg("/tty.wasm"))?.ends_with(0)?;
    ensure!(shown.contains("stdin true"), "{shown:?}");
    docker.docker(["rm", "--force", "exec-tty"]).success()?;
    Ok(())
}

/// The codes were seen with runc, too: Docker 26 knows 126 alone.
fn what_is_missing_has_runcs_exit_code(docker: &Docker) -> Result<()> {
    sleeper(docker, "exec-missing", [])?;
    let missing = if docker.release().is_newest() {
        127
    } else {
        126
    };
    for (program, code) in [("nothing", missing), ("/nothing", missing), ("/etc", 126)] {
        let exec = docker.docker(["exec", "exec-missing", program]);
        exec.output()?.exited(code)?;
    }
    docker.docker(["rm", "--force", "exec-missing"]).success()?;
    Ok(())
}

fn an_ended_container_takes_none(docker: &Docker) -> Result<()> {
    docker.run(["--name", "exec-ended", IMAGE]).success()?;
    let output = docker
        .docker(["exec", "exec-ended", "/hello.wasm"])
        .output()?
        .exited(1)?;
    ensure!(output.stderr.contains("is not running"), "{output}");
    docker.docker(["rm", "exec-ended"]).success()?;
    Ok(())
}

fn health_is_checked(docker: &Docker) -> Result<()> {
    let flags = [
        "--detach",
        "--name",
        "healthy",
        "--entrypoint",
        "/sleep.wasm",
    ];
    docker.run(flags).arg(HEALTHY).success()?;
    poll::until("it is healthy", Duration::from_secs(30), || {
        match docker.inspect("healthy", "{{.State.Health.Status}}") {
            Ok(status) if status == "healthy" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    docker.docker(["rm", "--force", "healthy"]).success()?;
    Ok(())
}
