//! Pods without a pause container: containerd's Sandbox API (`sandboxer = "shim"`), through CRI.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::invocation::Invocation;
use integration_tests::pod::{Pod, PodBuilder};
use integration_tests::poll;
use integration_tests::processes::Process;
use k8s_cri::v1::{
    DnsConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxState, UserNamespace,
};
use rustix::process::Signal;

use super::mixed::linux;
use super::pods::image;

cases![
    a_pod_has_no_pause_container_and_leaves_nothing,
    wasm_and_linux_containers_are_in_the_pod,
    a_pods_files_are_in_its_containers,
    a_pod_has_its_kernel_parameters_and_its_name,
    a_pod_outlives_the_daemon,
    a_pod_whose_shim_is_killed_is_known_to_have_ended,
    a_pod_that_cannot_be_is_refused,
    processes_are_not_shared_without_a_pause_image,
    a_sidecar_does_not_outlive_a_killed_shim,
];

/// With containerd 1.7. The next ones end by a nil pointer when they are asked for that, up to a fix of 2026
/// (containerd #12983).
pub(crate) const NETWORK: &[crate::Case] = &[(
    "a_pod_may_have_the_nodes_network",
    a_pod_may_have_the_nodes_network,
)];

/// With containerd 2.0 and newer. 1.7 has no users there.
pub(crate) const SINCE_2_0: &[crate::Case] = &[(
    "a_pod_with_users_of_its_own_is_a_real_one",
    a_pod_with_users_of_its_own_is_a_real_one,
)];

fn pod<'a>(cri: &'a Cri, name: &str) -> PodBuilder<'a> {
    cri.pod(name).handler("sandbox")
}

/// The shim of a pod: it is called with the pod's id.
fn shim_of(containerd: &Containerd, pod: &Pod<'_>) -> Result<Process> {
    let mut shims = containerd.shims().into_iter();
    let found =
        shims.find(|shim| shim.command.contains("shim-wasi") && shim.command.contains(pod.id()));
    found.context("the pod has no shim")
}

/// The thread that holds the namespaces of a pod.
fn holder(shim: &Process, pod: &Pod<'_>) -> Result<PathBuf> {
    // The kernel keeps 15 bytes of a thread's name.
    let name: String = format!("wasi:{}", pod.id()).chars().take(15).collect();
    for thread in std::fs::read_dir(format!("/proc/{}/task", shim.pid))? {
        let thread = thread?.path();
        if std::fs::read_to_string(thread.join("comm"))?.trim_end() == name {
            return Ok(thread);
        }
    }
    anyhow::bail!("no thread is called {name}")
}

fn gone(shim: &Process) -> Result<()> {
    let what = "the shim goes with its pod";
    poll::until(what, Duration::from_secs(10), || {
        match Process::look(shim.pid) {
            None => Ok(()),
            Some(left) => Err(left.command),
        }
    })
}

fn namespace(of: &std::path::Path, kind: &str) -> Result<PathBuf> {
    let path = of.join("ns").join(kind);
    std::fs::read_link(&path).with_context(|| path.display().to_string())
}

fn process(containerd: &Containerd, id: &str) -> Result<PathBuf> {
    Ok(format!("/proc/{}", containerd.task(id).pid()?).into())
}

fn a_pod_has_no_pause_container_and_leaves_nothing(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = pod(&cri, "alone").run()?;
    ensure!(pod.status()?.state() == PodSandboxState::SandboxReady);
    ensure!(pod.address()?.starts_with("10.88."), "{}", pod.address()?);
    let containers = containerd
        .ctr(["containers", "list", "--quiet"])
        .success()?;
    ensure!(
        !containers.stdout.contains(pod.id()),
        "a pause container: {}",
        containers.stdout
    );
    let shim = shim_of(containerd, &pod)?;
    let held = holder(&shim, &pod)?;
    let container = pod.container("sleep", &image).start()?;
    container.writes("sleeping")?;
    pod.stop()?;
    ensure!(pod.status()?.state() == PodSandboxState::SandboxNotready);
    ensure!(container.wait()?.exit_code == 137);
    pod.remove()?;
    ensure!(!held.exists(), "the sandbox's thread is left");
    gone(&shim)
}

