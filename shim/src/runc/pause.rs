//! The real pause container of a pod whose Linux containers share their processes.
//!
//! A sandbox is a thread, which has network, IPC and UTS namespaces to give, but no process namespace of its
//! own: that takes a process. Whether any container will ask for one is not known when the sandbox is made,
//! because CRI lists a new one for every pod. So the pod's pause image, which lies unused in the sandbox's
//! bundle until then, is run in the child when the first container comes that joins `/proc/<sandbox>/ns/pid`;
//! that and all later ones join the pause container's. It ends with the sandbox.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containerd_shim_protos::api::{self, Mount};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use super::LinuxContainers;
use super::call::Call;
use super::container::{LinuxContainer, delete};
use crate::Error;
use wasi_bundles::Bundle;

/// The sandbox that it is the pause container of.
#[derive(Debug)]
pub struct Sandbox<'a> {
    /// containerd's id.
    pub id: &'a str,
    /// Its bundle.
    pub bundle: &'a Path,
    /// The mounts that make the pause image.
    pub rootfs: &'a [Mount],
    /// The id of its thread.
    pub thread: u32,
    /// The runtime's options, of the container that joins.
    pub options: &'a MessageField<Any>,
}

impl LinuxContainers {
    /// The process whose process namespace the containers of `sandbox` share, started if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Unimplemented`] without a pause image; as [`LinuxContainers::create`].
    pub async fn pause(&self, sandbox: &Sandbox<'_>) -> Result<u32, Error> {
        let mut pause = self.pause.lock().await;
        if let Some(found) = &*pause
            && found.is_running().await
        {
            return Ok(found.pid());
        }
        // It has died, and with it all that shared its processes.
        if let Some(dead) = pause.take() {
            self.discard(&dead).await;
        }
        if sandbox.rootfs.is_empty() {
            return Err(Error::Unimplemented(
                "a process namespace shared in a pod without a pause image (sandboxer = \"shim\")"
                    .to_owned(),
            ));
        }
        let folder = folder(sandbox.id, sandbox.bundle);
        make_bundle(sandbox, &folder).map_err(Error::host("make the pause container's bundle"))?;
        let request = api::CreateTaskRequest {
            id: name(sandbox.id),
            bundle: folder.display().to_string(),
            rootfs: sandbox.rootfs.to_vec(),
            options: sandbox.options.clone(),
            ..api::CreateTaskRequest::default()
        };
        let start = api::StartRequest {
            id: request.id.clone(),
            ..api::StartRequest::default()
        };
        let container = self.create(request, &Bundle::open(&folder)?).await?;
        let started = container.child().ask::<api::StartResponse>("Start", &start);
        if let Err(error) = started.await {
            self.discard(&container).await;
            return Err(Error::host("start the pause container")(io::Error::other(
                error,
            )));
        }
        let pid = container.pid();
        *pause = Some(container);
        Ok(pid)
    }

    /// Ends the pause container, if there is one.
    pub async fn end_pause(&self) {
        if let Some(container) = self.pause.lock().await.take() {
            self.discard(&container).await;
        }
    }

    async fn discard(&self, container: &Arc<LinuxContainer>) {
        container.discard().await;
        self.forget(container).await;
    }
}

/// Ends what a dead shim has left of the pause container of the sandbox `id`.
///
/// # Errors
///
/// When its `delete` fails.
pub fn end_orphan(call: &Call, id: &str, bundle: &Path) -> io::Result<()> {
    let folder = folder(id, bundle);
    if !folder.join("init.pid").exists() {
        return Ok(());
    }
    delete(call, &name(id), &folder).map(drop)
}

/// Whoever joins it: the same container with another process namespace.
///
/// # Errors
///
/// When its `config.json` cannot be changed.
pub fn share(bundle: &Path, pause: u32) -> io::Result<()> {
    let file = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&file)?)?;
    if let Some(listed) = spec["linux"]["namespaces"].as_array_mut() {
        for namespace in listed {
            if namespace["type"] == "pid" {
                namespace["path"] = json!(format!("/proc/{pause}/ns/pid"));
            }
        }
    }
    fs::write(file, serde_json::to_vec(&spec)?)
}

/// The pause container's bundle. The `delete` of runc's shim looks for a bundle of the container's name.
fn folder(sandbox: &str, bundle: &Path) -> PathBuf {
    bundle.join(name(sandbox))
}

fn name(sandbox: &str) -> String {
    format!("{sandbox}-pause")
}

fn make_bundle(sandbox: &Sandbox<'_>, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder.join("rootfs"))?;
    let spec = fs::read(sandbox.bundle.join("config.json"))?;
    let spec = pause_spec(serde_json::from_slice(&spec)?, sandbox.thread);
    fs::write(folder.join("config.json"), serde_json::to_vec(&spec)?)
}

/// What containerd asked for, in the namespaces that the sandbox's thread has made of that, and in a cgroup of
/// its own: that of the sandbox has the shim in it.
fn pause_spec(mut spec: Value, thread: u32) -> Value {
    spec["root"]["path"] = json!("rootfs");
    if let Some(listed) = spec["linux"]["namespaces"].as_array_mut() {
        for namespace in listed {
            let file = match namespace["type"].as_str() {
                Some("network") => "net",
                Some("ipc") => "ipc",
                Some("uts") => "uts",
                Some(_) | None => continue,
            };
            namespace["path"] = json!(format!("/proc/{thread}/ns/{file}"));
        }
    }
    // The thread has set them.
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("hostname");
    }
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("sysctl");
        if let Some(path) = linux.get("cgroupsPath").and_then(Value::as_str)
            && !path.is_empty()
        {
            let own = name(path);
            linux.insert("cgroupsPath".to_owned(), json!(own));
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_container_is_where_the_sandbox_is() {
        let asked = json!({
            "hostname": "web",
            "root": { "path": "/elsewhere", "readonly": true },
            "linux": {
                "sysctl": { "net.core.somaxconn": "7" },
                "cgroupsPath": "/pod/a",
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network", "path": "/run/netns/a" },
                ],
            },
        });
        let wanted = json!({
            "root": { "path": "rootfs", "readonly": true },
            "linux": {
                "cgroupsPath": "/pod/a-pause",
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc", "path": "/proc/7/ns/ipc" },
                    { "type": "uts", "path": "/proc/7/ns/uts" }, { "type": "mount" },
                    { "type": "network", "path": "/proc/7/ns/net" },
                ],
            },
        });
        assert_eq!(pause_spec(asked, 7), wanted);
    }

    #[test]
    fn who_shares_processes_joins_the_pause_containers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let namespaces = |pid: u32| {
            json!({ "linux": { "namespaces": [
                { "type": "pid", "path": format!("/proc/{pid}/ns/pid") },
                { "type": "network", "path": "/proc/7/ns/net" },
            ] } })
        };
        fs::write(&file, namespaces(7).to_string()).unwrap();
        share(folder.path(), 9).unwrap();
        let shared: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(shared, namespaces(9));
    }
}
