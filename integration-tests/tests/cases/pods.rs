//! Pods, as a kubelet has them: through CRI, with a bridge network.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::processes::Process;
use k8s_cri::v1::PodSandboxState;

cases![
    a_pod_is_a_thread_of_one_shim,
    the_containers_of_a_pod_share_its_shim_and_its_namespaces,
    a_container_writes_a_log_and_has_its_exit_code,
    a_command_is_executed_in_a_container,
    a_container_is_stopped_within_its_grace_period,
    a_container_that_ended_is_made_again,
    a_pod_sets_kernel_parameters_of_its_own_namespaces,
    a_pod_may_have_the_nodes_network,
    what_a_pod_uses_is_told,
];

/// A wasm program in an image as every registry has them: Kubernetes asks for nothing else.
pub(super) fn image(containerd: &Containerd, cri: &Cri, name: &str) -> Result<Image> {
    let image = Image::new(&format!("pod-{name}:1"))
        .platform("linux", "amd64")
        .file("/app.wasm", guests::named(name)?)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &image)?;
    Ok(image)
}

/// The shim that a container is a thread of.
pub(super) fn shim_of(containerd: &Containerd, pid: u32) -> Result<Process> {
    let shims = containerd.shims();
    let found = shims
        .into_iter()
        .find(|shim| PathBuf::from(format!("/proc/{}/task/{pid}", shim.pid)).exists());
    found.with_context(|| format!("{pid} is no thread of a shim"))
}

pub(super) fn pid(containerd: &Containerd, id: &str) -> Result<u32> {
    Ok(u32::try_from(containerd.task(id).pid()?)?)
}

pub(super) fn namespace(pid: u32, kind: &str) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/ns/{kind}");
    std::fs::read_link(&path).with_context(|| path)
}

fn a_pod_is_a_thread_of_one_shim(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    image(containerd, &cri, "sleep")?;
    let pod = cri.pod("bare").run()?;
    let sandbox = pid(containerd, pod.id())?;
    let shim = shim_of(containerd, sandbox)?;
    ensure!(
        u32::try_from(shim.pid)? != sandbox,
        "the sandbox is the shim itself"
    );
    for kind in ["net", "ipc", "uts"] {
        ensure!(
            namespace(sandbox, kind)? != namespace(u32::try_from(shim.pid)?, kind)?,
            "the sandbox has no {kind} namespace of its own"
        );
    }
    let address = pod.address()?;
    ensure!(address.starts_with("10.88."), "{address}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let rootfs = containerd.bundle(pod.id()).join("rootfs");
    ensure!(
        !mounts.contains(&rootfs.display().to_string()),
        "the pause image is mounted"
    );
    pod.stop()?;
    ensure!(pod.status()?.state() == PodSandboxState::SandboxNotready);
    pod.remove()?;
    ensure!(
        !PathBuf::from(format!("/proc/{}/task/{sandbox}", shim.pid)).exists(),
        "the sandbox's thread is left"
    );
    Ok(())
}

fn the_containers_of_a_pod_share_its_shim_and_its_namespaces(
    containerd: &Containerd,
) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("shared").run()?;
    let one = pod.container("one", &image).start()?;
    let two = pod.container("two", &image).start()?;
    one.writes("sleeping")?;
    two.writes("sleeping")?;
    let sandbox = pid(containerd, pod.id())?;
    let shim = shim_of(containerd, sandbox)?;
    for container in [&one, &two] {
        let pid = pid(containerd, container.id())?;
        ensure!(shim_of(containerd, pid)? == shim, "another shim");
        for kind in ["net", "ipc", "uts"] {
            ensure!(
                namespace(pid, kind)? == namespace(sandbox, kind)?,
                "another {kind} namespace than the pod's"
            );
        }
    }
    pod.remove()
}

fn a_container_writes_a_log_and_has_its_exit_code(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "env")?;
    let pod = cri.pod("logs").run()?;
    let container = pod
        .container("env", &image)
        .args(["one", "two"])
        .env("COLOUR", "blue")
        .start()?;
    let status = container.wait()?;
    ensure!(status.exit_code == 0, "{status:?}");
    let log = container.log()?;
    for line in [
        "arg: one",
        "arg: two",
        "env: COLOUR=blue",
        "env: HOSTNAME=logs",
    ] {
        ensure!(log.lines().any(|found| found == line), "{line}: {log}");
    }
    let exits = self::image(containerd, &cri, "exit")?;
    let failing = pod.container("exit", &exits).args(["7"]).start()?;
    let status = failing.wait()?;
    ensure!(
        (status.exit_code, status.reason.as_str()) == (7, "Error"),
        "{status:?}"
    );
    pod.remove()
}

