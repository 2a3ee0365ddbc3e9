//! The plan: what was meant by a bundle.
//!
//! A `Plan` has one constructor and no setters, so holding one means that everything in it was checked.
//! It is made before the root file system is mounted; nothing in it was looked up on the disk.

use std::path::{Path, PathBuf};

use crate::{
    Bundle, Cgroup, Claim, Error, Hooks, Limits, Mount, Namespace, Namespaces, Options, Process,
    Sysctl,
};

/// Everything needed to run a container, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    rootfs: Rootfs,
    mounts: Vec<Mount>,
    masked: Vec<PathBuf>,
    readonly: Vec<PathBuf>,
    namespaces: Namespaces,
    hostname: Option<String>,
    domainname: Option<String>,
    sysctls: Vec<Sysctl>,
    process: Process,
    limits: Limits,
    cgroup: Cgroup,
    hooks: Hooks,
    claim: Claim,
    in_pod: bool,
    options: Options,
}

/// The directory that becomes the guest's `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The absolute host path. containerd's is `rootfs` in the bundle and may have to be mounted
    /// first; Docker's is somewhere else and is mounted already.
    pub path: PathBuf,
    /// Whether the guest may not write to it. Mounts over it have flags of their own.
    pub readonly: bool,
}

impl Plan {
    /// Checks a bundle.
    ///
    /// # Errors
    ///
    /// Any [`Error`] but the ones about opening a bundle or an entrypoint. They hold for *wasm*
    /// containers: a Linux container with, say, a user namespace is none of this crate's business,
    /// and whether a container is one may be known only later.
    pub fn new(bundle: &Bundle) -> Result<Self, Error> {
        let config = bundle.config();
        let spec = bundle.spec();
        let linux = spec.linux().as_ref();

        let listed = linux.and_then(|linux| linux.namespaces().as_deref());
        let namespaces = Namespaces::new(listed.unwrap_or_default(), &config)?;
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let process = spec.process().as_ref().ok_or_else(|| Error::NoProcess {
            config: config.clone(),
        })?;
        let mounts = spec.mounts().as_deref().unwrap_or_default();

        let paths = |listed: Option<&Vec<String>>| {
            let listed = listed.map_or(&[][..], Vec::as_slice);
            listed.iter().map(PathBuf::from).collect()
        };

        let process = Process::new(process, &config)?;
        let program = process.args.first().map_or("", String::as_str);
        let claim = Claim::of(spec.annotations().as_ref(), program);

        Ok(Self {
            rootfs: Rootfs::new(bundle)?,
            mounts: mounts
                .iter()
                .map(|mount| Mount::new(mount, bundle.dir()))
                .collect::<Result<_, _>>()?,
            masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref())),
            readonly: paths(linux.and_then(|linux| linux.readonly_paths().as_ref())),
            hostname: uts_name("hostname", spec.hostname(), &namespaces.uts, &config)?,
            domainname: uts_name("domainname", spec.domainname(), &namespaces.uts, &config)?,
            sysctls: Sysctl::list(
                linux.and_then(|linux| linux.sysctl().as_ref()),
                &namespaces,
                &config,
            )?,
            namespaces,
            process,
            limits: Limits::new(resources, &config)?,
            cgroup: Cgroup::new(linux, &config)?,
            hooks: Hooks::new(bundle)?,
            claim,
            in_pod: bundle.annotation("io.kubernetes.cri.sandbox-id").is_some(),
            options: Options::new(bundle)?,
        })
    }

    /// The root file system.
    pub fn rootfs(&self) -> &Rootfs {
        &self.rootfs
    }

    /// What is mounted over it, in this order.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// What the guest must not see (`linux.maskedPaths`): paths in the container that may be missing,
    /// to be resolved there. As they were written.
    pub fn masked_paths(&self) -> &[PathBuf] {
        &self.masked
    }

    /// What the guest must not write to (`linux.readonlyPaths`); see [`Self::masked_paths`].
    pub fn readonly_paths(&self) -> &[PathBuf] {
        &self.readonly
    }

    /// Which namespaces are shared, new, joined.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The host name to set. Only there if the UTS namespace is [`Namespace::New`].
    pub fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// The NIS domain name to set. Only there if the UTS namespace is [`Namespace::New`].
    pub fn domainname(&self) -> Option<&str> {
        self.domainname.as_deref()
    }

    /// Kernel parameters to set in its namespaces, in this order.
    pub fn sysctls(&self) -> &[Sysctl] {
        &self.sysctls
    }

    /// What to run.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where it belongs in the hierarchy of cgroups.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What is run beside it, and when.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Whether somebody has said that it is wasm.
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// Whether it is in a pod, whose annotations CRI adds to its own.
    pub fn in_pod(&self) -> bool {
        self.in_pod
    }

    /// What its annotations ask for.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

