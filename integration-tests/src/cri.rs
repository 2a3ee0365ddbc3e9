//! Kubernetes' interface of a private containerd, as its kubelet would use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ImageSpec, ImageStatusRequest, ListPodSandboxRequest, PullImageRequest,
    RemovePodSandboxRequest, StopPodSandboxRequest,
};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::containerd::Containerd;
use crate::image::Image;
use crate::native;
use crate::node::PAUSE;
use crate::pod::PodBuilder;
use crate::poll;

/// For one call; stopping a pod takes its grace period.
const PATIENCE: Duration = Duration::from_secs(60);

/// The generated client.
pub type Client = RuntimeServiceClient<Channel>;

/// A connection to the interface.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    client: Client,
    images: ImageServiceClient<Channel>,
    /// The cgroup that all pods are below.
    cgroup: String,
    /// Where the containers' logs are written.
    logs: PathBuf,
    /// The network namespace of the node.
    network: PathBuf,
}

impl Cri {
    /// Connects; the node's pause image is there then.
    ///
    /// # Errors
    ///
    /// When containerd does not answer.
    pub fn connect(containerd: &Containerd) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a runtime for the client")?;
        let socket = containerd.socket();
        // The name is for HTTP's sake.
        let endpoint = Endpoint::from_static("http://containerd.test");
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                let stream = UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let channel = runtime
            .block_on(endpoint.connect_with_connector(connect))
            .context("connect to the CRI plugin")?;
        Ok(Self {
            runtime,
            client: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
            cgroup: format!("/{}", containerd.tag()),
            logs: containerd.folder().join("logs"),
            network: containerd.folder().join("net"),
        })
    }

    /// One call, whatever it is.
    ///
    /// # Errors
    ///
    /// What containerd answers, or that it does not within a minute.
    pub fn ask<T, F>(&self, what: &str, call: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, call(self.client.clone())).await });
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(anyhow!("{what}: {:?}: {}", status.code(), status.message())),
            Err(_) => Err(anyhow!("{what}: no answer within {PATIENCE:?}")),
        }
    }

    /// Imports `image` and the one of pause containers, and waits until the plugin knows them.
    ///
    /// # Errors
    ///
    /// When one cannot be imported.
    pub fn import(&self, containerd: &Containerd, image: &Image) -> Result<()> {
        self.import_pause(containerd)?;
        containerd.import(image)?;
        self.knows(image.name())
    }

    /// Imports the image of pause containers.
    ///
    /// # Errors
    ///
    /// When it cannot be imported.
    pub fn import_pause(&self, containerd: &Containerd) -> Result<()> {
        let pause = native::image()?
            .renamed("pause:1")
            .entrypoint(["/hello", "block"]);
        assert_eq!(pause.name(), PAUSE, "the name in the configuration");
        containerd.import(&pause)?;
        self.knows(pause.name())
    }

    /// Pulls an image, as a kubelet has it pulled.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn pull(&self, name: &str) -> Result<Image> {
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: name.to_owned(),
                ..ImageSpec::default()
            }),
            ..PullImageRequest::default()
        };
        let mut images = self.images.clone();
        let pulled = self.runtime.block_on(images.pull_image(request));
        pulled
            .map_err(|status| anyhow!("pull {name}: {:?}: {}", status.code(), status.message()))?;
        Ok(Image::new(name))
    }

    fn knows(&self, name: &str) -> Result<()> {
        let what = format!("the CRI plugin knows {name}");
        poll::until(&what, Duration::from_secs(20), || {
            let request = ImageStatusRequest {
                image: Some(ImageSpec {
                    image: name.to_owned(),
                    ..ImageSpec::default()
                }),
                verbose: false,
            };
            let mut images = self.images.clone();
            match self.runtime.block_on(images.image_status(request)) {
                Ok(answer) if answer.get_ref().image.is_some() => Ok(()),
                Ok(_) => Err("it does not".to_owned()),
                Err(status) => Err(status.to_string()),
            }
        })
    }

    /// A pod about to be run, with our runtime unless told otherwise.
    #[must_use]
    pub fn pod(&self, name: &str) -> PodBuilder<'_> {
        PodBuilder::new(self, name)
    }

    /// The cgroup that all pods are below.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    pub(crate) fn network(&self) -> &Path {
        &self.network
    }

    /// Stops and removes all pods.
    ///
    /// # Errors
    ///
    /// The first that fails.
    pub fn remove_all(&self) -> Result<()> {
        let listed = self.ask("list the pods", |mut client| async move {
            client
                .list_pod_sandbox(ListPodSandboxRequest::default())
                .await
        })?;
        for pod in listed.items {
            self.remove_pod(&pod.id)?;
        }
        Ok(())
    }

    /// Stops and removes a pod.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        self.stop_pod(id)?;
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.ask("remove the pod", |mut client| async move {
            client.remove_pod_sandbox(request).await
        })?;
        Ok(())
    }

    /// Stops a pod, with its containers.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn stop_pod(&self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.ask("stop the pod", |mut client| async move {
            client.stop_pod_sandbox(request).await
        })?;
        Ok(())
    }
}