fn wasm_and_linux_containers_are_in_the_pod(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = pod(&cri, "several").run()?;
    let shim = shim_of(containerd, &pod)?;
    let held = holder(&shim, &pod)?;
    let app = pod.container("app", &wasm).start()?;
    app.writes("sleeping")?;
    let sidecar = pod.container("sidecar", &linux).args(["block"]).start()?;
    for id in [app.id(), sidecar.id()] {
        let process = process(containerd, id)?;
        for kind in ["net", "ipc", "uts"] {
            ensure!(
                namespace(&process, kind)? == namespace(&held, kind)?,
                "another {kind} namespace than the pod's"
            );
        }
    }
    let task = process(containerd, app.id())?;
    let number = task.file_name().context("a number")?;
    let thread = PathBuf::from(format!("/proc/{}/task", shim.pid)).join(number);
    ensure!(thread.exists(), "the container is in another shim");
    let probe = sidecar.exec(["/hello", "exit", "4"])?;
    ensure!(probe.exit_code == 4, "{probe:?}");
    ensure!(app.stats()?.memory.is_some());
    sidecar.stop(0)?;
    sidecar.remove()?;
    ensure!(pod.status()?.state() == PodSandboxState::SandboxReady);
    pod.remove()?;
    gone(&shim)
}

