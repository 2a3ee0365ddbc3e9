//! Hooks: programs that the bundle wants run at moments of the container's life. Network plugins are
//! attached this way by nerdctl and by older Dockers.
//!
//! Each gets the container's state on stdin (OCI runtime.md, "State"); its pid is the id of the
//! container's thread, so that `/proc/<pid>/ns/net` is the container's network. They run one after the
//! other, each as a process of its own that inherits nothing but its three streams, and never on the
//! thread that answers containerd.
//!
//! | moment | when | where | a failure |
//! |---|---|---|---|
//! | prestart, createRuntime | in Create, between the mounts and the program | host | fails Create |
//! | createContainer | after those | the container's namespaces, the host's files | fails Create |
//! | startContainer | in Start, before the guest runs | the container, as its user | fails Start, ends the container |
//! | poststart | in Start, when the guest runs | host | is logged |
//! | poststop | in Delete, after a failed Create, in `delete` | host | is logged |
//!
//! Poststop is owed from the first moment of Create on, whatever happens. That is written down in the
//! bundle as a folder, in which each of these hooks is claimed by a file before it is run: who makes the
//! file runs it, be it the shim or the `delete` after it was killed.

mod process;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::sync::oneshot;
use wasi_bundles::{Bundle, Hook, Hooks, Moment, User};

pub use self::process::Failure;
use self::process::Place;
use crate::Error;
use crate::cgroup::Origin;
use crate::confine::Checkpoint;

/// The folder in the bundle that says that poststop hooks are owed.
const OWED: &str = "poststop";

/// What nerdctl's hook reads before the pid, and who else reads it is nobody.
const NERDCTL_NETWORK: &str = "nerdctl/network-namespace";

/// The hooks of one container, with what they are told of it.
#[derive(Debug, Clone)]
pub struct ContainerHooks {
    id: String,
    bundle: PathBuf,
    oci_version: String,
    annotations: BTreeMap<String, String>,
    hooks: Hooks,
    /// Who the container is.
    user: User,
    capabilities: Vec<String>,
    origin: Origin,
}

/// OCI runtime.md, "State".
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    bundle: &'a Path,
    annotations: BTreeMap<&'a str, String>,
}

/// The container's status at a moment.
fn status(moment: Moment) -> &'static str {
    match moment {
        Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => "creating",
        Moment::StartContainer => "created",
        Moment::Poststart => "running",
        Moment::Poststop => "stopped",
    }
}

impl ContainerHooks {
    /// The hooks of the container `id`. `user` and `capabilities` (the names of the effective ones) are
    /// who it is; `origin` is the cgroup that its hooks shall be in instead of the container's.
    #[must_use]
    pub fn new(
        id: &str,
        bundle: &Bundle,
        hooks: Hooks,
        user: &User,
        capabilities: &[String],
        origin: Origin,
    ) -> Self {
        let annotations = bundle.spec().annotations().iter().flatten();
        Self {
            id: id.to_owned(),
            bundle: bundle.dir().to_owned(),
            oci_version: bundle.spec().version().clone(),
            annotations: annotations
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            hooks,
            user: user.clone(),
            capabilities: capabilities.to_owned(),
            origin,
        }
    }

    /// Whether there is one at any of these moments.
    #[must_use]
    pub fn any_at(&self, moments: &[Moment]) -> bool {
        moments
            .iter()
            .any(|&moment| !self.hooks.at(moment).is_empty())
    }

