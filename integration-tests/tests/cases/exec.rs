//! `ctr task exec`: further programs in a container that runs.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::{Invocation, Output};
use integration_tests::run::Run;

cases![
    an_exec_has_its_own_arguments_and_directory,
    an_exec_has_its_own_user,
    an_exec_reads_its_own_stdin,
    an_exec_exits_with_its_own_status,
    the_containers_own_program_is_executed_again_and_killed_alone,
    what_cannot_be_executed_is_named,
    kill_all_ends_the_init_and_its_execs,
    the_end_of_the_init_is_told_last,
];

/// A container that sleeps, with other programs beside its own.
fn tools(containerd: &Containerd) -> Result<Image> {
    let image = Image::new("tools:1")
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("sleep")?)
        .file("/bin/env", guests::named("env")?)
        .file("/bin/exit", guests::named("exit")?)
        .file("/bin/cat", guests::named("cat")?)
        .file("/bin/cat.component", guests::named("cat.component")?)
        .file("/bin/files", guests::named("files")?)
        .file("/bin/sh", "#!/bin/true\n")
        .env(["PATH=/bin", "NAME=tools"])
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

fn run<'a>(containerd: &'a Containerd, id: &str) -> Result<Run<'a>> {
    Ok(containerd.run(&tools(containerd)?, id))
}

fn an_exec_has_its_own_arguments_and_directory(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "arguments")?.start()?;
    let exec = task.execution("env", ["--cwd", "/bin"], ["env", "one", "two words"]);
    let output = exec.success()?;
    for line in [
        "arg: env\narg: one\narg: two words\n",
        "env: NAME=tools\n",
        "env: PATH=/bin\n",
        "env: PWD=/bin\n",
    ] {
        ensure!(output.stdout.contains(line), "{line}: {output}");
    }
    task.end().map(drop)
}

fn an_exec_has_its_own_user(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    chown(folder.path(), Some(1234), Some(5678))?;
    let task = run(containerd, "users")?
        .bind(folder.path(), "/data", "rbind:rw")
        .start()?;
    let write = ["files", "write", "/data/file", "text"];
    task.execution("user", ["--user", "1234:5678"], write)
        .success()?;
    let made = fs::metadata(folder.path().join("file"))?;
    ensure!((made.uid(), made.gid()) == (1234, 5678), "{made:?}");
    // Not what the init may: it is root, and the root directory root's.
    let refused = task.execution(
        "stranger",
        ["--user", "1234:5678"],
        ["files", "write", "/file", "text"],
    );
    let refused = refused.output()?.exited(1)?;
    ensure!(refused.stderr.contains("PermissionDenied"), "{refused}");
    task.exec("root", ["files", "write", "/file", "text"])?
        .success()?;
    task.end().map(drop)
}

fn an_exec_reads_its_own_stdin(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "streams")?.start()?;
    let text = "line\n".repeat(20_000);
    for cat in ["cat", "cat.component"] {
        let events = containerd.events().clone();
        let started = move || {
            // `ctr` forgets to pass the end on when it comes before its exec is started.
            drop(events.wait_until("start of the exec", |event| {
                event.of_task() == Some("exec-started") && event.process() == cat
            }));
        };
        let exec = task.execution(cat, [], [cat]);
        let output = exec.stdin_ends_after(text.clone(), started).success()?;
        ensure!(
            output.stdout == text,
            "{cat}: {} bytes",
            output.stdout.len()
        );
        ensure!(output.stderr == "eof\n", "{}", output.stderr);
    }
    task.end().map(drop)
}

fn an_exec_exits_with_its_own_status(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "statuses")?.start()?;
    for status in ["0", "7", "255"] {
        task.exec(&format!("exits-{status}"), ["exit", status])?
            .exited(status.parse()?)?;
    }
    task.reaches("RUNNING")?;
    task.end().map(drop)
}

/// Runs an exec that does not end by itself, and `meanwhile` once it has started.
fn beside(
    containerd: &Containerd,
    id: &str,
    exec: Invocation,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Output> {
    thread::scope(|scope| {
        let running = scope.spawn(|| exec.output());
        let started = containerd
            .events()
            .wait_until("start of the exec", |event| {
                event.of_task() == Some("exec-started") && event.container() == id
            });
        let done = started.and_then(|_| meanwhile());
        let output = running.join().map_err(|_| anyhow!("the exec panicked"))?;
        done.and(output)
    })
}

fn the_containers_own_program_is_executed_again_and_killed_alone(
    containerd: &Containerd,
) -> Result<()> {
    let task = run(containerd, "again")?.start()?;
    let exec = task.execution("second", [], ["/app.wasm"]);
    beside(containerd, "again", exec, || {
        let listed = task.verb(["ps"])?.success()?;
        ensure!(listed.stdout.contains("second"), "{listed}");
        task.kill_exec("second", "SIGTERM")
    })?
    .exited(143)?;
    task.reaches("RUNNING")?;
    task.end().map(drop)
}

fn what_cannot_be_executed_is_named(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "strict-exec")?.start()?;
    for (exec, program, texts) in [
        (
            "missing",
            "curl",
            ["executable file not found in $PATH", "/bin/curl"],
        ),
        ("script", "sh", ["exec format error", "/bin/sh is a script"]),
        (
            "path",
            "/usr/bin/curl",
            ["no such file or directory", "/usr/bin/curl"],
        ),
    ] {
        let output = task.exec(exec, [program])?;
        ensure!(output.status != 0, "{output}");
        for text in texts {
            ensure!(output.stderr.contains(text), "{text}: {output}");
        }
    }
    task.reaches("RUNNING")?;
    let exit = task.end()?;
    ensure!(exit.exit_status() == 137, "{exit}");
    let topics = containerd.events().topics_of("strict-exec");
    ensure!(
        !topics.iter().any(|topic| topic.starts_with("exec")),
        "{topics:?}"
    );
    Ok(())
}

fn kill_all_ends_the_init_and_its_execs(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "all")?.start()?;
    let exec = task.execution("inner", [], ["/app.wasm"]);
    beside(containerd, "all", exec, || {
        task.verb(["kill", "--all", "--signal", "SIGTERM"])?
            .success()?;
        let exit = task.wait()?;
        ensure!(exit.exit_status() == 143, "{exit}");
        Ok(())
    })?
    .exited(143)?;
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}

fn the_end_of_the_init_is_told_last(containerd: &Containerd) -> Result<()> {
    let task = run(containerd, "last")?.start()?;
    let exec = task.execution("inner-last", [], ["/app.wasm"]);
    beside(containerd, "last", exec, || task.kill("SIGTERM"))?.exited(137)?;
    task.wait()?;
    let events = containerd.events().of("last");
    let exits = events
        .iter()
        .filter(|event| event.of_task() == Some("exit"));
    let ended: Vec<_> = exits.map(|exit| exit.process()).collect();
    ensure!(ended == ["inner-last", "last"], "{ended:?}");
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}
