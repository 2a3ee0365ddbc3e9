//! `docker run` in the foreground: what a container is given, and what comes of it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use integration_tests::docker::Docker;
use integration_tests::terminal::Session;

use crate::{IMAGE, LINUX};

cases![
    output_and_exit_code_arrive,
    an_image_for_linux_runs,
    a_runtime_of_the_configuration_runs,
    arguments_environment_and_directory_are_given,
    a_bind_mount_is_the_users,
    a_read_only_root_is,
    stdin_reaches_the_container_and_ends,
    a_terminal_is_one,
    memory_ends_at_the_limit,
    a_missing_program_is_127,
    what_is_no_program_says_so,
];

fn output_and_exit_code_arrive(docker: &Docker) -> Result<()> {
    let output = docker.run(["--rm", IMAGE]).success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    let run = docker.run(["--rm", "--entrypoint", "/exit.wasm", IMAGE, "42"]);
    run.output()?.exited(42)?;
    Ok(())
}

fn an_image_for_linux_runs(docker: &Docker) -> Result<()> {
    let flags = ["run", "--rm", "--runtime", integration_tests::WASI, LINUX];
    let output = docker.docker(flags).success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn a_runtime_of_the_configuration_runs(docker: &Docker) -> Result<()> {
    let flags = ["run", "--rm", "--runtime", "wasi", LINUX];
    let output = docker.docker(flags).success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn arguments_environment_and_directory_are_given(docker: &Docker) -> Result<()> {
    let flags = ["--rm", "--env", "COLOR=red", "--workdir", "/srv"];
    let run = docker.run(flags).args(["--hostname", "box"]);
    let output = run
        .args(["--entrypoint", "/env.wasm", IMAGE, "one", "two words"])
        .success()?;
    for line in [
        "arg: one",
        "arg: two words",
        "env: COLOR=red",
        "env: HOSTNAME=box",
        "env: PWD=/srv",
    ] {
        ensure!(
            output.stdout.lines().any(|has| has == line),
            "{line}: {output}"
        );
    }
    Ok(())
}

fn a_bind_mount_is_the_users(docker: &Docker) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
    let volume = format!("{}:/data", folder.path().display());
    let flags = ["--rm", "--user", "1000:1001", "--volume", &volume];
    let files = ["--entrypoint", "/files.wasm", IMAGE];
    let write = ["write", "/data/new", "text"];
    docker.run(flags).args(files).args(write).success()?;
    let file = folder.path().join("new");
    let about = file.metadata().context("look at what was written")?;
    ensure!((about.uid(), about.gid()) == (1000, 1001), "{about:?}");
    ensure!(std::fs::read(&file)? == b"text");

    let volume = format!("{volume}:ro");
    let run = docker.run(["--rm", "--volume", &volume]).args(files);
    let output = run.args(write).output()?.exited(1)?;
    ensure!(output.stderr.contains("ReadOnlyFilesystem"), "{output}");
    Ok(())
}

fn a_read_only_root_is(docker: &Docker) -> Result<()> {
    let files = [
        "--entrypoint",
        "/files.wasm",
        IMAGE,
        "write",
        "/new",
        "text",
    ];
    docker.run(["--rm"]).args(files).success()?;
    let run = docker.run(["--rm", "--read-only"]).args(files);
    let output = run.output()?.exited(1)?;
    ensure!(output.stderr.contains("ReadOnlyFilesystem"), "{output}");
    Ok(())
}

fn stdin_reaches_the_container_and_ends(docker: &Docker) -> Result<()> {
    let text = "line\n".repeat(20_000);
    let run = docker.run(["--rm", "--interactive", "--entrypoint", "/cat.wasm", IMAGE]);
    let output = run.stdin(text.clone()).success()?;
    ensure!(output.stdout == text, "{} bytes", output.stdout.len());
    Ok(())
}

fn a_terminal_is_one(docker: &Docker) -> Result<()> {
    let flags = ["--rm", "--interactive", "--tty", "--entrypoint"];
    let shown = Session::start(docker.run(flags).args(["/tty.wasm", IMAGE]))?.ends_with(0)?;
    for stream in ["stdin true", "stdout true", "stderr true"] {
        ensure!(shown.contains(stream), "{shown:?}");
    }
    let mut session = Session::start(docker.run(flags).args(["/sleep.wasm", IMAGE]))?;
    session.shows("sleeping")?;
    session.types(b"\x03")?;
    session.ends_with(130)?;
    Ok(())
}

fn memory_ends_at_the_limit(docker: &Docker) -> Result<()> {
    let flags = ["--name", "grows", "--memory", "16m", "--entrypoint"];
    let run = docker.run(flags).args(["/grows.wasm", IMAGE]);
    run.output()?.exited(137)?;
    let state = docker.inspect("grows", "{{.State.OOMKilled}} {{.State.ExitCode}}")?;
    ensure!(state == "true 137", "{state}");
    docker.docker(["rm", "grows"]).success()?;
    Ok(())
}

fn a_missing_program_is_127(docker: &Docker) -> Result<()> {
    for (program, reason) in [
        ("/nothing", "no such file or directory"),
        ("nothing", "executable file not found in $PATH"),
    ] {
        let run = docker.run(["--rm", "--entrypoint", program, IMAGE]);
        let output = run.output()?.exited(127)?;
        ensure!(output.stderr.contains(reason), "{output}");
    }
    Ok(())
}

fn what_is_no_program_says_so(docker: &Docker) -> Result<()> {
    // Both in runc's words: the first is a Linux program for all that one can see, and may not be executed.
    for program in ["/text", "/etc"] {
        let run = docker.run(["--rm", "--entrypoint", program, IMAGE]);
        let output = run.output()?.exited(126)?;
        ensure!(output.stderr.contains("permission denied"), "{output}");
    }
    Ok(())
}
