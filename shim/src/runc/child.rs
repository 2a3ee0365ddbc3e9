//! The one `containerd-shim-runc-v2` of a shim: started when the first Linux container comes, asked over its
//! own socket, and ended with the last.
//!
//! It must not take our socket for its own, nor write into the bundle that containerd looks for us in
//! (it is a shim of the same group): so it has another group, another id, and a folder of its own.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_async::Client;
use protobuf::{Message, MessageDyn};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use ttrpc::r#async::transport::Socket;
use ttrpc::proto::{Request, Response};

use super::call::Call;
use crate::Error;
use crate::recover::ShimRecord;

/// What a child listens on, a path a line, in its folder.
const SOCKETS: &str = "sockets";
/// For an answer to Shutdown, and then for it to go.
const END: Duration = Duration::from_millis(700);

/// What the daemon knows of itself that its child is made from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// How containerd called this shim.
    pub call: Call,
    /// This shim's group.
    pub group: String,
    /// The bundle of its first container.
    pub bundle: PathBuf,
    /// What containerd 2.3 and newer says on stdin, which its own shim understands; older ones
    /// understand nothing.
    pub params: Option<Vec<u8>>,
}

impl Origin {
    /// The folder of the child, in the bundle of the shim's first container.
    #[must_use]
    pub fn folder(bundle: &Path) -> PathBuf {
        bundle.join("runc-shim")
    }
}

/// A shim for Linux containers.
pub struct Child {
    id: String,
    client: Client,
    service: &'static str,
    /// That of its service is the first.
    sockets: Vec<PathBuf>,
    /// Nothing is ever said on it; it ends when the child does.
    line: UnixStream,
    record: Option<ShimRecord>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child")
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

/// What `start` prints in containerd 1.7 to 2.2, sometimes.
#[derive(Deserialize)]
struct Reply {
    version: i32,
    address: String,
}

impl Child {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`Error::Host`].
    pub async fn start(origin: &Origin) -> Result<Self, Error> {
        let failed = Error::host("run a Linux container");
        let (origin, id) = (origin.clone(), format!("{}-wasi", origin.group));
        let name = id.clone();
        let started = spawn_blocking(move || launch(&origin, &name)).await;
        let (folder, sockets, version) = match started {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => return Err(Error::Panicked),
        };
        let connected = (
            UnixStream::connect(&sockets[0]).await,
            UnixStream::connect(&sockets[0]).await,
        );
        let (stream, line) = match connected {
            (Ok(stream), Ok(line)) => (stream, line),
            (Err(error), _) | (_, Err(error)) => return Err(failed(error)),
        };
        let mut child = Self {
            id,
            client: Client::new(Socket::from(stream)),
            service: if version < 3 {
                "containerd.task.v2.Task"
            } else {
                "containerd.task.v3.Task"
            },
            sockets,
            line,
            record: None,
        };
        let request = api::ConnectRequest {
            id: child.id.clone(),
            ..api::ConnectRequest::default()
        };
        let connected: api::ConnectResponse = match child.ask("Connect", &request).await {
            Ok(connected) => connected,
            Err(error) => return Err(failed(io::Error::other(error))),
        };
        // For `delete`, in case that this shim dies before its child.
        let record = ShimRecord::of(connected.shim_pid);
        match record.and_then(|record| record.write(&folder).map(|()| record)) {
            Ok(record) => child.record = Some(record),
            Err(error) => log::warn!("cannot record the shim of Linux containers: {error}"),
        }
        Ok(child)
    }

    /// Asks it.
    ///
    /// # Errors
    ///
    /// What it answers, or that it does not.
    pub async fn ask<A: Message>(
        &self,
        method: &str,
        message: &dyn MessageDyn,
    ) -> ttrpc::Result<A> {
        let undecodable = |error: protobuf::Error| ttrpc::Error::Others(error.to_string());
        let request = Request {
            method: method.to_owned(),
            payload: message.write_to_bytes_dyn().map_err(undecodable)?,
            ..Request::default()
        };
        let answer = self.forward(request).await?;
        A::parse_from_bytes(&answer.payload).map_err(undecodable)
    }