fn a_pods_files_are_in_its_containers(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "files")?;
    let pod = pod(&cri, "files")
        .with(|config| {
            config.dns_config = Some(DnsConfig {
                servers: vec!["10.88.0.53".to_owned()],
                searches: vec!["tests.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            });
        })
        .run()?;
    let hosts = std::fs::read_to_string("/etc/hosts")?;
    let first = hosts.lines().next().context("a line in /etc/hosts")?;
    for (number, file, expected) in [
        (
            0,
            "/etc/resolv.conf",
            "search tests.local\nnameserver 10.88.0.53\noptions ndots:5",
        ),
        (1, "/etc/hostname", "files"),
        (2, "/etc/hosts", first),
    ] {
        let container = pod
            .container(&format!("files-{number}"), &image)
            .args(["read", file])
            .start()?;
        container.wait()?;
        let log = container.log()?;
        ensure!(log.contains(expected), "{file}: {log}");
    }
    pod.remove()
}

fn a_pod_has_its_kernel_parameters_and_its_name(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let pod = pod(&cri, "tuned")
        .sysctl("net.ipv4.ip_default_ttl", "42")
        .run()?;
    let shim = shim_of(containerd, &pod)?;
    let held = holder(&shim, &pod)?;
    let number = held
        .file_name()
        .context("a number")?
        .to_string_lossy()
        .into_owned();
    let inside = |command: &[&str]| -> Result<String> {
        let output = Invocation::new("nsenter")
            .args([&format!("--target={number}"), "--net", "--uts"])
            .args(command)
            .success()?;
        Ok(output.stdout.trim().to_owned())
    };
    let ttl = inside(&["cat", "/proc/sys/net/ipv4/ip_default_ttl"])?;
    ensure!(ttl == "42", "{ttl}");
    let name = inside(&["uname", "--nodename"])?;
    ensure!(name == "tuned", "{name}");
    pod.remove()
}

fn a_pod_outlives_the_daemon(containerd: &Containerd) -> Result<()> {
    let node = Containerd::builder(containerd.version()).node();
    let mut containerd = node.env("ENABLE_CRI_SANDBOXES", "1").start()?;
    let cri = Cri::connect(&containerd)?;
    let image = image(&containerd, &cri, "sleep")?;
    let pod = pod(&cri, "lasting").run()?;
    let container = pod.container("sleep", &image).start()?;
    container.writes("sleeping")?;
    containerd.restart()?;
    poll::until(
        "the pod is known again",
        Duration::from_secs(20),
        || match pod.status().map(|status| status.state()) {
            Ok(PodSandboxState::SandboxReady) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )?;
    let later = pod.container("later", &image).start()?;
    later.writes("sleeping")?;
    pod.remove()?;
    containerd.stop()
}

fn a_pod_may_have_the_nodes_network(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = pod(&cri, "host").host_network().run()?;
    let container = pod.container("sleep", &image).start()?;
    container.writes("sleeping")?;
    let held = holder(&shim_of(containerd, &pod)?, &pod)?;
    let node = namespace(&PathBuf::from(format!("/proc/{}", containerd.pid())), "net")?;
    for thread in [held, process(containerd, container.id())?] {
        ensure!(namespace(&thread, "net")? == node, "{thread:?}");
    }
    pod.remove()
}

fn a_pod_whose_shim_is_killed_is_known_to_have_ended(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let pod = pod(&cri, "killed").run()?;
    let container = pod.container("sleep", &image).start()?;
    container.writes("sleeping")?;
    let shim = shim_of(containerd, &pod)?;
    shim.signal(Signal::KILL);
    gone(&shim)?;
    // As CRI says it of all that it has lost.
    ensure!(container.wait()?.exit_code == 255);
    poll::until("the pod has ended", Duration::from_secs(20), || {
        match pod.status().map(|status| status.state()) {
            Ok(PodSandboxState::SandboxNotready) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    pod.remove()
}

fn a_sidecar_does_not_outlive_a_killed_shim(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = pod(&cri, "killed-mixed").run()?;
    let app = pod.container("app", &wasm).start()?;
    let sidecar = pod.container("sidecar", &linux).args(["block"]).start()?;
    app.writes("sleeping")?;
    let process = process(containerd, sidecar.id())?;
    let shim = shim_of(containerd, &pod)?;
    shim.signal(Signal::KILL);
    gone(&shim)?;
    for container in [&app, &sidecar] {
        ensure!(container.wait()?.exit_code == 255);
    }
    let id = pod.id().to_owned();
    pod.remove()?;
    poll::until(
        "the sidecar's process is gone",
        Duration::from_secs(20),
        || {
            if process.exists() {
                return Err(process.display().to_string());
            }
            match containerd
                .shims()
                .into_iter()
                .find(|shim| shim.command.contains(&id))
            {
                None => Ok(()),
                Some(left) => Err(left.command),
            }
        },
    )
}

/// As `hostUsers: false` has it.
fn with_users(options: &mut NamespaceOption) {
    let ids = || {
        vec![IdMapping {
            host_id: 100_000,
            container_id: 0,
            length: 65_536,
        }]
    };
    options.userns_options = Some(UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids(),
        gids: ids(),
    });
}

fn a_pod_that_cannot_be_is_refused(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let before = containerd.shims().len();
    let run = pod(&cri, "users")
        .with(|config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            with_users(context.namespace_options.get_or_insert_default());
        })
        .run();
    let error = format!("{:#}", run.err().context("it runs")?);
    ensure!(error.contains("hostUsers: false"), "{error}");
    poll::until(
        "no shim is left of it",
        Duration::from_secs(10),
        || match containerd.shims().len() {
            now if now <= before => Ok(()),
            now => Err(format!("{now} shims, {before} before")),
        },
    )
}

fn processes_are_not_shared_without_a_pause_image(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = pod(&cri, "unshared").run()?;
    let container = pod
        .container("one", &linux)
        .with(|config| {
            let linux = config.linux.get_or_insert_default();
            let context = linux.security_context.get_or_insert_default();
            let options = context.namespace_options.get_or_insert_default();
            options.pid = NamespaceMode::Pod.into();
        })
        .create()?;
    let error = format!("{:#}", container.start().err().context("it starts")?);
    ensure!(error.contains("pause image"), "{error}");
    pod.remove()
}

/// Its containers need ID-mapped mounts, which older releases of runc do not have.
fn a_pod_with_users_of_its_own_is_a_real_one(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    // The node's pause image, too.
    linux(containerd, &cri)?;
    let pod = cri.pod("mapped").with(|config| {
        let linux = config.linux.get_or_insert_default();
        let context = linux.security_context.get_or_insert_default();
        with_users(context.namespace_options.get_or_insert_default());
    });
    let pod = pod.run()?;
    let sandbox = process(containerd, pod.id())?;
    let users = namespace(&sandbox, "user")?;
    ensure!(
        users != std::fs::read_link("/proc/self/ns/user")?,
        "{users:?}"
    );
    let map = std::fs::read_to_string(sandbox.join("uid_map"))?;
    let map: Vec<_> = map.split_whitespace().collect();
    ensure!(map == ["0", "100000", "65536"], "{map:?}");
    pod.stop()?;
    ensure!(!sandbox.exists(), "the pause container is left");
    pod.remove()
}