impl Rootfs {
    fn new(bundle: &Bundle) -> Result<Self, Error> {
        let root = bundle.spec().root().as_ref();
        match root {
            Some(root) if !root.path().as_os_str().is_empty() => Ok(Self {
                // An absolute path replaces the bundle's.
                path: bundle.dir().join(root.path()),
                readonly: root.readonly().unwrap_or(false),
            }),
            Some(_) | None => Err(Error::NoRoot {
                config: bundle.config(),
            }),
        }
    }
}

/// A name is set in the namespace the container brings. In one it joins, the name is its owner's
/// business: the containers of a pod join their sandbox's. In the host's it would rename the node.
fn uts_name(
    field: &'static str,
    name: &Option<String>,
    uts: &Namespace,
    config: &Path,
) -> Result<Option<String>, Error> {
    match (name.as_deref(), uts) {
        (None | Some(""), Namespace::Host | Namespace::New | Namespace::Join(_)) => Ok(None),
        (Some(name), Namespace::New) => Ok(Some(name.to_owned())),
        (Some(_), Namespace::Join(_)) => Ok(None),
        (Some(name), Namespace::Host) => Err(Error::NameWithoutUts {
            config: config.to_owned(),
            field,
            name: name.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BundleBuilder;

    fn plan(bundle: BundleBuilder) -> Result<Plan, Error> {
        Plan::new(&Bundle::open(bundle.build().path()).unwrap())
    }

    #[test]
    fn a_host_name_needs_a_namespace_to_be_set_in() {
        let named = || BundleBuilder::new().hostname("web");
        let new = plan(named().namespace("uts", None)).unwrap();
        assert_eq!(new.hostname(), Some("web"));
        let joined = plan(named().namespace("uts", Some("/proc/7/ns/uts"))).unwrap();
        assert_eq!(joined.hostname(), None);
        let error = plan(named()).unwrap_err();
        let Error::NameWithoutUts { field, name, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((field, name.as_str()), ("hostname", "web"));
    }

    #[test]
    fn an_empty_host_name_is_none() {
        assert_eq!(
            plan(BundleBuilder::new().hostname("")).unwrap().hostname(),
            None
        );
    }

    #[test]
    fn a_root_file_system_must_be_named() {
        for root in [r#""root": {"path": ""},"#, ""] {
            let dir = tempfile::tempdir().unwrap();
            let text =
                format!(r#"{{ {root} "process": {{"user": {{}}, "cwd": "/", "args": ["a"]}} }}"#);
            std::fs::write(dir.path().join("config.json"), text).unwrap();
            let error = Plan::new(&Bundle::open(dir.path()).unwrap()).unwrap_err();
            assert!(matches!(error, Error::NoRoot { .. }), "{error:?}");
        }
    }

    #[test]
    fn without_a_process_there_is_no_plan() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        std::fs::write(&config, r#"{"root": {"path": "rootfs"}}"#).unwrap();
        let error = Plan::new(&Bundle::open(dir.path()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::NoProcess { .. }), "{error:?}");
    }

    #[test]
    fn mounts_keep_their_order() {
        let plan = plan(
            BundleBuilder::new()
                .mount("/b", "tmpfs", "tmpfs", &["ro"])
                .mount("/a", "bind", "data", &["rbind"]),
        )
        .unwrap();
        let destinations: Vec<_> = plan.mounts().iter().map(|m| &m.destination).collect();
        assert_eq!(destinations, [Path::new("/b"), Path::new("/a")]);
    }
}