    /// Asks it what somebody else asks.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub async fn forward(&self, mut request: Request) -> ttrpc::Result<Response> {
        self.service.clone_into(&mut request.service);
        self.client.request(request).await
    }

    /// Whether it has ended. Its socket does not tell: another child of the same id has the same one.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let ahead = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // There is nothing to read but the end.
        !matches!(recv(&self.line, &mut [0; 1], ahead), Err(Errno::AGAIN))
    }

    /// Waits until it is gone.
    pub async fn gone(&self) {
        // There is nothing to read but the end.
        while self.line.readable().await.is_ok() {
            match self.line.try_read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Tells it to go, and sees to it.
    pub async fn end(&self) {
        let request = api::ShutdownRequest {
            id: self.id.clone(),
            now: true,
            ..api::ShutdownRequest::default()
        };
        // With containers left it stays, and is killed.
        drop(timeout(END, self.ask::<api::Empty>("Shutdown", &request)).await);
        let (record, sockets) = (self.record.clone(), self.sockets.clone());
        let ended = spawn_blocking(move || end(record.as_ref(), &sockets)).await;
        if let Ok(Err(error)) = ended {
            log::warn!("the shim of Linux containers does not go: {error}");
        }
    }
}

/// Ends the child of a shim that died, if it had one.
///
/// # Errors
///
/// When it does not end.
pub fn end_orphan(bundle: &Path) -> io::Result<()> {
    let folder = Origin::folder(bundle);
    let Ok(sockets) = fs::read_to_string(folder.join(SOCKETS)) else {
        return Ok(());
    };
    let sockets: Vec<_> = sockets.lines().map(PathBuf::from).collect();
    end(ShimRecord::read(&folder).as_ref(), &sockets)
}

fn end(record: Option<&ShimRecord>, sockets: &[PathBuf]) -> io::Result<()> {
    if let Some(record) = record {
        record.end(Instant::now() + END)?;
    }
    // One that was killed has left them.
    let remove = |socket: &PathBuf| match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    sockets.iter().try_for_each(remove)
}

/// The sockets of a child that answered with `address`: it has another one when it logs in detail, for
/// profiles, named as containerd names sockets (`pkg/shim/util_unix.go`).
fn sockets(origin: &Origin, id: &str, address: &str) -> Vec<PathBuf> {
    let socket = PathBuf::from(address.trim_start_matches("unix://"));
    let Call {
        namespace, address, ..
    } = &origin.call;
    let key = Path::new(address).join(namespace).join(id).join("debug");
    let digest = Sha256::digest(key.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let debug = socket.with_file_name(name);
    vec![socket, debug]
}

/// Makes its folder, runs its `start` there, and returns where it listens, for which version of the API.
fn launch(origin: &Origin, id: &str) -> io::Result<(PathBuf, Vec<PathBuf>, i32)> {
    let folder = Origin::folder(&origin.bundle);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "annotations": { "io.containerd.runc.v2.group": id },
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    // Its log is this shim's: containerd reads it, also after it was restarted.
    let log = origin.bundle.join("log");
    let log = if log.exists() {
        log
    } else {
        "/dev/null".into()
    };
    symlink(log, folder.join("log"))?;
    let start = |stdin: &[u8]| origin.call.run(id, &folder, None, "start", stdin);
    let said = match params(origin, id) {
        // One that is older than its containerd understands nothing.
        Some(params) => start(&params).or_else(|_| start(b""))?,
        None => start(b"")?,
    };
    let (address, version) = reply(&said)?;
    let sockets = sockets(origin, id, &address);
    let listed = sockets
        .iter()
        .map(|socket| format!("{}\n", socket.display()));
    fs::write(folder.join(SOCKETS), listed.collect::<String>())?;
    Ok((folder, sockets, version))
}

/// What containerd said, as if it was said to the child.
fn params(origin: &Origin, id: &str) -> Option<Vec<u8>> {
    let mut params = BootstrapParams::parse_from_bytes(origin.params.as_deref()?).ok()?;
    id.clone_into(&mut params.instance_id);
    params.write_to_bytes().ok()
}

/// Any of the three dialects (`bootstrap.rs`).
fn reply(said: &[u8]) -> io::Result<(String, i32)> {
    let text = std::str::from_utf8(said).unwrap_or_default().trim();
    if text.starts_with("unix://") {
        return Ok((text.to_owned(), 2));
    }
    if let Ok(Reply { version, address }) = serde_json::from_str(text) {
        return Ok((address, version));
    }
    match BootstrapResult::parse_from_bytes(said) {
        Ok(result) if !result.address.is_empty() => Ok((result.address, result.version)),
        Ok(_) | Err(_) => Err(io::Error::other(format!(
            "the shim of Linux containers answers its start with {text:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_of_an_answer_is_understood() {
        let bare = reply(b"unix:///run/s/1\n").unwrap();
        assert_eq!(bare, ("unix:///run/s/1".to_owned(), 2));
        let json = reply(br#"{"version":3,"address":"unix:///run/s/2","protocol":"ttrpc"}"#);
        assert_eq!(json.unwrap(), ("unix:///run/s/2".to_owned(), 3));
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/s/3".to_owned(),
            ..BootstrapResult::default()
        };
        let binary = reply(&result.write_to_bytes().unwrap()).unwrap();
        assert_eq!(binary, ("unix:///run/s/3".to_owned(), 3));
        assert!(reply(b"").is_err());
    }

    #[tokio::test]
    async fn a_child_is_not_taken_for_its_successor() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let stream = UnixStream::connect(&socket).await.unwrap();
        let child = Child {
            id: "pod-wasi".to_owned(),
            client: Client::new(Socket::from(stream)),
            service: "containerd.task.v2.Task",
            sockets: vec![socket.clone()],
            line: UnixStream::connect(&socket).await.unwrap(),
            record: None,
        };
        assert!(!child.is_gone());
        drop(listener);
        fs::remove_file(&socket).unwrap();
        let _successor = tokio::net::UnixListener::bind(&socket).unwrap();
        assert!(child.is_gone());
        child.gone().await;
    }

    #[test]
    fn what_containerd_says_is_said_in_the_childs_name() {
        let said = BootstrapParams {
            instance_id: "pod".to_owned(),
            namespace: "k8s.io".to_owned(),
            ..BootstrapParams::default()
        };
        let mut origin = Origin::default();
        assert_eq!(params(&origin, "pod-wasi"), None);
        origin.params = Some(said.write_to_bytes().unwrap());
        let repeated = params(&origin, "pod-wasi").unwrap();
        let repeated = BootstrapParams::parse_from_bytes(&repeated).unwrap();
        assert_eq!(repeated.instance_id, "pod-wasi");
        assert_eq!(repeated.namespace, "k8s.io");
    }
}
