//! A containerd that is only its edge towards shims: it runs the shim's binary as containerd does, and receives
//! its events. Everything that the shim answers is visible to the test, and every mishap can be arranged.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::bundle::{Bundle, BundleBuilder};
use crate::dialect::{Call, Dialect, Endpoint};
use crate::invocation::{Invocation, Output};
use crate::processes::Process;
use crate::receiver::Receiver;
use crate::tasks::{Api, Tasks};
use crate::{leftovers, poll};

/// The containers' namespace.
const NAMESPACE: &str = "process-test";

/// A folder, an event receiver, and the shim's binary.
#[derive(Debug)]
pub struct FakeContainerd {
    binary: PathBuf,
    /// Where events arrive.
    pub receiver: Receiver,
    /// What is passed to `start` as the runtime's options.
    pub options: Option<Any>,
    /// More environment for the shim.
    pub environment: Vec<(String, String)>,
    started: Mutex<Vec<String>>,
    folder: TempDir,
}

impl FakeContainerd {
    /// A fake for our shim.
    ///
    /// # Errors
    ///
    /// When the socket cannot be made.
    pub fn new() -> Result<Self> {
        Self::of(&crate::binaries().join("containerd-shim-wasi-v1"))
    }

    /// A fake for any shim's binary.
    ///
    /// # Errors
    ///
    /// When there is no such binary, or the socket cannot be made.
    pub fn of(binary: &Path) -> Result<Self> {
        binary
            .metadata()
            .with_context(|| format!("{}; `make build` makes it", binary.display()))?;
        // Not canonical: a link's name is the name that the shim is called by.
        let binary = std::path::absolute(binary).context("find the binary")?;
        let folder = tempfile::Builder::new()
            .prefix("fake-")
            .tempdir_in("/tmp")
            .context("a folder of its own")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))
            .context("open the folder")?;
        let receiver = Receiver::listen(&folder.path().join("s.ttrpc"))?;
        let cache = folder.path().join("cache").display().to_string();
        Ok(Self {
            binary,
            receiver,
            options: None,
            environment: vec![("CONTAINERD_SHIM_WASI_CACHE".into(), cache)],
            started: Mutex::default(),
            folder,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A bundle for container `id`.
    #[must_use]
    pub fn bundle(&self, id: &str) -> BundleBuilder {
        BundleBuilder::new(self.folder().join(NAMESPACE).join(id), id)
    }

    /// Runs `start` for a bundle.
    ///
    /// # Errors
    ///
    /// When it fails, writes something else than this dialect's reply, or leaves its output open.
    pub fn start(&self, bundle: &Bundle, dialect: Dialect) -> Result<Endpoint> {
        let (grpc, ttrpc) = (self.grpc(), self.ttrpc());
        let call = Call {
            id: bundle.id(),
            namespace: NAMESPACE,
            grpc: &grpc,
            ttrpc: &ttrpc,
            containerd: CONTAINERD,
            options: self.options.as_ref(),
        };
        let mut run = self
            .invocation(bundle.id())
            .cwd(bundle.path())
            .stdin(dialect.stdin(&call)?);
        if dialect.sets_max_version() {
            run = run.env("MAX_SHIM_VERSION", "2");
        }
        let output = run.arg("start").success()?;
        // containerd reads both streams as one.
        let reply = [output.bytes.as_slice(), output.stderr.as_bytes()].concat();
        let endpoint = dialect
            .endpoint(&reply)
            .with_context(|| output.to_string())?;
        self.started
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(endpoint.address.clone());
        Ok(endpoint)
    }

    /// Runs `start` as the newest containerd and connects.
    ///
    /// # Errors
    ///
    /// As [`FakeContainerd::start`], or when nobody listens at the address.
    pub fn serve(&self, bundle: &Bundle) -> Result<Tasks> {
        Tasks::connect(&self.start(bundle, Dialect::Bootstrap)?.address, Api::V3)
    }

    /// Runs `delete` for a bundle.
    ///
    /// # Errors
    ///
    /// When it fails, or answers something else than a `DeleteResponse`.
    pub fn delete(&self, bundle: &Bundle) -> Result<DeleteResponse> {
        let run = self
            .invocation(bundle.id())
            .cwd(bundle.path())
            .arg("-bundle")
            .arg(bundle.path());
        let output = run.arg("delete").success()?;
        DeleteResponse::parse_from_bytes(&output.bytes).with_context(|| output.to_string())
    }

    /// Forgets a task that has ended, as containerd does: Delete, Shutdown, and then, as the connection
    /// is closed, `delete`, while the bundle is still there.
    ///
    /// # Errors
    ///
    /// When one of the three fails.
    pub fn forget(&self, tasks: &Tasks, bundle: &Bundle) -> Result<DeleteResponse> {
        tasks.delete(bundle.id()).context("Delete")?;
        tasks.shutdown(bundle.id()).context("Shutdown")?;
        self.delete(bundle)
    }

    /// Runs `-info`, with these options on stdin.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn info(&self, options: Option<&Any>) -> Result<Output> {
        let stdin = options
            .map(|any| any.write_to_bytes())
            .transpose()
            .context("encode options")?;
        Invocation::new(&self.binary)
            .arg("-info")
            .stdin(stdin.unwrap_or_default())
            .output()
    }

    /// Runs `-v`.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn version(&self) -> Result<Output> {
        Invocation::new(&self.binary).arg("-v").output()
    }

    /// The one daemon that lives.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one.
    pub fn shim(&self) -> Result<Process> {
        match self.shims().as_slice() {
            [shim] => Ok(shim.clone()),
            shims => bail!("not one shim but {shims:?}"),
        }
    }

    /// The shim processes that live.
    #[must_use]
    pub fn shims(&self) -> Vec<Process> {
        Process::all()
            .into_iter()
            .filter(|process| process.is_about(self.folder()))
            .collect()
    }

    /// Kills every shim with SIGKILL and waits until they are gone.
    ///
    /// # Errors
    ///
    /// When one stays.
    pub fn kill_shims(&self) -> Result<()> {
        poll::until(
            "the shims are gone",
            std::time::Duration::from_secs(10),
            || {
                let shims = self.shims();
                shims.iter().for_each(|shim| shim.signal(Signal::KILL));
                if shims.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{shims:?}"))
                }
            },
        )
    }

    /// Waits until every shim has ended by itself.
    ///
    /// # Errors
    ///
    /// When one stays.
    pub fn shims_end(&self) -> Result<()> {
        self.shims_end_within(Duration::from_secs(10))
    }

    /// The same, for those that may take their time.
    ///
    /// # Errors
    ///
    /// When one stays.
    pub fn shims_end_within(&self, patience: Duration) -> Result<()> {
        poll::until("the shims end", patience, || {
            let shims = self.shims();
            if shims.is_empty() {
                Ok(())
            } else {
                Err(format!("{shims:?}"))
            }
        })
    }

    fn grpc(&self) -> String {
        self.folder().join("s").display().to_string()
    }

    fn ttrpc(&self) -> String {
        self.folder().join("s.ttrpc").display().to_string()
    }

    fn invocation(&self, id: &str) -> Invocation {
        let grpc = self.grpc();
        Invocation::new(&self.binary)
            .args([
                "-namespace",
                NAMESPACE,
                "-address",
                &grpc,
                "-publish-binary",
                CONTAINERD,
                "-id",
                id,
            ])
            .env("GOMAXPROCS", "2")
            .env("TTRPC_ADDRESS", self.ttrpc())
            .env("GRPC_ADDRESS", &grpc)
            .env("NAMESPACE", NAMESPACE)
            .envs(&self.environment)
    }
}

/// What a shim is told about containerd's binary; nothing runs it.
const CONTAINERD: &str = "/usr/bin/containerd";

impl Drop for FakeContainerd {
    #[allow(
        clippy::print_stderr,
        reason = "what cannot be ended has to be told, and a drop returns nothing"
    )]
    fn drop(&mut self) {
        if let Err(error) = self.kill_shims() {
            eprintln!("{error:#}");
        }
        // What runc keeps for a namespace, once it is empty.
        std::fs::remove_dir(Path::new("/run/containerd/runc").join(NAMESPACE)).ok();
        // Sockets and mounts of shims that were killed; a test that demands none has looked before.
        for address in self
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            std::fs::remove_file(address.trim_start_matches("unix://")).ok();
        }
        if let Err(error) = leftovers::unmount_below(self.folder.path()) {
            eprintln!("{error:#}");
        }
    }
}
