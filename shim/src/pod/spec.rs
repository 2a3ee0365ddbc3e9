//! The OCI specification of a pod's sandbox, made from what the kubelet asks for: what containerd's CRI plugin
//! writes for a pause container, as far as a holder of namespaces has a use for it (containerd
//! `internal/cri/server/podsandbox/sandbox_run_linux.go`).

use std::path::Path;

use serde_json::{Value, json};

use crate::Error;
use crate::content::messages::cri::PodSandboxConfig;

/// The modes of a namespace, of which two matter here.
const POD: i32 = 0;
const NODE: i32 = 2;

/// The specification of the sandbox `id`, whose network is the namespace at `network`; empty for the node's.
///
/// # Errors
///
/// [`Error::Pod`] for a user namespace, and for a network of its own that is nowhere.
pub fn spec(id: &str, network: &Path, config: &PodSandboxConfig) -> Result<Value, Error> {
    let context = &config.linux.security_context;
    let options = &context.namespace_options;
    let refused = |problem: &str| Err(Error::Pod(problem.to_owned()));
    if let Some(user) = options.userns_options.as_ref()
        && user.mode == POD
    {
        return refused(
            "a user namespace (hostUsers: false) needs a pause container; use a handler without sandboxer = \"shim\"",
        );
    }
    let mut namespaces = vec![];
    let shares_network = options.network == NODE;
    if !shares_network {
        if network.as_os_str().is_empty() {
            return refused(
                "containerd names no network namespace for it, and it is not to have the node's",
            );
        }
        namespaces.push(json!({ "type": "network", "path": network }));
        namespaces.push(json!({ "type": "uts" }));
    }
    if options.ipc != NODE {
        namespaces.push(json!({ "type": "ipc" }));
    }
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/pause"] },
        "root": { "path": "rootfs", "readonly": true },
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": id,
            "io.kubernetes.cri.sandbox-name": config.metadata.name,
            "io.kubernetes.cri.sandbox-namespace": config.metadata.namespace,
            "io.kubernetes.cri.sandbox-uid": config.metadata.uid,
        },
        "linux": { "namespaces": namespaces, "sysctl": config.linux.sysctls },
    });
    if !shares_network && !config.hostname.is_empty() {
        spec["hostname"] = json!(config.hostname);
    }
    if let Some(path) = cgroup(&config.linux.cgroup_parent, id) {
        spec["linux"]["cgroupsPath"] = json!(path);
    }
    Ok(spec)
}

/// Where CRI puts a sandbox below its pod's cgroup: a parent that is a slice is systemd's.
fn cgroup(parent: &str, id: &str) -> Option<String> {
    if parent.is_empty() {
        return None;
    }
    let name = parent.rsplit('/').next().unwrap_or(parent);
    Some(if name.ends_with(".slice") {
        format!("{name}:cri-containerd:{id}")
    } else {
        format!("{}/{id}", parent.trim_end_matches('/'))
    })
}

#[cfg(test)]
mod tests {
    use protobuf::MessageField;

    use super::*;
    use crate::content::messages::cri::{
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption, UserNamespace,
    };

    fn config(options: NamespaceOption) -> PodSandboxConfig {
        PodSandboxConfig {
            hostname: "web-0".to_owned(),
            linux: MessageField::some(LinuxPodSandboxConfig {
                cgroup_parent: "/kubepods/pod1".to_owned(),
                security_context: MessageField::some(LinuxSandboxSecurityContext {
                    namespace_options: MessageField::some(options),
                    ..LinuxSandboxSecurityContext::default()
                }),
                sysctls: [("net.core.somaxconn".to_owned(), "7".to_owned())].into(),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    #[test]
    fn a_pod_has_its_network_its_name_and_its_parameters() {
        let spec = spec(
            "a1",
            Path::new("/run/netns/x"),
            &config(NamespaceOption::default()),
        )
        .unwrap();
        let namespaces = json!([
            { "type": "network", "path": "/run/netns/x" }, { "type": "uts" }, { "type": "ipc" },
        ]);
        assert_eq!(spec["linux"]["namespaces"], namespaces);
        assert_eq!(
            spec["linux"]["sysctl"],
            json!({ "net.core.somaxconn": "7" })
        );
        assert_eq!(spec["linux"]["cgroupsPath"], "/kubepods/pod1/a1");
        assert_eq!(spec["hostname"], "web-0");
    }

    #[test]
    fn a_pod_of_the_node_has_the_nodes() {
        let of_node = NamespaceOption {
            network: NODE,
            ipc: NODE,
            ..NamespaceOption::default()
        };
        let spec = spec("a1", Path::new(""), &config(of_node)).unwrap();
        assert_eq!(spec["linux"]["namespaces"], json!([]));
        assert_eq!(spec["hostname"], Value::Null, "it would be the node's");
    }

    #[test]
    fn nobody_gets_the_nodes_network_by_mistake() {
        let error = spec("a1", Path::new(""), &config(NamespaceOption::default())).unwrap_err();
        assert!(error.text().contains("network namespace"), "{error}");
    }

    #[test]
    fn users_of_its_own_need_a_process() {
        let mut options = NamespaceOption {
            userns_options: MessageField::some(UserNamespace::default()),
            ..NamespaceOption::default()
        };
        let network = Path::new("/run/netns/x");
        let error = spec("a1", network, &config(options.clone())).unwrap_err();
        assert!(error.text().contains("hostUsers: false"), "{error}");
        options.userns_options.mut_or_insert_default().mode = NODE;
        assert!(spec("a1", network, &config(options)).is_ok());
    }

    #[test]
    fn a_slice_is_systemds() {
        let found = cgroup("/kubepods.slice/kubepods-pod1.slice", "a1").unwrap();
        assert_eq!(found, "kubepods-pod1.slice:cri-containerd:a1");
        assert_eq!(cgroup("", "a1"), None);
    }
}
