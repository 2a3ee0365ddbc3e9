//! What happens to pods in time: their node's containerd is restarted, they are made again, stopped, changed.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::image::Image;
use integration_tests::pod::PodContainer;
use integration_tests::tasks::{Api, Tasks};
use integration_tests::{guests, poll};
use k8s_cri::v1::{
    ContainerState, LinuxContainerResources, PodSandboxState, UpdateContainerResourcesRequest,
};

use super::metrics::{metrics, number};
use super::pods::{image, shim_of};

cases![
    pods_survive_a_killed_containerd,
    a_pod_is_made_again_after_it_was_stopped,
    a_service_that_does_not_finish_is_killed_after_its_grace,
    new_limits_count_at_once,
];

const PATIENCE: Duration = Duration::from_secs(30);

/// A container that reads, with a program to be executed in it.
fn reads(containerd: &Containerd, cri: &Cri) -> Result<Image> {
    let image = Image::new("lives:1")
        .platform("linux", "amd64")
        .file("/app.wasm", guests::named("cat")?)
        .file("/bin/exit", guests::named("exit")?)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &image)?;
    Ok(image)
}

pub(super) fn reaches(container: &PodContainer<'_>, wanted: ContainerState) -> Result<i32> {
    poll::until("the container is known again", PATIENCE, || {
        let status = container.status().map_err(|error| format!("{error:#}"))?;
        (status.state() == wanted)
            .then_some(status.exit_code)
            .ok_or_else(|| format!("{status:?}"))
    })
}

fn pods_survive_a_killed_containerd(containerd: &Containerd) -> Result<()> {
    let mut own = Containerd::builder(containerd.version()).node().start()?;
    let cri = Cri::connect(&own)?;
    let image = reads(&own, &cri)?;
    let pod = cri.pod("survives").run()?;
    let make = |name| {
        let container = pod.container(name, &image);
        container.with(|config| config.stdin = true).start()
    };
    let (goes_on, ends) = (make("goes-on")?, make("ends")?);
    let never = pod.container("never", &image).create()?;
    let mut streams = goes_on.attach(false, true)?;
    streams.echoes("before\n", "before\n")?;
    goes_on.writes("before\n")?;
    let task = own.task(goes_on.id()).pid()?;
    let address = fs::read_to_string(own.bundle(pod.id()).join("address")).context("address")?;
    own.crash(|| {
        let tasks = Tasks::connect(&address, Api::V2)?;
        tasks.kill(ends.id(), 9)?;
        Ok(())
    })?;
    drop(streams);
    reaches(&goes_on, ContainerState::ContainerRunning)?;
    ensure!(own.task(goes_on.id()).pid()? == task, "it is another task");
    ensure!(reaches(&ends, ContainerState::ContainerExited)? == 137);
    reaches(&never, ContainerState::ContainerCreated)?;
    ensure!(pod.status()?.state() == PodSandboxState::SandboxReady);
    // Its streams go on, and so does what is executed in it.
    let mut streams = goes_on.attach(false, true)?;
    streams.echoes("after\n", "after\n")?;
    goes_on.writes("before\nafter\n")?;
    ensure!(goes_on.exec(["/bin/exit", "4"])?.exit_code == 4);
    never.start()?;
    reaches(&never, ContainerState::ContainerRunning)?;
    goes_on.stop(30)?;
    ensure!(goes_on.wait()?.exit_code == 143);
    pod.remove()?;
    own.stop()
}

fn a_pod_is_made_again_after_it_was_stopped(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let attempt = |attempt| {
        let pod = cri.pod("attempts").with(|config| {
            if let Some(metadata) = &mut config.metadata {
                metadata.attempt = attempt;
            }
        });
        let pod = pod.run()?;
        let container = pod.container("sleep", &image).attempt(attempt).start()?;
        container.writes("sleeping")?;
        let pid = u32::try_from(containerd.task(container.id()).pid()?)?;
        let (id, shim) = (container.id().to_owned(), shim_of(containerd, pid)?);
        Ok::<_, anyhow::Error>((pod, id, shim))
    };
    let (first, _, shim) = attempt(0)?;
    first.stop()?;
    let (second, container, other) = attempt(1)?;
    ensure!(shim != other, "the new pod is in the shim of the old one");
    first.remove()?;
    ensure!(
        containerd.task(&container).status()?.is_some(),
        "it went with the first"
    );
    second.remove()
}

fn a_service_that_does_not_finish_is_killed_after_its_grace(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "handler")?;
    let pod = cri.pod("grace").run()?;
    let container = pod.container("service", &image).start()?;
    let mut port = pod.forward(8080)?;
    port.send("GET /sleep?60000 HTTP/1.1\r\nHost: test\r\n\r\n")?;
    container.writes("sleeping")?;
    container.stop(1)?;
    let status = container.wait()?;
    ensure!(status.exit_code == 137, "{status:?}");
    let lasted = status.finished_at - status.started_at;
    ensure!(lasted >= 1_000_000_000, "it had no second: {status:?}");
    pod.remove()
}

fn new_limits_count_at_once(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "spin")?;
    let pod = cri.pod("changed").run()?;
    let container = pod
        .container("spin", &image)
        .with(|config| {
            let linux = config.linux.get_or_insert_default();
            linux.resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                ..LinuxContainerResources::default()
            });
        })
        .start()?;
    container.writes("spinning")?;
    let limit = || {
        let told = metrics(containerd, container.id())?;
        anyhow::Ok(number(&told, "/memory/usage/limit", "/memory/usage_limit"))
    };
    ensure!(limit()? == 64 << 20, "{}", limit()?);
    let request = UpdateContainerResourcesRequest {
        container_id: container.id().to_owned(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            cpu_period: 100_000,
            cpu_quota: 20_000,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    cri.ask("update the container", |mut client| async move {
        client.update_container_resources(request).await
    })?;
    ensure!(limit()? == 32 << 20, "{}", limit()?);
    poll::until("it is held to its quota", PATIENCE, || {
        let told = metrics(containerd, container.id()).map_err(|error| format!("{error:#}"))?;
        let name = "/cpu/throttling/throttled_periods";
        if number(&told, name, "/cpu/nr_throttled") > 1 {
            Ok(())
        } else {
            Err(told.to_string())
        }
    })?;
    pod.remove()
}
