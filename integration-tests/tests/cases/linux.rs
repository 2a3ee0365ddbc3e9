//! An image whose program is one for Linux, run with our runtime: as runc runs it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::image::Image;
use integration_tests::native;
use integration_tests::poll;
use integration_tests::processes::Process;
use rustix::process::Signal;

cases![
    a_linux_program_runs_as_with_runc,
    a_linux_program_reads_its_input,
    a_command_is_executed_in_a_linux_container,
    a_linux_container_is_killed_and_deleted,
    a_linux_program_that_cannot_run_fails_in_the_words_of_runc,
    a_linux_container_ends_with_the_shim_it_is_in,
    a_linux_container_ends_with_our_shim,
];

fn image(containerd: &Containerd) -> Result<Image> {
    let image = native::image()?.renamed("linux:1");
    containerd.import(&image)?;
    Ok(image)
}

/// The shims of Linux containers that work for this containerd.
fn children(containerd: &Containerd) -> Vec<Process> {
    let mut shims = containerd.shims();
    shims.retain(|shim| {
        shim.command.contains("containerd-shim-runc-v2") && shim.command.contains("-wasi")
    });
    shims
}

fn child_of(containerd: &Containerd, id: &str) -> Result<Process> {
    let name = format!("-id {id}-wasi");
    let mut children = children(containerd).into_iter();
    children
        .find(|child| child.command.contains(&name))
        .with_context(|| format!("no shim with {name}"))
}

fn is_gone(process: &Process) -> Result<()> {
    poll::until(
        "the process is gone",
        Duration::from_secs(10),
        || match Process::look(process.pid) {
            Some(now) if now.command == process.command => Err(now.command),
            Some(_) | None => Ok(()),
        },
    )
}

fn a_linux_program_runs_as_with_runc(containerd: &Containerd) -> Result<()> {
    let image = image(containerd)?;
    let output = containerd.run(&image, "linux-hello").output()?.success()?;
    ensure!(output.stdout == "hello from linux\n", "{output}");
    let failing = containerd
        .run(&image, "linux-exit")
        .args(["/hello", "exit", "9"]);
    failing.output()?.exited(9)?;
    // The child publishes by itself, after it has answered.
    containerd.events().wait_for("delete", "linux-exit")?;
    let topics = containerd.events().topics_of("linux-exit");
    ensure!(
        topics == ["create", "start", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}

fn a_linux_program_reads_its_input(containerd: &Containerd) -> Result<()> {
    let image = image(containerd)?;
    let run = containerd.run(&image, "linux-cat").args(["/hello", "cat"]);
    let output = run.stdin("through\n").output()?.success()?;
    ensure!(output.stdout == "through\n", "{output}");
    Ok(())
}

fn a_command_is_executed_in_a_linux_container(containerd: &Containerd) -> Result<()> {
    let image = image(containerd)?;
    let task = containerd
        .run(&image, "linux-exec")
        .args(["/hello", "block"])
        .start()?;
    task.exec("probe", ["/hello", "exit", "5"])?.exited(5)?;
    let output = task.exec("greet", ["/hello"])?.success()?;
    ensure!(output.stdout.contains("hello from linux"), "{output}");
    task.end()?;
    Ok(())
}

fn a_linux_container_is_killed_and_deleted(containerd: &Containerd) -> Result<()> {
    let image = image(containerd)?;
    let task = containerd
        .run(&image, "linux-kill")
        .args(["/hello", "block"])
        .start()?;
    let child = child_of(containerd, "linux-kill")?;
    task.pause()?;
    task.reaches("PAUSED")?;
    task.resume()?;
    task.kill("SIGKILL")?;
    let exit = task.wait()?;
    ensure!(exit.exit_status() == 137, "{exit:?}");
    task.delete()?;
    is_gone(&child)?;
    task.remove()
}

fn a_linux_program_that_cannot_run_fails_in_the_words_of_runc(
    containerd: &Containerd,
) -> Result<()> {
    let image = Image::new("linux-script:1")
        .platform("linux", "amd64")
        .executable("/app", b"#!/no/such/shell\n")
        .entrypoint(["/app"]);
    containerd.import(&image)?;
    let output = containerd.run(&image, "linux-script").output()?;
    ensure!(output.status != 0, "{output}");
    ensure!(
        output.stderr.contains("no such file or directory"),
        "{output}"
    );
    poll::until(
        "no shim is left",
        Duration::from_secs(10),
        || match child_of(containerd, "linux-script") {
            Ok(child) => Err(child.command),
            Err(_) => Ok(()),
        },
    )
}

fn a_linux_container_ends_with_the_shim_it_is_in(containerd: &Containerd) -> Result<()> {
    let image = image(containerd)?;
    let task = containerd
        .run(&image, "linux-orphan")
        .args(["/hello", "block"])
        .start()?;
    let program = Process::look(task.pid()?).context("the program")?;
    child_of(containerd, "linux-orphan")?.signal(Signal::KILL);
    let exit = task.wait()?;
    ensure!(exit.exit_status() == 137, "{exit:?}");
    is_gone(&program)?;
    task.delete()?;
    task.remove()
}

fn a_linux_container_ends_with_our_shim(containerd: &Containerd) -> Result<()> {
    let image = image(containerd)?;
    let task = containerd
        .run(&image, "linux-shimless")
        .args(["/hello", "block"])
        .start()?;
    let program = Process::look(task.pid()?).context("the program")?;
    let child = child_of(containerd, "linux-shimless")?;
    let record = std::fs::read_to_string(containerd.bundle("linux-shimless").join("shim.json"))?;
    let record: serde_json::Value = serde_json::from_str(&record)?;
    let pid = record["pid"].as_i64().context("the shim's pid")?;
    let shim = Process::look(i32::try_from(pid)?).context("the shim")?;
    shim.signal(Signal::KILL);
    is_gone(&program)?;
    is_gone(&child)?;
    task.remove()
}
