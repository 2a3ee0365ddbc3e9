//! Images as containerd has them: what is read of one when a container's files have no program.
//!
//! The container's thread waits here; what talks to containerd is a task on the runtime that serves
//! containerd, in the host's namespaces ([`crate::grpc`]). Nothing is trusted: every blob is measured and
//! hashed as it arrives, a document is held in memory only if it is small, and wasm goes into an unnamed
//! file in memory, which the shim's cgroup pays for, up to what the compiler takes.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wasi_bundles::{Blob, LayersError, Step};
use wasi_runtime::{Composition, Part};

use self::messages::{
    ContainerAnswer, ContainerQuery, ContentPart, ContentQuery, ImageAnswer, ImageQuery,
};
use crate::grpc::{Channel, GrpcError};

#[allow(
    clippy::nursery,
    clippy::pedantic,
    clippy::restriction,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "generated from shim/protos/"
)]
pub(crate) mod messages {
    include!(concat!(env!("OUT_DIR"), "/protos/mod.rs"));
    pub use self::containerd::*;
}

/// The largest index or manifest: registries take no larger ones (OCI distribution-spec, "Pushing
/// Manifests").
const DOCUMENT: u64 = 4 << 20;
/// An index may name an index, but an image is no maze.
const DEPTH: usize = 4;
/// For one answer of containerd's, or the next part of one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many parts of a blob, 1 MiB each, wait to be hashed.
const PARTS: usize = 4;

/// Why the image of a container gives no program.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// containerd could not be asked.
    #[error("cannot {action}")]
    Call {
        /// What was asked for.
        action: String,
        /// Why not.
        #[source]
        source: GrpcError,
    },
    /// containerd does not answer.
    #[error("cannot {action}: containerd has not answered for {PATIENCE:?}")]
    Silent {
        /// What was asked for.
        action: String,
    },
    /// The image is incomplete.
    #[error(
        "containerd has no content {}: it was never pulled for this platform, or garbage collected; \
         pull the image again",
        blobs.iter().map(Blob::to_string).collect::<Vec<_>>().join(" and no ")
    )]
    Missing {
        /// What is missing: one blob, or all that one of would do.
        blobs: Vec<Blob>,
    },
    /// What arrived is something else.
    #[error("the content {blob} is damaged: {how}; remove the image and pull it again")]
    Damaged {
        /// What it should be.
        blob: Box<Blob>,
        /// How it differs.
        how: String,
    },
    /// More than can be held.
    #[error("{blob} has {} bytes, and {limit} is the most", blob.size())]
    TooLarge {
        /// What is too large.
        blob: Box<Blob>,
        /// What is not.
        limit: u64,
    },
    /// Indexes of indexes of indexes.
    #[error("its indexes are nested more than {DEPTH} deep")]
    TooDeep,
    /// The image cannot be run.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// The host has no memory for it.
    #[error("cannot hold the wasm layer in memory")]
    Memory(#[source] io::Error),
    /// The shim is on its way out.
    #[error("the shim ends")]
    Ending,
}

/// containerd, to a container that looks for its program.
#[derive(Debug, Clone)]
pub struct ContentStore {
    socket: PathBuf,
    namespace: String,
    runtime: Handle,
}

/// The wasm layer that is a container's program, or several that are it together.
#[derive(Debug)]
pub struct Layer {
    /// What it is: one at least.
    pub blobs: Vec<Blob>,
    /// The image, by its name in containerd.
    pub image: String,
    store: ContentStore,
    channel: Channel,
}

impl ContentStore {
    /// The store of the containerd at `socket`. What asks it runs on `runtime`. Touches nothing.
    #[must_use]
    pub fn new(socket: PathBuf, namespace: String, runtime: Handle) -> Self {
        Self {
            socket,
            namespace,
            runtime,
        }
    }

