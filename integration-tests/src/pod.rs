//! A pod and its containers, through Kubernetes' interface.

mod container;
mod streams;

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, KeyValue,
    LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatus,
    PodSandboxStatusRequest, RunPodSandboxRequest,
};

pub use self::container::PodContainer;
pub use self::streams::{Said, Streams};
use crate::cri::Cri;
use crate::image::Image;

/// A pod about to be run.
#[derive(Debug)]
pub struct PodBuilder<'a> {
    cri: &'a Cri,
    config: PodSandboxConfig,
    handler: String,
}

/// A pod.
#[derive(Debug)]
pub struct Pod<'a> {
    cri: &'a Cri,
    id: String,
    config: PodSandboxConfig,
}

/// A container about to be created.
#[derive(Debug)]
pub struct ContainerBuilder<'a> {
    pod: &'a Pod<'a>,
    config: ContainerConfig,
}

impl<'a> PodBuilder<'a> {
    pub(crate) fn new(cri: &'a Cri, name: &str) -> Self {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("{name}-uid"),
                namespace: "tests".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: cri.logs().join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", cri.cgroup()),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        // As the kubelet has it.
                        pid: NamespaceMode::Container.into(),
                        ..NamespaceOption::default()
                    }),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        };
        Self {
            cri,
            config,
            handler: "wasi".to_owned(),
        }
    }

    /// Another runtime handler.
    #[must_use]
    pub fn handler(mut self, handler: &str) -> Self {
        handler.clone_into(&mut self.handler);
        self
    }

    /// Changes what the pod asks for.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut PodSandboxConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// In the network of the node.
    #[must_use]
    pub fn host_network(self) -> Self {
        self.with(|config| {
            config.hostname.clear();
            let linux = config.linux.as_mut();
            let context = linux.and_then(|linux| linux.security_context.as_mut());
            if let Some(options) = context.and_then(|context| context.namespace_options.as_mut()) {
                options.network = NamespaceMode::Node.into();
            }
        })
    }

    /// A kernel parameter.
    #[must_use]
    pub fn sysctl(self, name: &str, value: &str) -> Self {
        self.with(|config| {
            if let Some(linux) = &mut config.linux {
                linux.sysctls.insert(name.to_owned(), value.to_owned());
            }
        })
    }

    /// Runs it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn run(self) -> Result<Pod<'a>> {
        std::fs::create_dir_all(&self.config.log_directory).context("a folder for logs")?;
        let request = RunPodSandboxRequest {
            config: Some(self.config.clone()),
            runtime_handler: self.handler,
        };
        let answer = self.cri.ask("run the pod", |mut client| async move {
            client.run_pod_sandbox(request).await
        })?;
        Ok(Pod {
            cri: self.cri,
            id: answer.pod_sandbox_id,
            config: self.config,
        })
    }
}

impl<'a> Pod<'a> {
    /// Its id, which is its sandbox's.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What containerd says of it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn status(&self) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.cri.ask("the pod's status", |mut client| async move {
            client.pod_sandbox_status(request).await
        })?;
        answer.status.context("a status of the pod")
    }

    /// Its address.
    ///
    /// # Errors
    ///
    /// As [`Self::status`], and when it has none.
    pub fn address(&self) -> Result<String> {
        let network = self.status()?.network.context("a network of the pod")?;
        ensure!(!network.ip.is_empty(), "the pod has no address");
        Ok(network.ip)
    }

    /// What it uses.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn stats(&self) -> Result<PodSandboxStats> {
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: self.id.clone(),
        };
        let answer = self.cri.ask("the pod's stats", |mut client| async move {
            client.pod_sandbox_stats(request).await
        })?;
        answer.stats.context("stats of the pod")
    }

    /// A container to be made in it.
    #[must_use]
    pub fn container(&'a self, name: &str, image: &Image) -> ContainerBuilder<'a> {
        ContainerBuilder {
            pod: self,
            config: ContainerConfig {
                metadata: Some(ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 0,
                }),
                image: Some(ImageSpec {
                    image: image.name().to_owned(),
                    ..ImageSpec::default()
                }),
                log_path: format!("{name}.log"),
                linux: Some(LinuxContainerConfig {
                    security_context: Some(LinuxContainerSecurityContext {
                        namespace_options: Some(NamespaceOption {
                            network: self.network().into(),
                            pid: NamespaceMode::Container.into(),
                            ..NamespaceOption::default()
                        }),
                        ..LinuxContainerSecurityContext::default()
                    }),
                    ..LinuxContainerConfig::default()
                }),
                ..ContainerConfig::default()
            },
        }
    }

    fn network(&self) -> NamespaceMode {
        let linux = self.config.linux.as_ref();
        let context = linux.and_then(|linux| linux.security_context.as_ref());
        let options = context.and_then(|context| context.namespace_options.as_ref());
        options.map_or(NamespaceMode::Pod, NamespaceOption::network)
    }

    /// Stops it with its containers, and removes it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn remove(self) -> Result<()> {
        self.cri.remove_pod(&self.id)
    }

    /// Stops it with its containers.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn stop(&self) -> Result<()> {
        self.cri.stop_pod(&self.id)
    }
}

impl<'a> ContainerBuilder<'a> {
    /// Changes what the container asks for.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Which one it is of those that a kubelet has made for it; the first is 0.
    #[must_use]
    pub fn attempt(self, attempt: u32) -> Self {
        self.with(|config| config.metadata.get_or_insert_default().attempt = attempt)
    }

    /// Its arguments, the image's entrypoint before them.
    #[must_use]
    pub fn args<'b>(self, args: impl IntoIterator<Item = &'b str>) -> Self {
        let args = args.into_iter().map(str::to_owned).collect();
        self.with(|config| config.args = args)
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        let (key, value) = (name.to_owned(), value.to_owned());
        self.with(|config| config.envs.push(KeyValue { key, value }))
    }

    /// A file or folder of the host.
    #[must_use]
    pub fn mount(self, host_path: &std::path::Path, container_path: &str) -> Self {
        let mount = Mount {
            host_path: host_path.display().to_string(),
            container_path: container_path.to_owned(),
            ..Mount::default()
        };
        self.with(|config| config.mounts.push(mount))
    }

    /// Creates it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn create(self) -> Result<PodContainer<'a>> {
        let log = PathBuf::from(&self.pod.config.log_directory).join(&self.config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: self.pod.id.clone(),
            config: Some(self.config),
            sandbox_config: Some(self.pod.config.clone()),
        };
        let answer = self
            .pod
            .cri
            .ask("create the container", |mut client| async move {
                client.create_container(request).await
            })?;
        Ok(PodContainer {
            cri: self.pod.cri,
            id: answer.container_id,
            log,
        })
    }

    /// Creates and starts it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn start(self) -> Result<PodContainer<'a>> {
        let container = self.create()?;
        container.start()?;
        Ok(container)
    }
}