fn a_command_is_executed_in_a_container(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let programs = Image::new("pod-programs:1")
        .platform("linux", "amd64")
        .file("/app.wasm", guests::named("sleep")?)
        .file("/bin/exit", guests::named("exit")?)
        .file("/bin/hello", guests::named("hello")?)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &programs)?;
    let pod = cri.pod("exec").run()?;
    let container = pod.container("exec", &programs).start()?;
    let probed = container.exec(["/bin/exit", "3"])?;
    ensure!(probed.exit_code == 3, "{probed:?}");
    let greeted = container.exec(["/bin/hello"])?;
    let text = String::from_utf8_lossy(&greeted.stdout).into_owned();
    ensure!(
        greeted.exit_code == 0 && text.contains("hello"),
        "{greeted:?}"
    );
    pod.remove()
}

fn a_container_is_stopped_within_its_grace_period(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("stopped").run()?;
    let container = pod.container("sleep", &image).start()?;
    container.stop(30)?;
    // TERM, long before the grace period is over.
    let status = container.wait()?;
    ensure!(status.exit_code == 143, "{status:?}");
    container.remove()?;
    pod.remove()
}

fn a_container_that_ended_is_made_again(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "exit")?;
    let pod = cri.pod("again").run()?;
    for attempt in 0..3 {
        let container = pod
            .container("again", &image)
            .args(["4"])
            .attempt(attempt)
            .start()?;
        let status = container.wait()?;
        ensure!(status.exit_code == 4, "{status:?}");
        container.remove()?;
    }
    pod.remove()
}

fn a_pod_sets_kernel_parameters_of_its_own_namespaces(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    image(containerd, &cri, "sleep")?;
    let read = |pid: u32, file: &str| -> Result<String> {
        let own = format!("--target={pid}");
        let output = integration_tests::invocation::Invocation::new("nsenter")
            .args([&own, "--net", "--ipc", "cat", file])
            .success()?;
        Ok(output.stdout.trim().to_owned())
    };
    let pod = cri
        .pod("tuned")
        .sysctl("net.ipv4.ip_default_ttl", "42")
        .sysctl("kernel.msgmax", "4321")
        .run()?;
    let sandbox = pid(containerd, pod.id())?;
    let ttl = read(sandbox, "/proc/sys/net/ipv4/ip_default_ttl")?;
    ensure!(ttl == "42", "{ttl}");
    let msgmax = read(sandbox, "/proc/sys/kernel/msgmax")?;
    ensure!(msgmax == "4321", "{msgmax}");
    let host = std::fs::read_to_string("/proc/sys/kernel/msgmax")?;
    ensure!(host.trim() != "4321", "the node's was changed");
    pod.remove()
}

fn a_pod_may_have_the_nodes_network(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("host").host_network().run()?;
    let container = pod.container("sleep", &image).start()?;
    container.writes("sleeping")?;
    let node = namespace(containerd.pid(), "net")?;
    for id in [pod.id(), container.id()] {
        ensure!(namespace(pid(containerd, id)?, "net")? == node, "{id}");
    }
    pod.remove()
}

fn what_a_pod_uses_is_told(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = cri.pod("stats").run()?;
    let container = pod.container("sleep", &image).start()?;
    container.writes("sleeping")?;
    let stats = container.stats()?;
    let memory = stats.memory.context("memory")?;
    let working_set = memory.working_set_bytes.context("a working set")?.value;
    ensure!(working_set >= 65_536, "{working_set}");
    let listed = cri.ask("list all stats", |mut client| async move {
        let request = k8s_cri::v1::ListContainerStatsRequest::default();
        client.list_container_stats(request).await
    })?;
    let own = listed.stats.iter().any(|stats| {
        let attributes = stats.attributes.as_ref();
        attributes.is_some_and(|attributes| attributes.id == container.id())
    });
    ensure!(own, "{listed:?}");
    pod.remove()
}
