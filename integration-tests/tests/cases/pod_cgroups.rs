//! Where the kernel counts a pod, what bounds it there, and what Kubernetes' interface says of it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::cgroups::{cgroup, is_v2, mount};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::image::Image;
use integration_tests::{guests, poll};
use k8s_cri::v1::{ListPodSandboxStatsRequest, PodSandboxState, PodSandboxStatsFilter};

use super::pods::{image, pid, shim_of};

cases![
    a_pod_is_charged_for_its_shim_and_its_guests,
    a_guest_has_no_more_memory_than_its_pod,
    a_small_pod_runs_a_program_that_takes_more_to_compile,
    a_pod_that_the_kernel_ends_is_known_to_have_ended,
    a_guest_has_no_more_processor_time_than_its_pod,
    the_numbers_of_a_pod_add_up,
];

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest that takes memory.
fn taking(containerd: &Containerd, cri: &Cri, name: &str, module: Vec<u8>) -> Result<Image> {
    let image = Image::new(&format!("{name}:1"))
        .platform("linux", "amd64")
        .file("/app.wasm", module)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &image)?;
    Ok(image)
}

/// One that writes to so many MiB, and then computes.
fn fills(containerd: &Containerd, cri: &Cri, mebibytes: u32) -> Result<Image> {
    let name = format!("fills-{mebibytes}");
    taking(containerd, cri, &name, guests::fills(mebibytes)?)
}

/// Limits the memory of a pod that is to come, in bytes.
fn bounded(cri: &Cri, pod: &str, most: u64) -> Result<()> {
    let v1 = ("memory.limit_in_bytes", most);
    limit(cri, pod, "memory", v1, &most.to_string())
}

/// The folder of a pod's cgroup, which the kubelet makes.
fn folder(cri: &Cri, pod: &str, controller: &str) -> PathBuf {
    let path = format!("{}/{pod}", cri.cgroup());
    mount(controller).join(&path[1..])
}

/// Writes a limit of a pod that is to come, as the kubelet does: `v1` to the one file, `v2` to the other.
fn limit(cri: &Cri, pod: &str, controller: &str, v1: (&str, u64), v2: &str) -> Result<()> {
    let folder = folder(cri, pod, controller);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if is_v2() {
        // A folder has the controllers that those above hand down.
        let mount = mount(controller);
        let mut above: Vec<_> = folder.ancestors().skip(1).collect();
        above.retain(|folder| folder.starts_with(&mount));
        for folder in above.iter().rev() {
            let file = folder.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}"))
                .with_context(|| file.display().to_string())?;
        }
    }
    let (file, value) = match is_v2() {
        true => (format!("{controller}.max"), v2.to_owned()),
        false => (v1.0.to_owned(), v1.1.to_string()),
    };
    let file = folder.join(file);
    fs::write(&file, value).with_context(|| file.display().to_string())
}

/// A number that the kernel has of a pod; of `cpu.stat` and its like, the one of a name.
fn number(cri: &Cri, pod: &str, controller: &str, file: &str, name: &str) -> Result<u64> {
    let file = folder(cri, pod, controller).join(file);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let mut lines = text
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap_or(("", line)));
    let found = lines.find(|(found, _)| *found == name);
    Ok(found.with_context(|| text.clone())?.1.parse()?)
}

fn memory(cri: &Cri, pod: &str) -> Result<u64> {
    let file = if is_v2() {
        "memory.current"
    } else {
        "memory.usage_in_bytes"
    };
    number(cri, pod, "memory", file, "")
}

fn is_more(what: &str, than: u64, look: impl Fn() -> Result<u64>) -> Result<()> {
    poll::until(what, PATIENCE, || match look() {
        Ok(found) if found > than => Ok(()),
        other => Err(format!("{other:?}, not more than {than}")),
    })
}

fn a_pod_is_charged_for_its_shim_and_its_guests(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = fills(containerd, &cri, 48)?;
    let pod = cri.pod("charged").run()?;
    let container = pod.container("fills", &image).start()?;
    let shim = shim_of(containerd, pid(containerd, container.id())?)?;
    for controller in ["memory", "cpu", "pids"] {
        let found = cgroup(&format!("/proc/{}/cgroup", shim.pid), controller)?;
        let own = format!("{}/charged/{}", cri.cgroup(), pod.id());
        ensure!(
            found == own,
            "{controller}: the shim is in {found}, not {own}"
        );
    }
    is_more("48 MiB are the pod's", 48 * MIB, || memory(&cri, "charged"))?;
    let used = || match is_v2() {
        true => Ok(number(&cri, "charged", "cpu", "cpu.stat", "usage_usec")? * 1000),
        false => number(&cri, "charged", "cpuacct", "cpuacct.usage", ""),
    };
    let more = used()? + 100_000_000;
    is_more("100 ms more are the pod's", more, used)?;
    pod.remove()
}

fn a_guest_has_no_more_memory_than_its_pod(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let beside = image(containerd, &cri, "sleep")?;
    let takes_all = taking(containerd, &cri, "takes-all", guests::takes_all()?)?;
    bounded(&cri, "full", 128 * MIB)?;
    let pod = cri.pod("full").run()?;
    let other = pod.container("other", &beside).start()?;
    other.writes("sleeping")?;
    let container = pod.container("takes-all", &takes_all).start()?;
    let status = container.wait()?;
    ensure!(
        status.exit_code == 137 && status.reason == "OOMKilled",
        "{status:?}"
    );
    container.writes("no memory is left for the guest")?;
    // The others go on, and there is memory again.
    pod.container("after", &beside)
        .start()?
        .writes("sleeping")?;
    other.stop(30)?;
    ensure!(other.wait()?.exit_code == 143);
    pod.remove()
}

