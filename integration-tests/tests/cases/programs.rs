//! Programs of every kind: what they are given, and how they end.

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::Output;

cases![
    a_rust_module_runs,
    a_c_module_runs,
    a_go_module_runs,
    a_component_runs,
    images_of_every_platform_run,
    arguments_environment_and_cwd_reach_a_module,
    arguments_environment_and_cwd_reach_a_component,
    exit_codes_are_the_guests_own,
    a_trap_ends_with_134_and_a_backtrace,
    stdin_reaches_the_guest_and_ends,
    output_larger_than_a_pipe_arrives_whole,
    the_memory_limit_ends_with_137_and_an_oom_event,
    a_program_is_found_through_the_containers_path,
    events_arrive_in_order,
];

/// An image with one guest at `/app.wasm`, imported.
fn image(containerd: &Containerd, guest: &str) -> Result<Image> {
    image_for(containerd, guest, ("wasi", "wasm"))
}

fn image_for(containerd: &Containerd, guest: &str, (os, arch): (&str, &str)) -> Result<Image> {
    let image = guests::image(guest)?
        .platform(os, arch)
        .renamed(&format!("{guest}-{os}-{arch}:1"));
    containerd.import(&image)?;
    Ok(image)
}

fn run(containerd: &Containerd, guest: &str, id: &str) -> Result<Output> {
    containerd.run(&image(containerd, guest)?, id).output()
}

fn a_rust_module_runs(containerd: &Containerd) -> Result<()> {
    let output = run(containerd, "hello", "rust-module")?.success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn a_c_module_runs(containerd: &Containerd) -> Result<()> {
    let output = run(containerd, "hello-c", "c-module")?.success()?;
    ensure!(output.stdout.contains("hello from c"), "{output}");
    Ok(())
}

fn a_go_module_runs(containerd: &Containerd) -> Result<()> {
    let output = run(containerd, "hello-go", "go-module")?.success()?;
    ensure!(output.stdout.contains("hello from go"), "{output}");
    Ok(())
}

fn a_component_runs(containerd: &Containerd) -> Result<()> {
    let output = run(containerd, "hello.component", "component")?.success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn images_of_every_platform_run(containerd: &Containerd) -> Result<()> {
    for (os, arch) in [("wasi", "wasm"), ("wasip1", "wasm"), ("linux", "amd64")] {
        let image = image_for(containerd, "hello", (os, arch))?;
        let output = containerd
            .run(&image, &format!("platform-{os}"))
            .output()?
            .success()?;
        ensure!(
            output.stdout == "hello from wasi\n",
            "{os}/{arch}: {output}"
        );
    }
    Ok(())
}

fn arguments_environment_and_cwd_reach_a_module(containerd: &Containerd) -> Result<()> {
    let output = surroundings(containerd, "env", "env-module")?;
    // WASI 0.1 has no working directory: it is handed over as PWD.
    ensure!(output.stdout.contains("env: PWD=/work\n"), "{output}");
    Ok(())
}

fn arguments_environment_and_cwd_reach_a_component(containerd: &Containerd) -> Result<()> {
    surroundings(containerd, "env.component", "env-component").map(drop)
}

fn surroundings(containerd: &Containerd, guest: &str, id: &str) -> Result<Output> {
    let output = containerd
        .run(&image(containerd, guest)?, id)
        .env("GREETING", "hello=world")
        .cwd("/work")
        .args(["/app.wasm", "two words", ""])
        .output()?
        .success()?;
    for line in [
        "arg: /app.wasm\n",
        "arg: two words\n",
        "arg: \n",
        "env: GREETING=hello=world\n",
    ] {
        ensure!(
            output.stdout.contains(line),
            "{line:?} is missing: {output}"
        );
    }
    Ok(output)
}

fn exit_codes_are_the_guests_own(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "exit")?;
    for code in [0, 1, 7, 125, 126, 200, 255] {
        let id = format!("exit-{code}");
        let args = ["/app.wasm", &code.to_string()];
        containerd
            .run(&image, &id)
            .args(args)
            .output()?
            .exited(code)?;
        let exit = containerd.events().wait_for("exit", &id)?;
        ensure!(exit.exit_status() == u64::try_from(code)?, "{exit}");
    }
    Ok(())
}

fn a_trap_ends_with_134_and_a_backtrace(containerd: &Containerd) -> Result<()> {
    for guest in ["trap", "trap.component"] {
        let id = format!("ends-by-{guest}");
        let output = run(containerd, guest, &id)?.exited(134)?;
        for text in ["unreachable", "trap::outer", "trap::inner"] {
            ensure!(
                output.stderr.contains(text),
                "{text:?} is missing: {output}"
            );
        }
    }
    Ok(())
}

fn stdin_reaches_the_guest_and_ends(containerd: &Containerd) -> Result<()> {
    let text = "line\n".repeat(20_000);
    for guest in ["cat", "cat.component"] {
        let image = image(containerd, guest)?;
        let run = containerd.run(&image, &format!("reads-by-{guest}"));
        let output = run.stdin(text.clone()).output()?.success()?;
        ensure!(
            output.stdout == text,
            "{} of {} bytes came back",
            output.stdout.len(),
            text.len()
        );
        ensure!(output.stderr == "eof\n", "{:?}", output.stderr);
    }
    Ok(())
}

fn output_larger_than_a_pipe_arrives_whole(containerd: &Containerd) -> Result<()> {
    let text = "0123456789abcde\n".repeat(1 << 16);
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("large"), &text)?;
    let output = containerd
        .run(&image(containerd, "files")?, "large-output")
        .bind(folder.path(), "/data", "rbind:ro")
        .args(["/app.wasm", "read", "/data/large"])
        .output()?
        .success()?;
    ensure!(
        output.stdout == text,
        "{} of {} bytes",
        output.stdout.len(),
        text.len()
    );
    Ok(())
}

fn the_memory_limit_ends_with_137_and_an_oom_event(containerd: &Containerd) -> Result<()> {
    let image = Image::new("glutton:1")
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::grows()?)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    let output = containerd
        .run(&image, "glutton")
        .memory(16 << 20)
        .output()?
        .exited(137)?;
    ensure!(
        output.stderr.contains("memory limit of 16777216 bytes"),
        "{output}"
    );
    containerd.events().wait_for("delete", "glutton")?;
    let topics = containerd.events().topics_of("glutton");
    ensure!(
        topics == ["create", "start", "oom", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}

fn a_program_is_found_through_the_containers_path(containerd: &Containerd) -> Result<()> {
    let image = Image::new("on-path:1")
        .platform("wasi", "wasm")
        .file("/opt/bin/app.wasm", guests::named("hello")?)
        .env(["PATH=/usr/bin:/opt/bin"])
        .entrypoint(["app.wasm"]);
    containerd.import(&image)?;
    let output = containerd.run(&image, "on-path").output()?.success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

fn events_arrive_in_order(containerd: &Containerd) -> Result<()> {
    run(containerd, "hello", "wasi-ordered")?.success()?;
    containerd.events().wait_for("delete", "wasi-ordered")?;
    let topics = containerd.events().topics_of("wasi-ordered");
    ensure!(
        topics == ["create", "start", "exit", "delete"],
        "{topics:?}"
    );
    Ok(())
}