    /// Runs those of a moment, up to the first that fails. `pid` is the id of the container's thread.
    /// Dropped meanwhile, it kills the one that runs.
    ///
    /// # Errors
    ///
    /// [`Error::Hook`].
    pub async fn run(&self, moment: Moment, pid: u32) -> Result<(), Error> {
        for hook in self.hooks.at(moment) {
            let place = self.place(moment, pid);
            let failed = |failure| Error::Hook {
                moment: moment.name(),
                path: hook.path.clone(),
                failure,
            };
            self.spawn(hook, place, self.state(moment, Some(pid)))
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    /// The hooks of Create: where the container's thread waits for them, if there are any, and their
    /// running, which begins when it is there.
    pub fn create(&self) -> (Option<Checkpoint>, impl Future<Output = Result<(), Error>>) {
        const CREATING: [Moment; 3] = [
            Moment::Prestart,
            Moment::CreateRuntime,
            Moment::CreateContainer,
        ];
        let (reached, arrival) = oneshot::channel();
        let (pass, passed) = oneshot::channel();
        let checkpoint = self
            .any_at(&CREATING)
            .then_some(Checkpoint { reached, passed });
        let run = async move {
            // Not reached: there are none, or something failed before.
            let Ok(pid) = arrival.await else {
                return Ok(());
            };
            for moment in CREATING {
                self.run(moment, pid).await?;
            }
            // A thread that is gone meanwhile has said why.
            let _ = pass.send(());
            Ok(())
        };
        (checkpoint, run)
    }

    /// [`Self::run`], where a failure changes nothing any more.
    pub async fn run_and_log(&self, moment: Moment, pid: u32) {
        if let Err(error) = self.run(moment, pid).await {
            log::warn!("container {}: {}", self.id, error.text());
        }
    }

    /// Writes down that the poststop hooks are to be run. Whatever an earlier container of the bundle
    /// owed is forgotten.
    ///
    /// # Errors
    ///
    /// [`Error::Host`].
    pub fn owe_poststop(&self) -> Result<(), Error> {
        if !self.any_at(&[Moment::Poststop]) {
            return Ok(());
        }
        let owed = self.bundle.join(OWED);
        match fs::remove_dir_all(&owed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs::create_dir(&owed),
        }
        .map_err(Error::host(format!("make {}", owed.display())))
    }

    /// Takes that back: they are another's to run.
    ///
    /// # Errors
    ///
    /// [`Error::Host`].
    pub fn disown(&self) -> Result<(), Error> {
        let owed = self.bundle.join(OWED);
        match fs::remove_dir_all(&owed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
        .map_err(Error::host(format!("remove {}", owed.display())))
    }

    /// Runs the poststop hooks that nobody has run. A failure is logged, and the next one is run.
    pub async fn poststop(&self) {
        for (index, hook) in self.hooks.at(Moment::Poststop).iter().enumerate() {
            let result = match claim(&self.bundle, index) {
                Ok(false) => continue,
                Ok(true) => {
                    let state = self.state(Moment::Poststop, None);
                    self.spawn(hook, Place::Host(self.origin.clone()), state)
                        .await
                }
                Err(error) => Err(Failure::Host(error)),
            };
            if let Err(failure) = result {
                log::warn!("container {}: {}", self.id, complaint(hook, &failure));
            }
        }
    }

    fn place(&self, moment: Moment, pid: u32) -> Place {
        match moment {
            Moment::Prestart | Moment::CreateRuntime | Moment::Poststart | Moment::Poststop => {
                Place::Host(self.origin.clone())
            }
            Moment::CreateContainer => Place::Namespaces(pid, self.origin.clone()),
            Moment::StartContainer => {
                Place::Container(pid, self.user.clone(), self.capabilities.clone())
            }
        }
    }

    fn state(&self, moment: Moment, pid: Option<u32>) -> Vec<u8> {
        let mut annotations: BTreeMap<&str, String> = self
            .annotations
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        let nerdctl = annotations.keys().any(|key| key.starts_with("nerdctl/"));
        if let (true, Some(pid)) = (nerdctl, pid) {
            annotations
                .entry(NERDCTL_NETWORK)
                .or_insert_with(|| format!("/proc/{pid}/ns/net"));
        }
        let state = State {
            oci_version: &self.oci_version,
            id: &self.id,
            status: status(moment),
            pid,
            bundle: &self.bundle,
            annotations,
        };
        serde_json::to_vec(&state).expect("strings and a path that came from JSON are JSON")
    }

    async fn spawn(&self, hook: &Hook, place: Place, state: Vec<u8>) -> Result<(), Failure> {
        // Closed when this future is dropped: nobody waits for the hook any more.
        let (given_up, waiting) = io::pipe().map_err(Failure::Host)?;
        let (hook, bundle) = (hook.clone(), self.bundle.clone());
        let run = move || process::run(&hook, &bundle, &place, &state, &given_up);
        let ended = tokio::task::spawn_blocking(run).await;
        drop(waiting);
        ended.unwrap_or_else(|error| Err(Failure::Host(io::Error::other(error))))
    }
}

/// Whether the caller is the one to run the poststop hook `index`.
fn claim(bundle: &Path, index: usize) -> io::Result<bool> {
    match File::create_new(bundle.join(OWED).join(index.to_string())) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn complaint(hook: &Hook, failure: &Failure) -> String {
    let (moment, path) = (Moment::Poststop.name(), hook.path.display());
    format!("the {moment} hook {path} {failure}")
}

/// Runs the poststop hooks that are owed to the container `id` of `bundle`, whose shim is gone, and
/// returns what went wrong. Nothing in it stops the others.
#[must_use]
pub fn settle(bundle: &Path, id: &str) -> Vec<String> {
    if !bundle.join(OWED).exists() {
        return Vec::new();
    }
    let read = Bundle::open(bundle).and_then(|bundle| Ok((Hooks::new(&bundle)?, bundle)));
    let (hooks, bundle) = match read {
        Ok(read) => read,
        Err(error) => return vec![format!("cannot run the poststop hooks: {error}")],
    };
    // This process is in no container's cgroup.
    let origin = Origin::default();
    let hooks = ContainerHooks::new(id, &bundle, hooks, &User::default(), &[], origin);
    let mut complaints = Vec::new();
    for (index, hook) in hooks.hooks.at(Moment::Poststop).iter().enumerate() {
        let run = || {
            if !claim(&hooks.bundle, index).map_err(Failure::Host)? {
                return Ok(());
            }
            let (never, _open) = io::pipe().map_err(Failure::Host)?;
            let place = Place::Host(hooks.origin.clone());
            let state = hooks.state(Moment::Poststop, None);
            process::run(hook, &hooks.bundle, &place, &state, &never)
        };
        complaints.extend(run().err().map(|failure| complaint(hook, &failure)));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    fn of(annotations: &Value) -> (ContainerHooks, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "ociVersion": "1.1.0",
            "annotations": annotations,
            "hooks": { "poststop": [{ "path": "/x" }] },
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        let hooks = Hooks::new(&bundle).unwrap();
        let user = User::default();
        let hooks = ContainerHooks::new("web", &bundle, hooks, &user, &[], Origin::default());
        (hooks, folder)
    }

    fn state(hooks: &ContainerHooks, moment: Moment, pid: Option<u32>) -> Value {
        serde_json::from_slice(&hooks.state(moment, pid)).unwrap()
    }

    #[test]
    fn the_state_is_the_whole_one_of_the_specification() {
        let (hooks, folder) = of(&json!({ "a": "b" }));
        assert_eq!(
            state(&hooks, Moment::CreateRuntime, Some(7)),
            json!({
                "ociVersion": "1.1.0", "id": "web", "status": "creating", "pid": 7,
                "bundle": folder.path(), "annotations": { "a": "b" },
            })
        );
        let stopped = state(&hooks, Moment::Poststop, None);
        assert_eq!(stopped["status"], "stopped");
        assert_eq!(stopped.get("pid"), None);
    }

    #[test]
    fn nerdctl_is_told_the_network_namespace_unless_it_knows_one() {
        let (hooks, _folder) = of(&json!({ "nerdctl/namespace": "default" }));
        let told = |hooks, pid| {
            state(hooks, Moment::CreateRuntime, pid)["annotations"][NERDCTL_NETWORK].clone()
        };
        assert_eq!(told(&hooks, Some(7)), "/proc/7/ns/net");
        assert_eq!(told(&hooks, None), Value::Null);
        let (hooks, _folder) = of(&json!({ NERDCTL_NETWORK: "/run/netns/x" }));
        assert_eq!(told(&hooks, Some(7)), "/run/netns/x");
    }

    #[test]
    fn a_poststop_hook_is_claimed_once() {
        let (hooks, folder) = of(&json!({}));
        assert!(claim(folder.path(), 0).is_err(), "it is not owed yet");
        hooks.owe_poststop().unwrap();
        assert!(claim(folder.path(), 0).unwrap());
        assert!(!claim(folder.path(), 0).unwrap());
        hooks.owe_poststop().unwrap();
        assert!(claim(folder.path(), 0).unwrap(), "a new container's");
    }
}
