//! The main job, narrated: wasm images under a private containerd. `make demo` runs it.

#![allow(clippy::print_stdout, reason = "its output is for a person to read")]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::leftovers::Leftovers;
use integration_tests::version::Version;

fn main() -> Result<()> {
    let before = Leftovers::snapshot();
    let version = Version::newest()?;
    let containerd = Containerd::builder(&version).log_level("info").start()?;
    println!(
        "A private containerd {version} is up; it finds our shim by the name io.containerd.wasi.v1.\n"
    );
    let shown = show(&containerd);
    containerd.stop()?;
    shown?;
    before.assert_none_since()?;
    println!("Cleaned up: no process, mount, socket or namespace is left.");
    Ok(())
}

fn show(containerd: &Containerd) -> Result<()> {
    let module = image("module:1", "env")?;
    let component = image("component:1", "env.component")?;
    let files = image("files:1", "files")?;
    for image in [&module, &component, &files] {
        containerd.import(image)?;
        println!(
            "imported {} ({})",
            image.name(),
            image.os_and_architecture()
        );
    }

    for (image, id, what) in [
        (&module, "a-module", "a wasip1 module"),
        (&component, "a-component", "a wasip2 component"),
    ] {
        let begun = Instant::now();
        let output = containerd
            .run(image, id)
            .env("GREETING", "hello")
            .args(["/app.wasm", "from", what])
            .output()?
            .success()?;
        println!(
            "\n$ ctr run --rm --env GREETING=hello {} {id} /app.wasm from '{what}'",
            image.name()
        );
        print!("{}", indent(&output.stdout));
        println!(
            "exit code {}, after {:.0?} with its first compilation",
            output.status,
            begun.elapsed()
        );
    }

    let folder = tempfile::tempdir()?;
    let mounted = |id: &str| {
        containerd
            .run(&files, id)
            .bind(folder.path(), "/data", "rbind:rw")
    };
    let write = ["/app.wasm", "write", "/data/note", "written by wasm"];
    mounted("writes").args(write).output()?.success()?;
    let note = fs::read_to_string(folder.path().join("note"))?;
    println!(
        "\n$ ctr run --rm --mount type=bind,src=DIR,dst=/data … files:1 writes /app.wasm write /data/note …"
    );
    println!("    the host's DIR/note says: {note}");
    let missing = mounted("fails")
        .args(["/app.wasm", "read", "/data/none"])
        .output()?
        .exited(1)?;
    print!("    a file that is not there:  {}", missing.stderr);
    println!("exit code {}", missing.status);

    println!("\nwarm starts of the module, nothing compiled (whole `ctr run --rm`):");
    let mut times = (0..5)
        .map(|n| {
            let begun = Instant::now();
            containerd
                .run(&module, &format!("warm-{n}"))
                .output()?
                .success()?;
            Ok(begun.elapsed())
        })
        .collect::<Result<Vec<Duration>>>()?;
    times.sort();
    println!("    {times:.1?}, median {:.1?}", times[times.len() / 2]);

    running(containerd)?;

    containerd.events().wait_for("delete", "a-module")?;
    println!(
        "\nevents of a-module: {}\n",
        containerd.events().topics_of("a-module").join(", ")
    );
    Ok(())
}

/// Looks at a container while it runs, and ends it.
fn running(containerd: &Containerd) -> Result<()> {
    let spin = image("spin:1", "spin")?;
    containerd.import(&spin)?;
    let task = containerd.run(&spin, "busy").start()?;
    task.writes("spinning")?;
    let pid = task.pid()?;
    let tgid = task.process()?;
    ensure!(tgid.to_string() != pid.to_string(), "the task is a process");
    println!("\n$ ctr run --detach spin:1 busy     # a loop without end");
    println!("    task pid {pid} is a thread of the shim, process {tgid}");
    let mut children = String::new();
    for thread in fs::read_dir(format!("/proc/{tgid}/task"))? {
        children += &fs::read_to_string(thread?.path().join("children"))?;
    }
    println!(
        "    processes of the container: {:?}",
        children.split_whitespace().collect::<Vec<_>>()
    );
    println!(
        "    network namespace {:?}",
        fs::read_link(format!("/proc/{pid}/ns/net"))?
    );
    println!(
        "    the shim's own    {:?}",
        fs::read_link(format!("/proc/{tgid}/ns/net"))?
    );
    task.kill("SIGTERM")?;
    let exit = task.wait()?;
    println!("$ ctr task kill busy               # SIGTERM");
    println!("    exit status {}", exit.exit_status());
    task.reaches("STOPPED")?;
    task.delete()?;
    task.remove()
}

fn image(name: &str, guest: &str) -> Result<Image> {
    Ok(guests::image(guest)?.renamed(name))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
