//! A look at a container that cannot be one of wasm, on a thread of its own: whether its program is one for
//! Linux. All that is mounted for that goes with the thread.

use wasi_bundles::{Mount, Plan};

use super::thread::{Made, deliver};
use super::{namespaces, unless_for_linux};
use crate::Error;
use crate::rootfs::Rootfs;

/// What is needed to find a program.
#[derive(Debug)]
pub struct Probe {
    /// Where it is, and what it is called.
    pub plan: Plan,
    /// containerd's mounts for the root file system.
    pub layers: Vec<Mount>,
}

impl Probe {
    /// Whether the container's program is one for Linux. When that cannot be found out, it is not known to be.
    pub async fn is_for_linux(self, id: &str) -> bool {
        let probed = deliver(id, move || {
            namespaces::enter(&self.plan)?;
            Rootfs::mount(&self.plan, &self.layers, |tree| {
                unless_for_linux(tree, &self.plan)
            })?;
            Ok(Made::holder())
        });
        match probed.await {
            Err(Error::LinuxProgram(_)) => true,
            Err(error) => {
                log::debug!(
                    "container {id} has no program to be found: {}",
                    error.text()
                );
                false
            }
            Ok(wasm) => {
                wasm.discard().await;
                false
            }
        }
    }
}
