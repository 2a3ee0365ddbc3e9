//! Linux containers of a pod are as with runc alone, whatever a kubelet asks of them and whoever dies.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::image::Image;
use integration_tests::pod::PodContainer;
use integration_tests::{guests, poll};
use k8s_cri::v1::{
    ContainerState, Int64Value, LinuxContainerResources, LinuxContainerSecurityContext,
};
use rustix::process::Signal;

use super::mixed::{children, linux};
use super::pod_lives::reaches;
use super::pods::image;

cases![
    a_sidecar_has_its_user_and_its_environment_and_no_more,
    a_sidecar_is_attached_to,
    a_sidecar_beyond_its_memory_is_killed_for_that,
    a_probe_that_takes_too_long_is_ended,
    sidecars_end_with_the_shim_they_are_in,
    a_mixed_pod_survives_a_killed_containerd,
    the_containers_of_a_mixed_pod_are_made_again,
];

const PATIENCE: Duration = Duration::from_secs(30);

fn a_sidecar_has_its_user_and_its_environment_and_no_more(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("itself").run()?;
    let sidecar = pod
        .container("self", &linux)
        .args(["self"])
        .env("KEY", "a value")
        .with(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.security_context = Some(LinuxContainerSecurityContext {
                run_as_user: Some(Int64Value { value: 7 }),
                run_as_group: Some(Int64Value { value: 8 }),
                supplemental_groups: vec![9],
                ..LinuxContainerSecurityContext::default()
            });
        })
        .start()?;
    ensure!(sidecar.wait()?.exit_code == 0);
    let log = sidecar.log()?;
    let (user, environment) = log.split_once('\n').context("two lines")?;
    let (ids, groups) = user.split_once(" groups").context("groups")?;
    ensure!(ids == "uid 7 gid 8", "{user}");
    ensure!(groups.split(' ').any(|group| group == "9"), "{user}");
    ensure!(environment.contains("KEY=a value\n"), "{environment}");
    let names = environment.lines().filter_map(|line| line.split_once('='));
    let names: BTreeSet<_> = names.map(|(name, _)| name).collect();
    // HOME is runc's.
    ensure!(
        names == BTreeSet::from(["HOME", "HOSTNAME", "KEY", "PATH"]),
        "{environment}"
    );
    pod.remove()
}

fn a_sidecar_is_attached_to(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("attached").run()?;
    for (tty, name, echo) in [
        (false, "plain", "typed\n"),
        (true, "tty", "typed\r\ntyped\r\n"),
    ] {
        let sidecar = pod
            .container(name, &linux)
            .args(["cat"])
            .with(|config| {
                config.stdin = true;
                config.tty = tty;
            })
            .start()?;
        let mut streams = sidecar.attach(tty, true)?;
        streams.echoes("typed\n", echo)?;
        drop(streams);
        sidecar.stop(0)?;
    }
    pod.remove()
}

fn a_sidecar_beyond_its_memory_is_killed_for_that(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("filled").run()?;
    let sidecar = pod
        .container("fill", &linux)
        .args(["fill", "64"])
        .with(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                ..LinuxContainerResources::default()
            });
        })
        .start()?;
    ensure!(sidecar.wait()?.exit_code == 137);
    // The event of it may come after the exit.
    poll::until("it is known why", PATIENCE, || {
        let status = sidecar.status().map_err(|error| format!("{error:#}"))?;
        if status.reason == "OOMKilled" {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })?;
    pod.remove()
}

/// Whether its first process is the only one.
fn is_alone(containerd: &Containerd, container: &PodContainer<'_>) -> Result<()> {
    poll::until("what was executed is gone", PATIENCE, || {
        let processes = containerd.task(container.id()).verb(["ps"]);
        let shown = processes.map_err(|error| format!("{error:#}"))?.stdout;
        // Below a heading.
        if shown.lines().count() == 2 {
            Ok(())
        } else {
            Err(shown)
        }
    })
}

