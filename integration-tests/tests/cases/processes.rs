//! Pods whose Linux containers share their processes (`shareProcessNamespace: true`).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::poll;
use integration_tests::processes::Process;
use k8s_cri::v1::{LinuxContainerSecurityContext, NamespaceMode, NamespaceOption};
use rustix::process::Signal;

use super::mixed::{children, linux, namespace};
use super::pods::image;

cases![
    the_linux_containers_of_a_pod_may_see_each_others_processes,
    a_pause_container_that_died_is_replaced,
    a_killed_shim_leaves_no_pause_container,
    the_processes_of_a_wasm_container_are_none,
];

/// As `shareProcessNamespace: true` has it.
fn shares_processes(config: &mut k8s_cri::v1::ContainerConfig) {
    let options = NamespaceOption {
        pid: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(LinuxContainerSecurityContext {
            namespace_options: Some(options),
            ..LinuxContainerSecurityContext::default()
        });
    }
}

fn the_linux_containers_of_a_pod_may_see_each_others_processes(
    containerd: &Containerd,
) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = cri.pod("processes").run()?;
    let app = pod.container("app", &wasm).with(shares_processes).start()?;
    app.writes("sleeping")?;
    ensure!(
        children(containerd, pod.id()).is_empty(),
        "a pause container that nobody needs"
    );
    let one = pod
        .container("one", &linux)
        .args(["block", "the-other"])
        .with(shares_processes)
        .start()?;
    let two = pod
        .container("two", &linux)
        .args(["block"])
        .with(shares_processes)
        .start()?;
    let seen = two.exec(["/hello", "processes"])?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    ensure!(
        seen.lines().any(|line| line == "/hello block the-other"),
        "{seen}"
    );
    let alone = pod.container("alone", &linux).args(["block"]).start()?;
    let seen = alone.exec(["/hello", "processes"])?;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    ensure!(!seen.contains("the-other"), "{seen}");
    let node = std::fs::read_link("/proc/self/ns/pid")?;
    let shared = namespace(containerd, one.id(), "pid")?;
    ensure!(shared != node, "the node's processes");
    ensure!(shared == namespace(containerd, two.id(), "pid")?);
    for kind in ["net", "ipc", "uts"] {
        let own = namespace(containerd, pod.id(), kind)?;
        ensure!(own == namespace(containerd, one.id(), kind)?, "{kind}");
    }
    // The first that joined is gone, what it joined is not.
    one.stop(0)?;
    one.remove()?;
    let three = pod
        .container("three", &linux)
        .args(["block"])
        .with(shares_processes)
        .start()?;
    ensure!(namespace(containerd, three.id(), "pid")? == shared);
    let pause = format!("{}-pause", pod.id());
    ensure!(runc_knows(&pause), "there is no pause container");
    pod.remove()?;
    runc_forgets(&pause)
}

fn a_pause_container_that_died_is_replaced(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("replaced").run()?;
    let joining = |name| {
        let container = pod.container(name, &linux).args(["block"]);
        container.with(shares_processes)
    };
    let one = joining("one").start()?;
    let state = of_runc(&format!("{}-pause", pod.id())).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state)?)?;
    let pid = state["init_process_pid"].as_i64().context("a pid")?;
    let pause = Process::look(i32::try_from(pid)?).context("it is gone")?;
    // The kernel ends all that share its processes with it.
    pause.signal(Signal::KILL);
    ensure!(one.wait()?.exit_code == 137);
    let two = joining("two").start()?;
    let probe = two.exec(["/hello", "exit", "4"])?;
    ensure!(probe.exit_code == 4, "{probe:?}");
    pod.remove()
}

fn a_killed_shim_leaves_no_pause_container(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("killed").run()?;
    let container = pod.container("one", &linux).args(["block"]);
    let container = container.with(shares_processes).start()?;
    let pause = format!("{}-pause", pod.id());
    ensure!(runc_knows(&pause), "there is no pause container");
    let mut shims = containerd.shims().into_iter();
    let shim =
        shims.find(|shim| shim.command.contains("shim-wasi") && shim.command.contains(pod.id()));
    shim.context("the pod has no shim")?.signal(Signal::KILL);
    runc_forgets(&pause)?;
    ensure!(container.wait()?.exit_code != 0);
    pod.remove()
}

fn runc_forgets(id: &str) -> Result<()> {
    let what = "the pause container goes with its pod";
    poll::until(what, Duration::from_secs(20), || {
        if runc_knows(id) {
            return Err("it is left".to_owned());
        }
        Ok(())
    })
}

/// Whether runc has a container of that id in Kubernetes' namespace.
fn runc_knows(id: &str) -> bool {
    of_runc(id).exists()
}

/// What runc knows of it.
fn of_runc(id: &str) -> PathBuf {
    PathBuf::from("/run/containerd/runc/k8s.io").join(id)
}

fn the_processes_of_a_wasm_container_are_none(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = cri.pod("debugged").run()?;
    let app = pod.container("app", &wasm).start()?;
    app.writes("sleeping")?;
    let target = app.id().to_owned();
    let debugger = pod
        .container("debugger", &linux)
        .with(shares_processes)
        .with(|config| {
            let linux = config.linux.as_mut();
            let context = linux.and_then(|linux| linux.security_context.as_mut());
            let options = context.and_then(|context| context.namespace_options.as_mut());
            if let Some(options) = options {
                options.pid = NamespaceMode::Target.into();
                options.target_id = target;
            }
        })
        .create()?;
    let error = format!("{:#}", debugger.start().err().context("it starts")?);
    ensure!(error.contains("process namespace"), "{error}");
    pod.remove()
}
