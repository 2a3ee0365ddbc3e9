//! The Sandbox service of a shim under the fake containerd, which asks as containerd's CRI plugin does.

use anyhow::Result;
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use containerd_shim_protos::sandbox_sync::SandboxClient;
use k8s_cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata,
};
use prost::Message as _;
use protobuf::well_known_types::any::Any;
use ttrpc::Client;

use crate::bundle::Bundle;
use crate::dialect::Dialect;
use crate::fake::FakeContainerd;

/// The id of the sandbox.
pub const POD: &str = "pod";

/// The bundle of a sandbox, in which containerd writes no `config.json`, and its shim.
///
/// # Errors
///
/// When the shim does not start.
pub fn served(fake: &FakeContainerd) -> Result<(String, SandboxClient, Bundle)> {
    let bundle = fake.bundle(POD).write()?;
    std::fs::remove_file(bundle.path().join("config.json"))?;
    let address = fake.start(&bundle, Dialect::Bootstrap)?.address;
    let client = SandboxClient::new(Client::connect(&address)?);
    Ok((address, client, bundle))
}

/// A pod that has the node's namespaces, or asks for its own.
#[must_use]
pub fn pod(mode: NamespaceMode) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web".to_owned(),
            ..PodSandboxMetadata::default()
        }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    network: mode.into(),
                    ipc: mode.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

/// What containerd asks for of that pod.
#[must_use]
pub fn creation(bundle: &Bundle, pod: &PodSandboxConfig) -> CreateSandboxRequest {
    let mut request = CreateSandboxRequest::new();
    POD.clone_into(&mut request.sandbox_id);
    request.bundle_path = bundle.path().display().to_string();
    request.options = Some(Any {
        type_url: "runtime.v1.PodSandboxConfig".to_owned(),
        value: pod.encode_to_vec(),
        ..Any::default()
    })
    .into();
    request
}

/// Makes a sandbox.
///
/// # Errors
///
/// What the shim answers.
pub fn create(client: &SandboxClient, request: &CreateSandboxRequest) -> ttrpc::Result<()> {
    let context = ttrpc::context::with_timeout(20_000_000_000);
    client.create_sandbox(context, request).map(drop)
}

/// A method of a sandbox, by name.
#[macro_export]
macro_rules! ask {
    ($client:expr, $method:ident, $request:ident, $id:expr) => {{
        let mut request = $request::new();
        $id.clone_into(&mut request.sandbox_id);
        $client.$method(ttrpc::context::with_timeout(20_000_000_000), &request)
    }};
}
