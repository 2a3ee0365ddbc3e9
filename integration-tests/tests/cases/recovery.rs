//! One of the two is killed, containerd or the shim, and the other tells the truth.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::image::Image;
use integration_tests::invocation::Invocation;
use integration_tests::tasks::{Api, Tasks};
use integration_tests::{guests, poll};

cases![
    fifty_tasks_survive_a_killed_containerd,
    a_killed_shim_has_left_the_exit_it_had_seen,
];

/// How many tasks, and how many of them share a shim.
const TASKS: usize = 50;
const GROUP: usize = 10;
/// Every tenth ends while nobody looks.
const ENDS: usize = 10;

fn image(containerd: &Containerd, name: &str, program: Vec<u8>) -> Result<Image> {
    let image = Image::new(&format!("{name}:1")).platform("wasi", "wasm");
    let image = image.file("/app.wasm", program).entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

/// How many lines a log has, each of which is the number after the one before.
fn lines(text: &str) -> Result<usize> {
    // The last one may be under way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (number, line) in whole.lines().enumerate() {
        ensure!(line.parse() == Ok(number), "line {number} is {line:?}");
    }
    Ok(whole.lines().count())
}

fn fifty_tasks_survive_a_killed_containerd(containerd: &Containerd) -> Result<()> {
    let mut own = Containerd::start(containerd.version())?;
    let image = image(&own, "counts", guests::counts()?)?;
    let ids: Vec<_> = (0..TASKS).map(|n| format!("count-{n}")).collect();
    let mut pids = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let group = format!("group-{}", n / GROUP);
        let run = own
            .run(&image, id)
            .annotation("io.containerd.runc.v2.group", &group);
        let task = run.start()?;
        task.writes("00000001\n")?;
        pids.push(task.pid()?);
    }
    let addresses = ids
        .iter()
        .step_by(ENDS)
        .map(|id| fs::read_to_string(own.bundle(id).join("address")).context("address"))
        .collect::<Result<Vec<_>>>()?;
    own.crash(|| {
        for (id, address) in ids.iter().step_by(ENDS).zip(&addresses) {
            Tasks::connect(address, Api::V2)?.kill(id, 9)?;
        }
        Ok(())
    })?;
    for (n, (id, pid)) in ids.iter().zip(pids).enumerate() {
        let task = own.task(id);
        let ended = n % ENDS == 0;
        let now = task.reaches(if ended { "STOPPED" } else { "RUNNING" })?;
        ensure!(now == pid, "{id} has the pid {now}, and had {pid}");
        let before = lines(&task.written()?).with_context(|| id.clone())?;
        if ended {
            let deleted = own.ctr(["task", "delete", id]).output()?;
            // As a warning: it takes several, whose exits are no one status.
            ensure!(deleted.stderr.contains("exit code 137"), "{deleted}");
            continue;
        }
        poll::until("it counts on", Duration::from_secs(20), || {
            match task.written().and_then(|text| lines(&text)) {
                Ok(now) if now > before => Ok(()),
                other => Err(format!("{other:?} lines, {before} before")),
            }
        })?;
        let exit = task.end()?;
        ensure!(exit.exit_status() == 137, "{exit}");
        lines(&task.written()?).with_context(|| id.clone())?;
    }
    own.stop()
}

fn a_killed_shim_has_left_the_exit_it_had_seen(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "seven", guests::exits(7)?)?;
    let id = "left-its-exit";
    // A second one keeps the process of the first to be found by its thread.
    let other = self::image(containerd, "keeps-counting", guests::counts()?)?;
    let group = |image, id| {
        let run = containerd.run(image, id);
        run.annotation("io.containerd.runc.v2.group", "left")
            .start()
    };
    let companion = group(&other, "left-running")?;
    let shim = companion.process()?.to_string();
    let task = group(&image, id)?;
    ensure!(task.wait()?.exit_status() == 7);
    task.reaches("STOPPED")?;
    Invocation::new("kill").args(["-KILL", &shim]).success()?;
    for (task, status) in [(&task, 7), (&companion, 137)] {
        let deleted = containerd.events().wait_for("delete", task.id())?;
        ensure!(deleted.exit_status() == status, "{deleted}");
        poll::until("its bundle is removed", Duration::from_secs(20), || {
            let bundle = containerd.bundle(task.id());
            (!bundle.exists())
                .then_some(())
                .ok_or_else(|| bundle.display().to_string())
        })?;
        task.remove()?;
    }
    Ok(())
}
