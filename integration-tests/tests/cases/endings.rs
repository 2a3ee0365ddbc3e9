//! How a container is ended from outside, and what is left of it: nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::invocation::Invocation;
use integration_tests::poll;
use integration_tests::task::Task;

cases![
    kill_and_term_end_a_busy_loop,
    kill_and_term_end_a_sleep,
    kill_and_term_end_a_stdin_read,
    kill_and_term_end_a_socket_accept,
    other_signals_do_nothing,
    a_second_kill_finds_nothing,
    pause_and_resume_stop_and_go_on,
    a_busy_guest_does_not_keep_the_shim_from_answering,
    the_shim_ends_with_its_last_task,
    a_killed_shim_is_cleaned_up_after,
    containers_run_on_through_a_restart_of_containerd,
    output_of_a_guest_survives_a_restart_of_containerd,
];

fn started<'a>(containerd: &'a Containerd, guest: &str, id: &str) -> Result<Task<'a>> {
    let image = guests::image(guest)?;
    containerd.import(&image)?;
    containerd.run(&image, id).start()
}

fn ends(containerd: &Containerd, guest: &str, says: &str) -> Result<()> {
    for (signal, status) in [("SIGKILL", 137), ("SIGTERM", 143)] {
        let task = started(containerd, guest, &format!("{guest}-{signal}"))?;
        task.writes(says)?;
        task.kill(signal)?;
        let exit = task.wait()?;
        ensure!(exit.exit_status() == status, "{exit}");
        task.reaches("STOPPED")?;
        task.delete()?;
        task.remove()?;
    }
    Ok(())
}

fn kill_and_term_end_a_busy_loop(containerd: &Containerd) -> Result<()> {
    ends(containerd, "spin", "spinning")?;
    ends(containerd, "spin.component", "spinning")
}

fn kill_and_term_end_a_sleep(containerd: &Containerd) -> Result<()> {
    ends(containerd, "sleep", "sleeping")?;
    ends(containerd, "sleep.component", "sleeping")
}

fn kill_and_term_end_a_stdin_read(containerd: &Containerd) -> Result<()> {
    // A detached container has no stdin; a foreground one keeps its own open until it is killed.
    for guest in ["stdin_block", "stdin_block.component"] {
        let image = guests::image(guest)?;
        containerd.import(&image)?;
        for (signal, status) in [("SIGKILL", 137), ("SIGTERM", 143)] {
            let id = format!("{guest}-{signal}");
            let run = containerd.run(&image, &id);
            let output = run.with_open_stdin(|| {
                containerd.events().wait_for("start", &id)?;
                containerd.task(&id).kill(signal)?;
                containerd.events().wait_for("exit", &id).map(drop)
            })?;
            output.exited(status)?;
        }
    }
    Ok(())
}

fn kill_and_term_end_a_socket_accept(containerd: &Containerd) -> Result<()> {
    ends(containerd, "accept", "listening on")
}

fn other_signals_do_nothing(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "sleep", "unimpressed")?;
    task.writes("sleeping")?;
    for signal in ["SIGUSR1", "SIGWINCH", "SIGCHLD"] {
        task.kill(signal)?;
    }
    ensure!(
        task.status()?
            .is_some_and(|status| status.state == "RUNNING")
    );
    task.end()?;
    let topics = containerd.events().topics_of("unimpressed");
    ensure!(
        topics.iter().filter(|topic| *topic == "exit").count() == 1,
        "{topics:?}"
    );
    Ok(())
}

fn a_second_kill_finds_nothing(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "sleep", "twice")?;
    task.kill("SIGKILL")?;
    task.reaches("STOPPED")?;
    let refused = task.verb(["kill", "--signal", "SIGKILL"])?;
    ensure!(
        refused.status != 0 && refused.stderr.contains("process already finished"),
        "{refused}"
    );
    task.delete()?;
    task.remove()
}

/// Nanoseconds of processor time of a task: the first field of schedstat (proc(5)).
fn used(task: &Task<'_>) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/schedstat", task.pid()?))?;
    Ok(stat.split(' ').next().unwrap_or_default().parse()?)
}

