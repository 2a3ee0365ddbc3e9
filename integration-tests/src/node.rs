//! What makes a private containerd a Kubernetes node: its CRI plugin, a network for pods, and a network
//! namespace for all of it, so that no bridge and no address of theirs is seen on the machine.
//!
//! ```text
//! <folder>/net           the namespace, kept by a bind mount
//! <folder>/cni/          the one network: a bridge, addresses of 10.88.0.0/16
//! ```
//!
//! Three runtime handlers: `wasi` is ours, `runc` the oracle, and `sandbox` is ours without a pause image
//! (`sandboxer = "shim"`; containerd 1.7 knows it as `sandbox_mode`, with `ENABLE_CRI_SANDBOXES` in its
//! environment).

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::invocation::Invocation;
use crate::version::Version;
use crate::{RUNC, WASI};

/// The image of the pause container.
pub const PAUSE: &str = "example.test/pause:1";

const NETWORK: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
    "ipam": { "type": "host-local", "dataDir": "FOLDER/cni/addresses",
              "ranges": [[{ "subnet": "10.88.0.0/16" }]], "routes": [{ "dst": "0.0.0.0/0" }] }
  }]
}"#;

/// Makes the namespace and the network's description.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let (net, cni) = (folder.join("net"), folder.join("cni/conf"));
    std::fs::write(&net, "").context("a file for the network namespace")?;
    let mut kept = std::ffi::OsString::from("--net=");
    kept.push(&net);
    Invocation::new("unshare")
        .arg(kept)
        .args(["ip", "link", "set", "lo", "up"])
        .success()?;
    std::fs::create_dir_all(&cni).context("a folder for the network")?;
    let network = NETWORK.replace("FOLDER", &folder.to_string_lossy());
    std::fs::write(cni.join("10-pods.conflist"), network).context("describe the network")
}

/// `program`, to be run in the namespace.
pub(crate) fn inside(folder: &Path, program: &Path) -> Command {
    let mut net = std::ffi::OsString::from("--net=");
    net.push(folder.join("net"));
    let mut command = Command::new("nsenter");
    // Not `ip netns exec`, which mounts another /sys.
    command.arg(net).arg(program);
    command
}

/// What containerd's configuration has more than that of a private one.
pub(crate) fn config(folder: &Path, version: &Version) -> String {
    let plugins = crate::target().join("containerd/cni/usr/lib/cni");
    let plugins = plugins.canonicalize().unwrap_or(plugins);
    let (folder, plugins) = (folder.display(), plugins.display());
    let sandboxer = if version.at_least(2, 0) {
        "sandboxer = \"shim\""
    } else if version.at_least(1, 7) {
        "sandbox_mode = \"shim\""
    } else {
        ""
    };
    let annotations = r#"pod_annotations = ["*"]
  container_annotations = ["*"]"#;
    format!(
        r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE no score can be lowered.
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  enable_unprivileged_ports = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "{folder}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "{RUNC}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wasi]
  runtime_type = "{WASI}"
  {annotations}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.sandbox]
  runtime_type = "{WASI}"
  {sandboxer}
  {annotations}
"#
    )
}
