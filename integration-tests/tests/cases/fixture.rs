//! The fixture itself, proved with runc: what fails here is no fault of the shim.

use anyhow::{Result, ensure};
use integration_tests::{RUNC, containerd::Containerd, native};

cases![
    a_native_hello_runs,
    an_exit_code_is_reported,
    stdin_reaches_the_container_and_ends,
    events_arrive_in_order,
    a_detached_task_is_killed_and_deleted,
    a_container_is_created_before_it_is_started,
    a_wasi_image_is_unpacked_for_its_platform,
    what_a_case_leaves_is_ended,
];

fn a_native_hello_runs(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    let output = containerd
        .run(&image, "native")
        .runtime(RUNC)
        .output()?
        .success()?;
    ensure!(output.stdout == "hello from linux\n", "{output}");
    Ok(())
}

fn an_exit_code_is_reported(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    containerd
        .run(&image, "seven")
        .runtime(RUNC)
        .args(["/hello", "exit", "7"])
        .output()?
        .exited(7)?;
    let exit = containerd.events().wait_for("exit", "seven")?;
    ensure!(exit.exit_status() == 7, "{exit}");
    Ok(())
}

fn stdin_reaches_the_container_and_ends(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    let text = "line\n".repeat(20_000);
    let run = containerd
        .run(&image, "cat")
        .runtime(RUNC)
        .args(["/hello", "cat"]);
    let output = run.stdin(text.clone()).output()?.success()?;
    ensure!(
        output.stdout == text,
        "{} bytes came back of {}",
        output.stdout.len(),
        text.len()
    );
    Ok(())
}

fn events_arrive_in_order(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    containerd
        .run(&image, "ordered")
        .runtime(RUNC)
        .output()?
        .success()?;
    containerd.events().wait_for("exit", "ordered")?;
    let topics = containerd.events().topics_of("ordered");
    // runc's shim may end before its last event, "delete", is sent.
    ensure!(
        topics.starts_with(&["create", "start", "exit"].map(str::to_owned)),
        "{topics:?}"
    );
    Ok(())
}

fn a_detached_task_is_killed_and_deleted(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    let task = containerd
        .run(&image, "detached")
        .runtime(RUNC)
        .args(["/hello", "block"])
        .start()?;
    let pid = task.reaches("RUNNING")?;
    let inner = task.exec("inner", ["/hello"])?.success()?;
    ensure!(inner.stdout == "hello from linux\n", "{inner}");
    ensure!(
        containerd.bundle("detached").join("config.json").is_file(),
        "the bundle is not where expected"
    );
    ensure!(
        containerd
            .shims()
            .iter()
            .any(|shim| shim.command.contains("detached")),
        "its shim is not found"
    );
    let exit = task.end()?;
    ensure!(
        (exit.pid(), exit.exit_status()) == (u64::try_from(pid)?, 137),
        "{exit}"
    );
    ensure!(
        !containerd.bundle("detached").exists(),
        "the bundle is still there"
    );
    Ok(())
}

fn a_container_is_created_before_it_is_started(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    let task = containerd.run(&image, "created").runtime(RUNC).create()?;
    ensure!(task.status()?.is_none(), "there is a task before its start");
    task.start()?;
    ensure!(task.wait()?.exit_status() == 0);
    task.writes("hello from linux")?;
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}

/// What the image is for, containerd does not care about: runc runs a Linux program out of a wasi image.
fn a_wasi_image_is_unpacked_for_its_platform(containerd: &Containerd) -> Result<()> {
    for os in ["wasi", "wasip1"] {
        let name = format!("misnamed-{os}:1");
        let image = native::image()?.renamed(&name).platform(os, "wasm");
        containerd.import(&image)?;
        let output = containerd
            .run(&image, &format!("misnamed-{os}"))
            .runtime(RUNC)
            .output()?
            .success()?;
        ensure!(output.stdout == "hello from linux\n", "{output}");
    }
    Ok(())
}

/// The check is at the end of the run: the daemon's teardown ends these, and then nothing may be left.
fn what_a_case_leaves_is_ended(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    let left = containerd
        .run(&image, "left-running")
        .runtime(RUNC)
        .args(["/hello", "block"])
        .start()?;
    left.reaches("RUNNING")?;
    let paused = containerd
        .run(&image, "left-paused")
        .runtime(RUNC)
        .args(["/hello", "block"])
        .start()?;
    paused.pause()?;
    paused.reaches("PAUSED")?;
    containerd
        .run(&image, "left-created")
        .runtime(RUNC)
        .create()?;
    Ok(())
}