fn pause_and_resume_stop_and_go_on(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "spin", "paused")?;
    task.writes("spinning")?;
    task.pause()?;
    task.reaches("PAUSED")?;
    poll::until("it uses no processor", Duration::from_secs(20), || {
        let before = used(&task).map_err(|error| error.to_string())?;
        let after = used(&task).map_err(|error| error.to_string())?;
        if after == before {
            Ok(())
        } else {
            Err(format!("{} ns more", after - before))
        }
    })?;
    let stopped_at = used(&task)?;
    task.resume()?;
    task.reaches("RUNNING")?;
    poll::until("it goes on", Duration::from_secs(20), || {
        let now = used(&task).map_err(|error| error.to_string())?;
        if now > stopped_at {
            Ok(())
        } else {
            Err("it does not".into())
        }
    })?;
    task.pause()?;
    let exit = task.end()?;
    ensure!(exit.exit_status() == 137, "{exit}");
    let topics = containerd.events().topics_of("paused");
    ensure!(
        topics.starts_with(
            &["create", "start", "paused", "resumed", "paused", "exit"].map(str::to_owned)
        ),
        "{topics:?}"
    );
    Ok(())
}

fn a_busy_guest_does_not_keep_the_shim_from_answering(containerd: &Containerd) -> Result<()> {
    let tasks = (0..4)
        .map(|n| started(containerd, "spin", &format!("burner-{n}")))
        .collect::<Result<Vec<_>>>()?;
    for task in &tasks {
        task.writes("spinning")?;
        ensure!(
            task.status()?
                .is_some_and(|status| status.state == "RUNNING")
        );
    }
    for task in &tasks {
        task.end()?;
    }
    Ok(())
}

fn the_shim_ends_with_its_last_task(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "sleep", "last-task")?;
    task.writes("sleeping")?;
    let shim = task.process()?.to_string();
    let address = fs::read_to_string(containerd.bundle("last-task").join("address"))?;
    task.end()?;
    gone(&shim, &address)
}

fn a_killed_shim_is_cleaned_up_after(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "spin", "orphaned")?;
    task.writes("spinning")?;
    let shim = task.process()?.to_string();
    let address = fs::read_to_string(containerd.bundle("orphaned").join("address"))?;
    Invocation::new("kill").args(["-KILL", &shim]).success()?;
    let exit = task.wait()?;
    ensure!(exit.exit_status() == 137, "{exit}");
    gone(&shim, &address)?;
    poll::until("the bundle is removed", Duration::from_secs(20), || {
        if containerd.bundle("orphaned").exists() {
            Err("it is there".into())
        } else {
            Ok(())
        }
    })?;
    task.remove()
}

fn gone(shim: &str, address: &str) -> Result<()> {
    let socket = address.trim_start_matches("unix://").to_owned();
    poll::until("the shim is gone", Duration::from_secs(20), || {
        for path in [format!("/proc/{shim}"), socket.clone()] {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(format!("{path} is there"));
            }
        }
        Ok(())
    })
}

fn containers_run_on_through_a_restart_of_containerd(containerd: &Containerd) -> Result<()> {
    let mut own = Containerd::start(containerd.version())?;
    let mut pids = Vec::new();
    for n in 0..5 {
        let task = started(&own, "sleep", &format!("survivor-{n}"))?;
        task.writes("sleeping")?;
        pids.push(task.pid()?);
    }
    own.restart()?;
    for (n, pid) in pids.into_iter().enumerate() {
        let task = own.task(&format!("survivor-{n}"));
        ensure!(
            task.reaches("RUNNING")? == pid,
            "survivor-{n} has another pid"
        );
        task.end()?;
    }
    own.stop()
}

fn output_of_a_guest_survives_a_restart_of_containerd(containerd: &Containerd) -> Result<()> {
    let mut own = Containerd::start(containerd.version())?;
    let task = started(&own, "sleep", "talker")?;
    task.writes("sleeping")?;
    own.restart()?;
    let task = own.task("talker");
    task.reaches("RUNNING")?;
    ensure!(task.written()?.contains("sleeping"), "{}", task.written()?);
    task.end()?;
    own.stop()
}
