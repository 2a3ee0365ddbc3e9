//! What the Sandbox service says that a pod uses, where the kubelet has made it a cgroup.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use containerd_shim_protos::cgroups::metrics::Metrics as V1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as V2;
use containerd_shim_protos::sandbox_api::{
    SandboxMetricsRequest, ShutdownSandboxRequest, StartSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use integration_tests::cgroups::{Below, is_v2, mount};
use integration_tests::fake::FakeContainerd;
use integration_tests::sandbox::{POD, create, creation, pod, served};
use integration_tests::tasks::{Api, Tasks};
use integration_tests::{ask, guests, poll};
use k8s_cri::v1::NamespaceMode;
use protobuf::Message as _;

const MIB: u64 = 1 << 20;
/// What the guest writes to.
const GUEST: u32 = 24;
/// What the process has of it in its variable.
const LINUX: u64 = 16;

/// A process beside the shim in the pod's cgroup, as a Linux container has it, which has taken its memory.
struct Linux(Child);

impl Linux {
    fn start(folder: &Path) -> Result<Self> {
        fs::create_dir(folder).with_context(|| folder.display().to_string())?;
        let script = format!(
            "echo 0 > {}/cgroup.procs || exit
             all=$(head -c {} /dev/zero | tr '\\0' x)
             echo ready; read end",
            folder.display(),
            LINUX * MIB
        );
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut linux = Self(child);
        let mut line = String::new();
        let stdout = linux.0.stdout.as_mut().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "{line:?}");
        Ok(linux)
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Of a pod: its memory in use, what of it belongs to programs, and the processor time, in nanoseconds.
fn used(client: &SandboxClient) -> Result<(u64, u64, u64)> {
    let metrics = ask!(client, sandbox_metrics, SandboxMetricsRequest, POD)?.metrics;
    let data = &metrics.data;
    Ok(match (is_v2(), data.type_url.as_str()) {
        (false, "io.containerd.cgroups.v1.Metrics") => {
            let all = V1::parse_from_bytes(&data.value)?;
            let usage = all.memory.usage.usage;
            (usage, all.memory.total_rss, all.cpu.usage.total)
        }
        (true, "io.containerd.cgroups.v2.Metrics") => {
            let all = V2::parse_from_bytes(&data.value)?;
            let cpu = all.cpu.usage_usec * 1000;
            (all.memory.usage, all.memory.anon, cpu)
        }
        (_, other) => bail!("{other}"),
    })
}

#[test]
fn a_pod_uses_what_its_cgroup_counts() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let parent = Below::of(&fake)?;
    let (address, client, bundle) = served(&fake)?;
    let mut config = pod(NamespaceMode::Node);
    let linux = config.linux.get_or_insert_default();
    parent.path().clone_into(&mut linux.cgroup_parent);
    create(&client, &creation(&bundle, &config))?;
    ask!(client, start_sandbox, StartSandboxRequest, POD)?;

    let beside = mount("memory").join(format!("{}/linux", &parent.path()[1..]));
    let process = Linux::start(&beside)?;
    let tasks = Tasks::connect(&address, Api::V3)?;
    let container = fake
        .bundle("app")
        .file("/app.wasm", guests::fills(GUEST)?)
        .args(["/app.wasm"])
        .annotation("io.kubernetes.cri.sandbox-id", POD)
        .edit(|spec| spec["linux"]["cgroupsPath"] = format!("{}/app", parent.path()).into())
        .write()?;
    tasks.create(&container)?;
    tasks.start("app")?;
    poll::until(
        "the pod uses what both have",
        Duration::from_secs(20),
        || {
            let wanted = (u64::from(GUEST) + LINUX) * MIB;
            match used(&client) {
                Ok((usage, programs, cpu)) if usage.min(programs) >= wanted && cpu > 0 => Ok(()),
                other => Err(format!("{other:?}, and not {wanted}")),
            }
        },
    )?;

    drop(process);
    ask!(client, shutdown_sandbox, ShutdownSandboxRequest, POD)?;
    fake.shims_end()?;
    fs::remove_dir(&beside).with_context(|| beside.display().to_string())?;
    Ok(())
}