    /// The wasm layer of the image of container `id`: `None` if it has none, or the container was made
    /// without an image. Blocks; not to be called on a runtime's thread.
    ///
    /// # Errors
    ///
    /// Any [`ContentError`].
    pub fn layer(&self, id: &str) -> Result<Option<Layer>, ContentError> {
        let (this, owned) = (self.clone(), id.to_owned());
        let (channel, target) = self.wait(async move { this.image(&owned).await })?;
        let Some((image, target)) = target else {
            return Ok(None);
        };
        let mut candidates = vec![target];
        for _ in 0..=DEPTH {
            let step = first(candidates, |blob| {
                let mut document = Vec::new();
                if blob.is_document() {
                    self.read(&channel, blob, DOCUMENT, &mut document)?;
                }
                Ok(document)
            })?;
            candidates = match step {
                Step::Read(next) => next,
                Step::Program(blobs) => {
                    return Ok(Some(Layer {
                        blobs,
                        image,
                        store: self.clone(),
                        channel,
                    }));
                }
                Step::Nothing => return Ok(None),
            };
        }
        Err(ContentError::TooDeep)
    }

    /// The name and the target of the image of a container.
    async fn image(&self, id: &str) -> Result<(Channel, Option<(String, Blob)>), ContentError> {
        let failed = |action: String| |source| ContentError::Call { action, source };
        let connect = format!(
            "read the image of the container from {}",
            self.socket.display()
        );
        let channel = Channel::connect(&self.socket)
            .await
            .map_err(failed(connect))?;
        let query = ContainerQuery {
            id: id.to_owned(),
            ..ContainerQuery::default()
        };
        let container: ContainerAnswer = self
            .one(&channel, "containers.v1.Containers/Get", &query)
            .await
            .map_err(failed(format!("ask for container {id}")))?;
        let name = container.container.image.clone();
        if name.is_empty() {
            return Ok((channel, None));
        }
        let query = ImageQuery {
            name: name.clone(),
            ..ImageQuery::default()
        };
        let image: ImageAnswer = self
            .one(&channel, "images.v1.Images/Get", &query)
            .await
            .map_err(failed(format!("ask for image {name}")))?;
        let target = &image.image.target;
        let size = u64::try_from(target.size).unwrap_or(u64::MAX);
        let blob = Blob::new(&target.media_type, &target.digest, size)?;
        Ok((channel, Some((name, blob))))
    }

    async fn one<M: protobuf::Message>(
        &self,
        channel: &Channel,
        method: &str,
        query: &impl protobuf::Message,
    ) -> Result<M, GrpcError> {
        let method = format!("/containerd.services.{method}");
        channel
            .call(&method, &self.namespace, query)
            .await?
            .one()
            .await
    }

    /// Reads `blob` into `sink`, and makes sure that it is what its digest names.
    fn read(
        &self,
        channel: &Channel,
        blob: &Blob,
        limit: u64,
        sink: &mut dyn Write,
    ) -> Result<(), ContentError> {
        let boxed = || Box::new(blob.clone());
        if blob.size() > limit {
            return Err(ContentError::TooLarge {
                blob: boxed(),
                limit,
            });
        }
        let (parts, arriving) = mpsc::channel(PARTS);
        let reading = read(channel.clone(), self.namespace.clone(), blob.clone(), parts);
        drop(self.runtime.spawn(reading));
        receive(blob, arriving, sink)
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ContentError>> + Send + 'static,
    ) -> Result<T, ContentError> {
        let (answer, answered) = oneshot::channel();
        drop(self.runtime.spawn(async move {
            let action = "read the image of the container".to_owned();
            let done = timeout(PATIENCE, work).await;
            drop(answer.send(done.unwrap_or(Err(ContentError::Silent { action }))));
        }));
        answered
            .blocking_recv()
            .unwrap_or(Err(ContentError::Ending))
    }
}

impl Layer {
    /// Its content, one blob after the other, in an unnamed file in memory. Blocks, as
    /// [`ContentStore::layer`] does.
    ///
    /// # Errors
    ///
    /// Any [`ContentError`].
    pub fn file(&self, limit: u64) -> Result<File, ContentError> {
        let memory = rustix::fs::memfd_create("wasm layer", MemfdFlags::CLOEXEC);
        let mut file = File::from(memory.map_err(|errno| ContentError::Memory(errno.into()))?);
        let mut left = limit;
        for blob in &self.blobs {
            self.store.read(&self.channel, blob, left, &mut file)?;
            left -= blob.size();
        }
        Ok(file)
    }

