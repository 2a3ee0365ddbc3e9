//! Linux containers, which this shim does not run: it has a `containerd-shim-runc-v2` of its own for them,
//! a child that is there only while it has some. A pod's sidecars and init containers get there, and any
//! image whose program turns out to be one for Linux.
//!
//! What is asked of such a container is passed on as it came ([`container`]); the child publishes its
//! events itself, to the same containerd. ([`child`] is its life, [`call`] its command line.)

pub mod call;
pub mod child;
pub mod container;
pub mod kept;
pub mod pause;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::shim::oci::Options;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;
use wasi_bundles::Bundle;

use self::child::{Child, Origin};
use self::container::LinuxContainer;
use crate::Error;
use crate::cri_options::CriOptions;
use crate::events::Publisher;

/// How long the child stays after its last container: told to go, it drops the event of that one's deletion
/// if it has not sent it yet (containerd 2.1). Another container may come meanwhile, too.
const LINGER: Duration = Duration::from_millis(500);
/// The only options that the child takes; it ends at any others.
const OPTIONS: &str = "containerd.runc.v1.Options";

/// Whether options are runc's own, as `ctr` sends them.
#[must_use]
pub fn are_own(options: &Any) -> bool {
    options.type_url.rsplit('/').next() == Some(OPTIONS)
}

/// The Linux containers of a shim. Cloning shares them.
#[derive(Debug, Clone)]
pub struct LinuxContainers {
    origin: Arc<Origin>,
    child: Arc<Mutex<Option<Used>>>,
    /// That of the pod, if there has to be one.
    pause: Arc<Mutex<Option<Arc<LinuxContainer>>>>,
    events: Publisher,
}

#[derive(Debug)]
struct Used {
    child: Arc<Child>,
    /// Containers that are in it, or on their way.
    by: usize,
    /// When the last one went.
    idle: Instant,
}

impl LinuxContainers {
    /// None yet.
    #[must_use]
    pub fn new(origin: Origin, events: Publisher) -> Self {
        Self {
            origin: Arc::new(origin),
            child: Arc::default(),
            pause: Arc::default(),
            events,
        }
    }

    /// Creates one, in a child that is started if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Linux`] with what the child says; [`Error::Host`] when it cannot be started;
    /// [`Error::Unimplemented`] for a namespace that no thread of this shim has to give.
    pub async fn create(
        &self,
        mut request: api::CreateTaskRequest,
        bundle: &Bundle,
    ) -> Result<Arc<LinuxContainer>, Error> {
        require_joinable(bundle)?;
        request.options = options(request.options.take(), bundle)?;
        let child = self.child().await?;
        let created = child.ask::<api::CreateTaskResponse>("Create", &request);
        let pid = match created.await {
            Ok(created) => created.pid,
            Err(error) => {
                self.release(&child).await;
                return Err(if let ttrpc::Error::RpcStatus(status) = error {
                    Error::Linux {
                        code: status.code(),
                        text: status.message,
                    }
                } else {
                    Error::host("run a Linux container")(std::io::Error::other(error))
                });
            }
        };
        let container = LinuxContainer::new(request, pid, child, self.events.clone());
        let container = Arc::new(container);
        container.watch(self.origin.call.clone());
        Ok(container)
    }

    /// Keeps what ends a container when this shim is killed and the container's bundle is gone.
    pub async fn keep(&self, container: &LinuxContainer, bundle: &Bundle) {
        let (first, id) = (self.origin.bundle.clone(), container.id().to_owned());
        let bundle = bundle.dir().to_owned();
        let kept = spawn_blocking(move || kept::keep(&first, &id, &bundle)).await;
        if let Ok(Err(error)) = kept {
            let id = container.id();
            log::warn!("container {id} may outlive its shim: its files cannot be kept: {error}");
        }
    }

    /// A container is deleted, or will be: with the last one the child goes.
    pub async fn forget(&self, container: &LinuxContainer) {
        container.forget();
        let (first, id) = (self.origin.bundle.clone(), container.id().to_owned());
        let forgotten = spawn_blocking(move || kept::forget(&first, &id)).await;
        if let Ok(Err(error)) = forgotten {
            log::warn!(
                "the kept files of container {} stay: {error}",
                container.id()
            );
        }
        self.release(container.child()).await;
    }

    /// The shim goes: the child goes before it.
    pub async fn end(&self) {
        self.end_pause().await;
        if let Some(Used { child, idle, .. }) = self.child.lock().await.take() {
            sleep_until((idle + LINGER).into()).await;
            child.end().await;
        }
    }

    async fn child(&self) -> Result<Arc<Child>, Error> {
        let mut current = self.child.lock().await;
        if let Some(used) = &mut *current
            && !used.child.is_gone()
        {
            used.by += 1;
            return Ok(Arc::clone(&used.child));
        }
        let child = Arc::new(Child::start(&self.origin).await?);
        *current = Some(Used {
            child: Arc::clone(&child),
            by: 1,
            idle: Instant::now(),
        });
        Ok(child)
    }

    async fn release(&self, child: &Arc<Child>) {
        let mut current = self.child.lock().await;
        // One that died was replaced, and its containers do not count.
        if let Some(used) = &mut *current
            && Arc::ptr_eq(&used.child, child)
        {
            used.by -= 1;
            used.idle = Instant::now();
            if used.by == 0 {
                tokio::spawn(self.clone().end_idle(used.idle));
            }
        }
    }