fn a_probe_that_takes_too_long_is_ended(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let wasm = Image::new("probed:1")
        .platform("linux", "amd64")
        .file("/app.wasm", guests::named("sleep")?)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &wasm)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("probed").run()?;
    let app = pod.container("app", &wasm).start()?;
    let sidecar = pod.container("sidecar", &linux).args(["block"]).start()?;
    for (container, probe) in [
        (&app, &["/app.wasm"][..]),
        (&sidecar, &["/hello", "block"][..]),
    ] {
        let probed = container.exec_within(1, probe.iter().copied());
        let error = format!("{:#}", probed.err().context("it ended")?);
        ensure!(error.contains("timeout 1s exceeded"), "{error}");
        is_alone(containerd, container)?;
    }
    pod.remove()
}

fn sidecars_end_with_the_shim_they_are_in(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = cri.pod("orphans").run()?;
    let app = pod.container("app", &wasm).start()?;
    let sidecar = pod.container("sidecar", &linux).args(["block"]).start()?;
    let child = children(containerd, pod.id()).into_iter().next();
    child.context("no shim of runc")?.signal(Signal::KILL);
    ensure!(sidecar.wait()?.exit_code == 137);
    ensure!(app.status()?.state() == ContainerState::ContainerRunning);
    let next = pod.container("next", &linux).start()?;
    ensure!(next.wait()?.exit_code == 0);
    pod.remove()
}

fn a_mixed_pod_survives_a_killed_containerd(containerd: &Containerd) -> Result<()> {
    let mut own = Containerd::builder(containerd.version()).node().start()?;
    let cri = Cri::connect(&own)?;
    let (wasm, linux) = (image(&own, &cri, "sleep")?, linux(&own, &cri)?);
    let pod = cri.pod("mixed-survives").run()?;
    let app = pod.container("app", &wasm).start()?;
    let sidecar = pod
        .container("sidecar", &linux)
        .args(["cat"])
        .with(|config| config.stdin = true)
        .start()?;
    let pid = own.task(sidecar.id()).pid()?;
    own.crash(|| Ok(()))?;
    reaches(&app, ContainerState::ContainerRunning)?;
    reaches(&sidecar, ContainerState::ContainerRunning)?;
    ensure!(
        own.task(sidecar.id()).pid()? == pid,
        "it is another process"
    );
    let mut streams = sidecar.attach(false, true)?;
    streams.echoes("after\n", "after\n")?;
    drop(streams);
    ensure!(sidecar.exec(["/hello", "exit", "4"])?.exit_code == 4);
    sidecar.stop(0)?;
    ensure!(sidecar.wait()?.exit_code == 137);
    pod.remove()?;
    own.stop()
}

/// One ends again and again, as a kubelet has it under CrashLoopBackOff, and the other runs on.
fn the_containers_of_a_mixed_pod_are_made_again(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (sleep, exit) = (
        image(containerd, &cri, "sleep")?,
        image(containerd, &cri, "exit")?,
    );
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("crashes").run()?;
    let crashes = |image: &Image, args: &[&str], code: i32| -> Result<()> {
        for attempt in 0..3 {
            let container = pod.container("crashes", image).args(args.iter().copied());
            let container = container.attempt(attempt).start()?;
            let exit = container.wait()?;
            ensure!(exit.exit_code == code, "{attempt}: {exit:?}");
            container.remove()?;
        }
        Ok(())
    };

    let app = pod.container("app", &sleep).start()?;
    app.writes("sleeping")?;
    let pid = containerd.task(app.id()).pid()?;
    crashes(&linux, &["exit", "9"], 9)?;
    ensure!(
        containerd.task(app.id()).pid()? == pid,
        "the app is another"
    );
    ensure!(app.status()?.state() == ContainerState::ContainerRunning);

    let sidecar = pod.container("sidecar", &linux).args(["block"]).start()?;
    let pid = containerd.task(sidecar.id()).pid()?;
    crashes(&exit, &["4"], 4)?;
    ensure!(
        containerd.task(sidecar.id()).pid()? == pid,
        "the sidecar is another"
    );
    ensure!(sidecar.status()?.state() == ContainerState::ContainerRunning);
    pod.remove()
}