/// What compiles once for all pods of a node is none of them.
fn a_small_pod_runs_a_program_that_takes_more_to_compile(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let mut module = guests::named("hello-go")?;
    // With a custom section of its own: nobody else has compiled it.
    module.extend(b"\x00\x05\x04test");
    let image = taking(containerd, &cri, "go", module)?;
    bounded(&cri, "small", 32 * MIB)?;
    let pod = cri.pod("small").run()?;
    let container = pod.container("go", &image).start()?;
    let status = container.wait()?;
    ensure!(status.exit_code == 0, "{status:?}");
    pod.remove()
}

/// Two that grow before either writes to what it has. The kernel ends the shim then, which is the whole pod.
fn a_pod_that_the_kernel_ends_is_known_to_have_ended(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = taking(
        containerd,
        &cri,
        "fills-later",
        guests::fills_when_told(80)?,
    )?;
    bounded(&cri, "ended", 128 * MIB)?;
    let pod = cri.pod("ended").run()?;
    let grown = |name| {
        let container = pod.container(name, &image);
        let container = container.with(|config| config.stdin = true).start()?;
        container.writes("grown")?;
        anyhow::Ok(container)
    };
    let both = [grown("one")?, grown("other")?];
    let mut streams = [&both[0], &both[1]].map(|container| container.attach(false, true));
    // To one that is gone already nothing can be said.
    for streams in streams.iter_mut().flatten() {
        drop(streams.send("go"));
    }
    for container in both {
        let status = container.wait()?;
        // As CRI says it of all that it has lost.
        ensure!(status.exit_code == 255, "{status:?}");
    }
    poll::until("the pod has ended", PATIENCE, || {
        let status = pod.status().map_err(|error| format!("{error:#}"))?;
        (status.state() == PodSandboxState::SandboxNotready)
            .then_some(())
            .ok_or_else(|| format!("{status:?}"))
    })?;
    pod.remove()
}

fn a_guest_has_no_more_processor_time_than_its_pod(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "spin")?;
    let pod = cri.pod("slow").run()?;
    let container = pod.container("spin", &image).start()?;
    container.writes("spinning")?;
    // Less than it gets on a machine that is busy with others.
    limit(
        &cri,
        "slow",
        "cpu",
        ("cpu.cfs_quota_us", 5_000),
        "5000 100000",
    )?;
    is_more("the pod is throttled", 3, || {
        number(&cri, "slow", "cpu", "cpu.stat", "nr_throttled")
    })?;
    // The shim is throttled, too, and does what it is asked all the same.
    container.stop(30)?;
    ensure!(container.wait()?.exit_code == 143);
    pod.remove()
}

fn the_numbers_of_a_pod_add_up(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (small, large) = (fills(containerd, &cri, 16)?, fills(containerd, &cri, 48)?);
    let pod = cri.pod("sum").run()?;
    let containers = [
        (pod.container("small", &small).start()?, 16 * MIB),
        (pod.container("large", &large).start()?, 48 * MIB),
    ];
    is_more("both are there", 64 * MIB, || memory(&cri, "sum"))?;
    let (mut sum, mut time) = (0, 0);
    for (container, own) in &containers {
        let stats = container.stats()?;
        let used = stats.memory.and_then(|memory| memory.working_set_bytes);
        let used = used.context("a working set")?.value;
        ensure!((*own..own + MIB).contains(&used), "{used} of {own}");
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
        let cpu = cpu.context("processor time")?.value;
        ensure!(cpu > 0, "a guest that computes uses nothing");
        sum += used;
        time += cpu;
    }
    let stats = pod.stats()?.linux.context("what a pod uses")?;
    let used = stats.memory.and_then(|memory| memory.usage_bytes);
    let used = used.context("the pod's memory")?.value;
    // Theirs, and that of one shim.
    ensure!(
        (sum..sum + 64 * MIB).contains(&used),
        "{used} of a pod of {sum}"
    );
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds);
    let cpu = cpu.context("the pod's processor time")?.value;
    ensure!(
        cpu >= time,
        "the pod has used {cpu}, and its containers {time}"
    );
    let listed = |id: &str| {
        let mut ids = stats
            .containers
            .iter()
            .filter_map(|stats| stats.attributes.as_ref());
        ids.any(|attributes| attributes.id == id)
    };
    for (container, _) in &containers {
        ensure!(listed(container.id()), "{:?}", stats.containers);
    }
    let network = stats.network.and_then(|network| network.default_interface);
    ensure!(network.context("the pod's network")?.name == "eth0");
    // Without others: 1.6 fails for all when one of them is about to go.
    let filter = PodSandboxStatsFilter {
        id: pod.id().to_owned(),
        ..PodSandboxStatsFilter::default()
    };
    let all = cri.ask("list what the pod uses", |mut client| async move {
        let filter = Some(filter);
        client
            .list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter })
            .await
    })?;
    let mut ids = all
        .stats
        .iter()
        .filter_map(|stats| stats.attributes.as_ref());
    ensure!(ids.any(|attributes| attributes.id == pod.id()), "{all:?}");
    pod.remove()
}
