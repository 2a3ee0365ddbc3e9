//! The Sandbox service of the real binary, request by request: what containerd's CRI plugin does not ask, and what
//! it never asks in this order.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::cgroups::metrics::Metrics as V1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as V2;
use containerd_shim_protos::sandbox_api::{
    CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest,
    SandboxStatusRequest, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
    WaitSandboxRequest,
};
use containerd_shim_protos::sandbox_sync::SandboxClient;
use integration_tests::fake::FakeContainerd;
use integration_tests::sandbox::{POD, create, creation, pod, served};
use integration_tests::tasks::{Api, Tasks, code, message};
use integration_tests::{ask, guests, poll};
use k8s_cri::v1::NamespaceMode;
use protobuf::Message as _;
use ttrpc::{Client, Code};

/// What the pod uses, in bytes.
fn memory(client: &SandboxClient) -> Result<u64> {
    let metrics = ask!(client, sandbox_metrics, SandboxMetricsRequest, POD)?.metrics;
    ensure!(metrics.id == POD, "{metrics:?}");
    Ok(match metrics.data.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let all = V1::parse_from_bytes(&metrics.data.value)?;
            all.memory.usage.usage
        }
        "io.containerd.cgroups.v2.Metrics" => {
            V2::parse_from_bytes(&metrics.data.value)?.memory.usage
        }
        other => anyhow::bail!("{other}"),
    })
}

#[test]
fn a_sandbox_tells_of_itself_from_its_start_to_its_end() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (address, client, bundle) = served(&fake)?;
    let early = ask!(client, sandbox_status, SandboxStatusRequest, POD);
    ensure!(code(&early) == Some(Code::NOT_FOUND), "{early:?}");
    create(&client, &creation(&bundle, &pod(NamespaceMode::Node)))?;
    let again = create(&client, &creation(&bundle, &pod(NamespaceMode::Node)));
    ensure!(code(&again) == Some(Code::ALREADY_EXISTS), "{again:?}");
    let status = ask!(client, sandbox_status, SandboxStatusRequest, POD)?;
    ensure!(status.state == "SANDBOX_NOTREADY", "{status:?}");
    let started = ask!(client, start_sandbox, StartSandboxRequest, POD)?;
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let theirs = std::fs::read_link(format!("/proc/{}/ns/net", started.pid))?;
    ensure!(own == theirs, "{theirs:?} is not the node's network");

    let platform = ask!(client, platform, PlatformRequest, POD)?.platform;
    ensure!(platform.os == "linux", "{platform:?}");
    ask!(client, ping_sandbox, PingRequest, POD)?;
    let other = ask!(client, ping_sandbox, PingRequest, "other");
    ensure!(code(&other) == Some(Code::NOT_FOUND), "{other:?}");
    let mut verbose = SandboxStatusRequest::new();
    POD.clone_into(&mut verbose.sandbox_id);
    verbose.verbose = true;
    let context = ttrpc::context::with_timeout(20_000_000_000);
    let status = client.sandbox_status(context, &verbose)?;
    ensure!(status.state == "SANDBOX_READY", "{status:?}");
    ensure!(status.pid == started.pid, "{status:?}");
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    let name = &info["runtimeSpec"]["annotations"]["io.kubernetes.cri.sandbox-name"];
    ensure!(name == "web", "{info}");

    let tasks = Tasks::connect(&address, Api::V3)?;
    let container = fake
        .bundle("app")
        .file("/app.wasm", guests::fills(3)?)
        .args(["/app.wasm"])
        .annotation("io.kubernetes.cri.sandbox-id", POD)
        .write()?;
    tasks.create(&container)?;
    tasks.start("app")?;
    // It has its memory when it has been started, and a moment later.
    poll::until(
        "its memory is the pod's",
        Duration::from_secs(20),
        || match memory(&client) {
            Ok(used) if used == 3 << 20 => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )?;

    ask!(client, stop_sandbox, StopSandboxRequest, POD)?;
    let ended = ask!(client, wait_sandbox, WaitSandboxRequest, POD)?;
    ensure!(ended.exit_status == 137, "{ended:?}");
    let status = ask!(client, sandbox_status, SandboxStatusRequest, POD)?;
    ensure!(status.state == "SANDBOX_NOTREADY", "{status:?}");
    ensure!(status.exited_at.is_some(), "{status:?}");
    ask!(client, stop_sandbox, StopSandboxRequest, POD).context("twice")?;
    ask!(client, shutdown_sandbox, ShutdownSandboxRequest, POD)?;
    fake.shims_end()
}

#[test]
fn what_cannot_be_a_sandbox_is_refused_by_name() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (_, client, bundle) = served(&fake)?;
    let refused = |request: CreateSandboxRequest, words: &str| -> Result<()> {
        let answer = create(&client, &request);
        ensure!(code(&answer) == Some(Code::INVALID_ARGUMENT), "{answer:?}");
        let told = message(answer);
        ensure!(told.contains(words), "{told:?} does not say {words:?}");
        Ok(())
    };
    let mut other = creation(&bundle, &pod(NamespaceMode::Node));
    other.options.mut_or_insert_default().type_url = "somebody.Else".to_owned();
    refused(other, "somebody.Else")?;
    let mut broken = creation(&bundle, &pod(NamespaceMode::Node));
    broken.options.mut_or_insert_default().value = vec![0xff];
    refused(broken, "PodSandboxConfig")?;
    refused(
        creation(&bundle, &pod(NamespaceMode::Pod)),
        "no network namespace",
    )?;
    // None of them is in the way of one that can.
    create(&client, &creation(&bundle, &pod(NamespaceMode::Node)))?;
    ask!(client, shutdown_sandbox, ShutdownSandboxRequest, POD)?;
    fake.shims_end()
}

#[test]
fn what_newer_daemons_ask_is_unimplemented() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (address, client, bundle) = served(&fake)?;
    create(&client, &creation(&bundle, &pod(NamespaceMode::Node)))?;
    let connection = Client::connect(&address)?;
    for method in ["PortForward", "UpdateSandbox"] {
        let mut request = ttrpc::Request::new();
        "containerd.runtime.sandbox.v1.Sandbox".clone_into(&mut request.service);
        method.clone_into(&mut request.method);
        let answer = connection.request(request);
        ensure!(code(&answer) == Some(Code::UNIMPLEMENTED), "{answer:?}");
    }
    ask!(client, shutdown_sandbox, ShutdownSandboxRequest, POD)?;
    fake.shims_end()
}
