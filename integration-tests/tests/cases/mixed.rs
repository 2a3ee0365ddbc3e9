//! Pods with Linux containers in them, and what else a kubelet asks of a pod.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::image::Image;
use integration_tests::native;
use integration_tests::poll;
use integration_tests::processes::Process;
use k8s_cri::v1::{
    Int64Value, LinuxContainerResources, LinuxContainerSecurityContext, Mount, NamespaceMode,
    NamespaceOption, UpdateContainerResourcesRequest,
};

use super::metrics::{metrics, number};
use super::pods::image;

cases![
    linux_containers_are_in_the_pod_of_wasm_ones,
    an_init_container_comes_before_the_wasm_one,
    a_linux_container_of_a_pod_is_asked_as_any,
    a_pods_volumes_and_user_are_a_wasm_containers_too,
    the_limits_of_a_container_are_changed,
    a_linux_container_may_be_what_no_wasm_container_can_be,
];

/// The image of a Linux program.
pub(super) fn linux(containerd: &Containerd, cri: &Cri) -> Result<Image> {
    let image = native::image()?.renamed("mixed-linux:1");
    cri.import(containerd, &image)?;
    Ok(image)
}

pub(super) fn namespace(containerd: &Containerd, id: &str, kind: &str) -> Result<PathBuf> {
    let path = format!("/proc/{}/ns/{kind}", containerd.task(id).pid()?);
    std::fs::read_link(&path).with_context(|| path)
}

/// The shims of Linux containers that there are for a pod.
pub(super) fn children(containerd: &Containerd, pod: &str) -> Vec<Process> {
    let name = format!("{pod}-wasi");
    let mut shims = containerd.shims();
    shims.retain(|shim| shim.command.contains(&name));
    shims
}

fn linux_containers_are_in_the_pod_of_wasm_ones(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = cri.pod("mixed").run()?;
    let app = pod.container("app", &wasm).start()?;
    app.writes("sleeping")?;
    ensure!(
        children(containerd, pod.id()).is_empty(),
        "a shim that nobody needs"
    );
    let one = pod.container("one", &linux).args(["block"]).start()?;
    let two = pod.container("two", &linux).args(["block"]).start()?;
    ensure!(
        children(containerd, pod.id()).len() == 1,
        "not one shim for both"
    );
    for kind in ["net", "ipc", "uts"] {
        let own = namespace(containerd, pod.id(), kind)?;
        for container in [&app, &one, &two] {
            let joined = namespace(containerd, container.id(), kind)?;
            ensure!(joined == own, "another {kind} namespace than the pod's");
        }
    }
    for kind in ["pid", "mnt"] {
        let node = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        let first = namespace(containerd, one.id(), kind)?;
        let second = namespace(containerd, two.id(), kind)?;
        let own = first != second && first != node && second != node;
        ensure!(own, "{kind}: {first:?}, {second:?}, the node's {node:?}");
    }
    for container in [one, two] {
        container.stop(0)?;
        ensure!(container.wait()?.exit_code == 137);
        container.remove()?;
    }
    poll::until(
        "the unneeded shim goes",
        Duration::from_secs(10),
        || match children(containerd, pod.id()).len() {
            0 => Ok(()),
            some => Err(format!("{some} left")),
        },
    )?;
    // The pod goes on.
    let later = pod.container("later", &linux).start()?;
    ensure!(later.wait()?.exit_code == 0);
    pod.remove()
}

fn an_init_container_comes_before_the_wasm_one(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "hello")?, linux(containerd, &cri)?);
    let pod = cri.pod("init").run()?;
    let init = pod.container("init", &linux).start()?;
    ensure!(init.wait()?.exit_code == 0);
    ensure!(init.log()? == "hello from linux\n", "{}", init.log()?);
    let app = pod.container("app", &wasm).start()?;
    ensure!(app.wait()?.exit_code == 0);
    pod.remove()
}

fn a_linux_container_of_a_pod_is_asked_as_any(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let linux = linux(containerd, &cri)?;
    let pod = cri.pod("sidecar").run()?;
    let sidecar = pod.container("sidecar", &linux).args(["block"]).start()?;
    let probe = sidecar.exec(["/hello", "exit", "4"])?;
    ensure!(probe.exit_code == 4, "{probe:?}");
    let memory = sidecar.stats()?.memory.context("memory")?;
    ensure!(memory.working_set_bytes.is_some(), "{memory:?}");
    pod.stop()?;
    ensure!(sidecar.wait()?.exit_code == 137);
    pod.remove()
}

fn a_pods_volumes_and_user_are_a_wasm_containers_too(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "files")?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("single");
    std::fs::write(&file, "of the host\n")?;
    let termination = folder.path().join("termination-log");
    std::fs::write(&termination, "")?;
    let pod = cri.pod("volumes").run()?;
    let container = pod
        .container("files", &image)
        .args(["read", "/etc/app/single"])
        .mount(&file, "/etc/app/single")
        .mount(&termination, "/dev/termination-log")
        .with(|config| {
            config.mounts.push(Mount {
                host_path: folder.path().display().to_string(),
                container_path: "/volume".to_owned(),
                readonly: true,
                ..Mount::default()
            });
            if let Some(linux) = &mut config.linux {
                linux.security_context = Some(LinuxContainerSecurityContext {
                    run_as_user: Some(Int64Value { value: 0 }),
                    readonly_rootfs: true,
                    namespace_options: Some(NamespaceOption {
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxContainerSecurityContext::default()
                });
            }
        })
        .start()?;
    container.wait()?;
    let log = container.log()?;
    ensure!(log.contains("of the host"), "{log}");
    pod.remove()
}

fn the_limits_of_a_container_are_changed(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "sleep")?, linux(containerd, &cri)?);
    let pod = cri.pod("limits").run()?;
    for container in [
        pod.container("app", &wasm).start()?,
        pod.container("sidecar", &linux).args(["block"]).start()?,
    ] {
        let request = UpdateContainerResourcesRequest {
            container_id: container.id().to_owned(),
            linux: Some(LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                ..LinuxContainerResources::default()
            }),
            ..UpdateContainerResourcesRequest::default()
        };
        cri.ask("update the container", |mut client| async move {
            client.update_container_resources(request).await
        })?;
        let told = metrics(containerd, container.id())?;
        let limit = number(&told, "/memory/usage/limit", "/memory/usage_limit");
        ensure!(limit == 64 << 20, "{limit}");
    }
    pod.remove()
}

fn a_linux_container_may_be_what_no_wasm_container_can_be(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (wasm, linux) = (image(containerd, &cri, "hello")?, linux(containerd, &cri)?);
    // An annotation of ours with a value that it cannot have.
    let nonsense = |config: &mut k8s_cri::v1::ContainerConfig| {
        let (key, value) = ("io.containerd.wasi.v1.allow-net", "nonsense");
        let annotations = &mut config.annotations;
        annotations.insert(key.to_owned(), value.to_owned());
    };
    let pod = cri.pod("unplanned").run()?;
    let sidecar = pod.container("sidecar", &linux).with(nonsense).start()?;
    ensure!(sidecar.wait()?.exit_code == 0);
    let log = sidecar.log()?;
    ensure!(log == "hello from linux\n", "{log}");
    let app = pod.container("app", &wasm).with(nonsense).create()?;
    let error = format!("{:#}", app.start().err().context("it starts")?);
    ensure!(error.contains("allow-net"), "{error}");
    pod.remove()
}
