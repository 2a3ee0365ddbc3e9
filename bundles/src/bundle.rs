//! The bundle: a directory with `config.json` in it, read once and kept as it was said.
//!
//! Hooks, annotations, sysctls and the cgroup path are wanted by the shim in their OCI form, so the
//! parsed spec stays reachable. Everything the guest depends on goes through [`Plan`](crate::Plan).

use std::{
    fs,
    path::{self, Path, PathBuf},
};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use crate::{Error, Mount, PREFIX};

/// A directory prepared for one container, with its `config.json` parsed.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    spec: Spec,
}

impl Bundle {
    /// Reads `<dir>/config.json`. This is the only place that opens it.
    ///
    /// `dir` is made absolute (against the working directory, without touching the disk), so that a
    /// later change of the working directory changes nothing. The root file system is not looked at:
    /// it may not be mounted yet.
    ///
    /// # Errors
    ///
    /// [`Error::BundlePath`], [`Error::ReadConfig`] (its source is `NotFound` if there is no
    /// `config.json`, as in bundles of containerd's `sandboxer = "shim"`), [`Error::ParseConfig`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let dir = path::absolute(dir).map_err(|source| Error::BundlePath {
            path: dir.to_owned(),
            source,
        })?;
        let path = dir.join("config.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) => return Err(Error::ReadConfig { path, source }),
        };
        match serde_json::from_slice(&text) {
            Ok(spec) => Ok(Self { dir, spec }),
            Err(source) => Err(Error::ParseConfig { path, source }),
        }
    }

    /// The bundle's directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json` as it was said, unchecked.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The value of an annotation (OCI config.md, "Annotations").
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.spec
            .annotations()
            .as_ref()
            .and_then(|annotations| annotations.get(key))
            .map(String::as_str)
    }

    /// Whether this is the sandbox of a pod, which CRI otherwise runs a program for that does nothing
    /// (containerd `internal/cri/annotations`).
    pub fn is_sandbox(&self) -> bool {
        self.annotation("io.kubernetes.cri.container-type") == Some("sandbox")
    }

    /// Whether it asks for a user namespace.
    pub fn has_users(&self) -> bool {
        self.namespace(LinuxNamespaceType::User).is_some()
    }

    /// The file of the process namespace that it asks to join.
    pub fn process_namespace(&self) -> Option<&Path> {
        self.namespace(LinuxNamespaceType::Pid)?.path().as_deref()
    }

    fn namespace(&self, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
        let listed = self.spec.linux().as_ref()?.namespaces().as_ref()?;
        listed.iter().find(|namespace| namespace.typ() == kind)
    }

    /// The same with nothing in it but what it takes to find the program: of a bundle that is no
    /// [`Plan`](crate::Plan) for a wasm container this may be one.
    #[must_use]
    pub fn reduced(&self) -> Self {
        let mut spec = self.spec.clone();
        spec.set_linux(None)
            .set_hooks(None)
            .set_hostname(None)
            .set_domainname(None);
        let mounts = spec.mounts().iter().flatten();
        let mounts = mounts.filter(|mount| Mount::new(mount, &self.dir).is_ok());
        let mounts = mounts.cloned().collect();
        spec.set_mounts(Some(mounts));
        if let Some(mut annotations) = spec.annotations().clone() {
            annotations.retain(|key, _| !key.starts_with(PREFIX));
            spec.set_annotations(Some(annotations));
        }
        Self {
            dir: self.dir.clone(),
            spec,
        }
    }

    /// The path of `config.json`, for error texts.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::testing::BundleBuilder;

    #[test]
    fn annotations_are_found_by_key() {
        let bundle = BundleBuilder::new()
            .annotation("io.kubernetes.cri.sandbox-id", "pod")
            .build();
        let bundle = Bundle::open(bundle.path()).unwrap();
        assert_eq!(
            bundle.annotation("io.kubernetes.cri.sandbox-id"),
            Some("pod")
        );
        assert_eq!(bundle.annotation("io.kubernetes.cri.sandbox-name"), None);
    }

    #[test]
    fn what_only_linux_knows_is_not_needed_to_find_a_program() {
        let bundle = BundleBuilder::new()
            .namespace("user", None)
            .hostname("web")
            .annotation("io.containerd.wasi.v1.nothing", "1")
            .annotation("other", "2")
            .build();
        let bundle = Bundle::open(bundle.path()).unwrap();
        assert!(bundle.has_users());
        assert!(crate::Plan::new(&bundle).is_err());
        let reduced = bundle.reduced();
        assert!(crate::Plan::new(&reduced).is_ok());
        assert_eq!(reduced.annotation("other"), Some("2"));
        assert!(!reduced.has_users());
    }

    #[test]
    fn a_relative_directory_becomes_absolute() {
        let bundle = BundleBuilder::new().build();
        let relative = {
            let here = std::env::current_dir().unwrap();
            let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
            up.join(bundle.path().strip_prefix("/").unwrap())
        };
        let bundle = Bundle::open(&relative).unwrap();
        assert!(bundle.dir().is_absolute());
    }

    #[test]
    fn a_missing_config_is_told_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = Bundle::open(dir.path()).unwrap_err();
        let Error::ReadConfig { path, source } = error else {
            panic!("{error:?}");
        };
        assert_eq!(path, dir.path().join("config.json"));
        assert_eq!(source.kind(), io::ErrorKind::NotFound);

        fs::write(dir.path().join("config.json"), r#"{"process": 1}"#).unwrap();
        let error = Bundle::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::ParseConfig { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "{} is no OCI runtime spec",
                dir.path().join("config.json").display()
            )
        );
    }

    #[test]
    fn an_empty_path_is_no_bundle() {
        assert!(matches!(
            Bundle::open(Path::new("")),
            Err(Error::BundlePath { .. })
        ));
    }
}