    /// Ends the child, if nothing has happened since `idle`.
    async fn end_idle(self, idle: Instant) {
        sleep_until((idle + LINGER).into()).await;
        // Held until it is gone: the next one is started after that.
        let mut current = self.child.lock().await;
        if let Some(used) = current.take_if(|used| used.by == 0 && used.idle == idle) {
            used.child.end().await;
        }
    }
}

/// The options that the child gets: its own as they are, what CRI's table has of them, none of another type. A
/// cgroup path with colons is systemd's (`slice:prefix:name`), as CRI writes it.
fn options(given: Option<Any>, bundle: &Bundle) -> Result<MessageField<Any>, Error> {
    let given = given.unwrap_or_default();
    if are_own(&given) {
        return Ok(MessageField::some(given));
    }
    let of_cri = CriOptions::read(&given).map_err(Error::Options)?;
    let mut options = of_cri
        .unwrap_or_default()
        .of_runc()
        .map_err(Error::Options)?;
    let linux = bundle.spec().linux().as_ref();
    let cgroup = linux.and_then(|linux| linux.cgroups_path().as_ref());
    options.systemd_cgroup |=
        cgroup.is_some_and(|path| path.to_string_lossy().split(':').count() == 3);
    if options == Options::default() {
        return Ok(MessageField::none());
    }
    let value = options.write_to_bytes().map_err(std::io::Error::other);
    Ok(MessageField::some(Any {
        type_url: OPTIONS.to_owned(),
        value: value.map_err(Error::host("encode the options"))?,
        ..Any::default()
    }))
}

/// A wasm container or sandbox has network, IPC and UTS namespaces; all others of its thread are the
/// host's, and nobody may get these by asking for a container's.
fn require_joinable(bundle: &Bundle) -> Result<(), Error> {
    let linux = bundle.spec().linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_ref());
    for namespace in listed.into_iter().flatten() {
        let Some(path) = namespace.path() else {
            continue;
        };
        if is_of_this_process(path)
            && !["net", "ipc", "uts"]
                .iter()
                .any(|kind| path.ends_with(kind))
        {
            return Err(Error::Unimplemented(format!(
                "joining {} (a process namespace shared with the pod, or with a wasm container)",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Whether a path is `/proc/<thread>/…` of a thread of the shim.
fn is_of_this_process(path: &Path) -> bool {
    let thread = process_of(path);
    thread.is_some_and(|thread| Path::new(&format!("/proc/self/task/{thread}")).exists())
}

/// The process or thread of a path `/proc/<number>/…`.
fn process_of(path: &Path) -> Option<u32> {
    let inside = path.strip_prefix("/proc").ok()?;
    let number = inside.components().next()?;
    number.as_os_str().to_str()?.parse().ok()
}

/// The process or thread whose process namespace a container is to join.
#[must_use]
pub fn process_namespace_of(bundle: &Bundle) -> Option<u32> {
    process_of(bundle.process_namespace()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri_options;

    fn bundle(linux: &serde_json::Value) -> (tempfile::TempDir, Bundle) {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::json!({ "ociVersion": "1.1.0", "linux": linux });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        (folder, bundle)
    }

    #[test]
    fn the_child_gets_no_options_that_it_does_not_know() {
        let of_cri = cri_options::sent("Fuel = 7");
        let (_folder, plain) = bundle(&serde_json::json!({ "cgroupsPath": "/pods/a" }));
        assert!(options(Some(of_cri), &plain).unwrap().is_none());
        assert!(options(None, &plain).unwrap().is_none());
        let own = Any {
            type_url: OPTIONS.to_owned(),
            value: vec![1, 2],
            ..Any::default()
        };
        assert_eq!(
            options(Some(own.clone()), &plain)
                .unwrap()
                .0
                .map(|own| *own),
            Some(own)
        );
        let (_folder, slice) = bundle(&serde_json::json!({ "cgroupsPath": "pod.slice:cri:a" }));
        let of_cri = cri_options::sent("BinaryName = \"crun\"");
        let found = options(Some(of_cri), &slice).unwrap();
        let found = Options::parse_from_bytes(&found.value).unwrap();
        assert!(found.systemd_cgroup);
        assert_eq!(found.binary_name, "crun");
        let wrong = options(Some(cri_options::sent("Root = 7")), &plain).unwrap_err();
        assert!(
            wrong.text().contains("Root has to be a string"),
            "{}",
            wrong.text()
        );
    }

    #[test]
    fn nobody_gets_the_hosts_processes_by_asking_for_a_threads() {
        let own = rustix::thread::gettid().as_raw_nonzero();
        let joining = |kind: &str, file: &str, of: &str| {
            let path = format!("/proc/{of}/ns/{file}");
            let (_folder, bundle) =
                bundle(&serde_json::json!({ "namespaces": [{ "type": kind, "path": path }] }));
            require_joinable(&bundle)
        };
        let own = own.to_string();
        assert!(joining("network", "net", &own).is_ok());
        assert!(matches!(
            joining("pid", "pid", &own),
            Err(Error::Unimplemented(_))
        ));
        assert!(matches!(
            joining("user", "user", &own),
            Err(Error::Unimplemented(_))
        ));
        assert!(joining("pid", "pid", "1").is_ok(), "another process's");
    }
}
