//! Limits as users set them, and what they see when a container reaches one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::image::Image;
use integration_tests::{guests, poll};

use super::metrics::{cpu, metrics, number};

cases![
    a_cpu_quota_holds_a_busy_guest,
    cpus_are_a_quota,
    the_end_at_the_memory_limit_is_counted,
    a_deadline_ends_with_124_and_says_so,
    a_stack_overflow_ends_with_139_and_a_backtrace,
    too_many_open_files_are_an_error_of_the_programs,
];

fn image(containerd: &Containerd, name: &str, module: Vec<u8>) -> Result<Image> {
    let image = Image::new(&format!("{name}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", module)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

/// A busy guest with these flags uses so many thousandths of a core, and not more.
fn holds(containerd: &Containerd, id: &str, flags: [&str; 4], thousandths: u32) -> Result<()> {
    let image = image(containerd, id, guests::spins()?)?;
    let mut run = containerd.run(&image, id);
    for flag in flags.into_iter().filter(|flag| !flag.is_empty()) {
        run = run.flag(flag);
    }
    let begun = Instant::now();
    let task = run.start()?;
    let throttled = poll::until("it is throttled", Duration::from_secs(30), || {
        let now = metrics(containerd, id).map_err(|error| format!("{error:#}"))?;
        let v1 = "/cpu/throttling/throttled_periods";
        if number(&now, v1, "/cpu/nr_throttled") >= 5 {
            Ok(now)
        } else {
            Err(now.to_string())
        }
    })?;
    let used = Duration::from_nanos(cpu(&throttled));
    // A tenth more, and 200 ms for the first period and a machine that was late.
    let allowed = begun.elapsed() * thousandths * 11 / 10_000 + Duration::from_millis(200);
    ensure!(used <= allowed, "{used:?} of {allowed:?}");
    task.end().map(drop)
}

fn a_cpu_quota_holds_a_busy_guest(containerd: &Containerd) -> Result<()> {
    let flags = ["--cpu-quota", "10000", "--cpu-period", "50000"];
    holds(containerd, "fifth-of-a-core", flags, 200)
}

fn cpus_are_a_quota(containerd: &Containerd) -> Result<()> {
    holds(
        containerd,
        "tenth-of-a-core",
        ["--cpus", "0.1", "", ""],
        100,
    )
}

fn the_end_at_the_memory_limit_is_counted(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "counted", guests::grows()?)?;
    let task = containerd.run(&image, "counted").memory(16 << 20).start()?;
    ensure!(task.wait()?.exit_status() == 137);
    task.reaches("STOPPED")?;
    let told = metrics(containerd, "counted")?;
    let kills = number(
        &told,
        "/memory_oom_control/oom_kill",
        "/memory_events/oom_kill",
    );
    ensure!(kills == 1, "{told}");
    containerd.events().wait_for("oom", "counted")?;
    task.delete()?;
    task.remove()
}

fn a_deadline_ends_with_124_and_says_so(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "late", guests::spins()?)?;
    let run = containerd.run(&image, "late");
    let run = run.annotation("io.containerd.wasi.v1.deadline", "100ms");
    let output = run.output()?.exited(124)?;
    ensure!(
        output
            .stderr
            .contains("the guest reached its deadline of 100ms"),
        "{output}"
    );
    Ok(())
}

fn a_stack_overflow_ends_with_139_and_a_backtrace(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "deep", guests::recurses()?)?;
    let output = containerd.run(&image, "deep").output()?.exited(139)?;
    ensure!(output.stderr.contains("call stack exhausted"), "{output}");
    Ok(())
}

/// `ctr` gives every container 1,024 open files. The program exits with the number of WASI's EMFILE.
fn too_many_open_files_are_an_error_of_the_programs(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "opener", guests::opens()?)?;
    containerd.run(&image, "opener").output()?.exited(33)?;
    Ok(())
}