    /// What its blobs have to be composed by, if they are several.
    #[must_use]
    pub fn composition(&self) -> Option<Composition> {
        let part = |blob: &Blob| Part {
            sha256: *blob.sha256(),
            size: blob.size(),
            name: blob.title().map(str::to_owned),
        };
        (self.blobs.len() > 1).then(|| Composition::new(self.blobs.iter().map(part).collect()))
    }
}

/// What the task that reads has to say.
enum Piece {
    Data(Vec<u8>),
    End(Result<(), ContentError>),
}

/// What the first of `candidates` that `read` finds says.
fn first(
    candidates: Vec<Blob>,
    mut read: impl FnMut(&Blob) -> Result<Vec<u8>, ContentError>,
) -> Result<Step, ContentError> {
    let mut missing = Vec::new();
    for blob in candidates {
        match read(&blob) {
            Ok(document) => return Ok(blob.look(&document)?),
            Err(ContentError::Missing { blobs }) => missing.extend(blobs),
            Err(error) => return Err(error),
        }
    }
    Err(ContentError::Missing { blobs: missing })
}

/// Writes what is `arriving` into `sink`, and makes sure that it is `blob`.
fn receive(
    blob: &Blob,
    mut arriving: mpsc::Receiver<Piece>,
    sink: &mut dyn Write,
) -> Result<(), ContentError> {
    let damaged = |how| ContentError::Damaged {
        blob: Box::new(blob.clone()),
        how,
    };
    let (mut hash, mut length) = (Sha256::new(), 0);
    loop {
        // The task says when all has arrived; without a word it was dropped with its runtime.
        let data = match arriving.blocking_recv() {
            Some(Piece::Data(data)) => data,
            Some(Piece::End(end)) => break end?,
            None => return Err(ContentError::Ending),
        };
        length += data.len() as u64;
        if length > blob.size() {
            return Err(damaged(format!("it is longer than {} bytes", blob.size())));
        }
        hash.update(&data);
        sink.write_all(&data).map_err(ContentError::Memory)?;
    }
    if length < blob.size() {
        return Err(damaged(format!(
            "it ends after {length} of {} bytes",
            blob.size()
        )));
    }
    if hash.finalize().as_slice() != blob.sha256() {
        return Err(damaged("its digest is another one".to_owned()));
    }
    Ok(())
}

/// On the control runtime: hands over the parts of a blob as they arrive, until nobody wants them.
async fn read(channel: Channel, namespace: String, blob: Blob, parts: mpsc::Sender<Piece>) {
    let relay = async {
        let digest = blob.digest();
        let query = ContentQuery {
            digest: digest.clone(),
            ..ContentQuery::default()
        };
        let failed = |source: GrpcError| match source.is_not_found() {
            true => ContentError::Missing {
                blobs: vec![blob.clone()],
            },
            false => ContentError::Call {
                action: format!("read content {digest}"),
                source,
            },
        };
        let silent = |_| ContentError::Silent {
            action: format!("read content {digest}"),
        };
        let call = channel.call(
            "/containerd.services.content.v1.Content/Read",
            &namespace,
            &query,
        );
        let mut answers = timeout(PATIENCE, call)
            .await
            .map_err(silent)?
            .map_err(failed)?;
        loop {
            let next = timeout(PATIENCE, answers.next::<ContentPart>()).await;
            let Some(part) = next.map_err(silent)?.map_err(failed)? else {
                return Ok(());
            };
            if parts.send(Piece::Data(part.data)).await.is_err() {
                return Ok(());
            }
        }
    };
    let end = relay.await;
    drop(parts.send(Piece::End(end)).await);
}

#[cfg(test)]
mod tests;
