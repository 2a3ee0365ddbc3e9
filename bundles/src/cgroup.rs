//! Where a container belongs in the hierarchy of cgroups, and its share of the processors there
//! (OCI config-linux.md, "Control groups").
//!
//! | `linux.cgroupsPath` | is |
//! |---|---|
//! | missing or empty | nowhere: the shim stays where it is |
//! | `/a/b`, `a/b` | that path, from the root of the hierarchy |
//! | `a-b.slice:prefix:name` | systemd's: `a.slice/a-b.slice/prefix-name.scope` |

use std::fmt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxCpu, LinuxResources};

use crate::Error;

/// A path in the hierarchy of cgroups, in one of its two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPath {
    /// From the root of the hierarchy, without a leading slash.
    Plain(PathBuf),
    /// systemd's: the slice's own folders, the scope's prefix, and its name.
    Systemd {
        /// From the root of the hierarchy; empty for the root slice.
        slice: PathBuf,
        /// What comes before the name.
        prefix: String,
        /// The container's, usually its id.
        name: String,
    },
}

/// A container's share of the processors (`linux.resources.cpu`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuShare {
    /// Relative to its siblings; 1024 is usual, 2 to 262144 possible.
    pub shares: Option<u64>,
    /// Microseconds of processor time in each period. `None` is no limit.
    pub quota: Option<u64>,
    /// Microseconds; the kernel's is 100,000.
    pub period: Option<u64>,
}

/// What a container asks for of cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Where.
    pub path: Option<CgroupPath>,
    /// How much.
    pub cpu: CpuShare,
}

impl CgroupPath {
    /// Reads one of the forms; `None` for an empty one. What is wrong with it otherwise.
    fn parse(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let parts: Vec<&str> = text.split(':').collect();
        if let ([slice, prefix, name], false) = (parts.as_slice(), text.starts_with('/')) {
            if name.is_empty() || [prefix, name].iter().any(|part| part.contains('/')) {
                return Err("is no slice:prefix:name of systemd".to_owned());
            }
            return Ok(Some(Self::Systemd {
                slice: expand(slice)?,
                prefix: (*prefix).to_owned(),
                name: (*name).to_owned(),
            }));
        }
        let mut path = PathBuf::new();
        for component in Path::new(text).components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err("leads upwards; write the path without `..`".to_owned());
                }
            }
        }
        if path.as_os_str().is_empty() {
            return Err("is the root of the hierarchy, which has no limits; name one below".into());
        }
        Ok(Some(Self::Plain(path)))
    }

    /// The same place, for another name: a sibling.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        match self {
            Self::Plain(path) => Self::Plain(path.with_file_name(name)),
            Self::Systemd { slice, prefix, .. } => Self::Systemd {
                slice: slice.clone(),
                prefix: prefix.clone(),
                name: name.to_owned(),
            },
        }
    }

    /// The folder, from the root of the hierarchy.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        match self {
            Self::Plain(path) => path.clone(),
            Self::Systemd {
                slice,
                prefix,
                name,
            } => {
                // As runc's `getUnitName`.
                if name.ends_with(".slice") {
                    slice.join(name)
                } else {
                    slice.join(format!("{prefix}-{name}.scope"))
                }
            }
        }
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.folder().display())
    }
}

/// The folders of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Result<PathBuf, String> {
    let stem = match slice {
        // As runc's default.
        "" => "system",
        "-.slice" => return Ok(PathBuf::new()),
        _ => slice
            .strip_suffix(".slice")
            .ok_or_else(|| format!("has the slice `{slice}`, which does not end with .slice"))?,
    };
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return Err(format!("has the slice `{slice}`, which is no name of one"));
    }
    let ends = stem.match_indices('-').map(|(at, _)| at);
    Ok(ends
        .chain([stem.len()])
        .map(|end| format!("{}.slice", &stem[..end]))
        .collect())
}

impl Cgroup {
    /// Reads what a spec says. `config` is the file an error names.
    pub(crate) fn new(linux: Option<&Linux>, config: &Path) -> Result<Self, Error> {
        let text = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let text = text.map(Path::to_string_lossy).unwrap_or_default();
        let path = CgroupPath::parse(&text).map_err(|reason| Error::InvalidCgroup {
            config: config.to_owned(),
            path: text.into_owned(),
            reason,
        })?;
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let cpu = resources.and_then(|resources| resources.cpu().as_ref());
        let cpu = CpuShare::default().with(cpu);
        Ok(Self { path, cpu })
    }
}

impl CpuShare {
    /// This share after an `Update` request, whose resources are `json`: a `LinuxResources` of the OCI
    /// runtime spec. As for runc what is absent or 0 stays as it is, and a quota of -1 is none.
    ///
    /// # Errors
    ///
    /// [`Error::ParseResources`].
    pub fn updated(self, json: &[u8]) -> Result<Self, Error> {
        let resources: LinuxResources =
            serde_json::from_slice(json).map_err(Error::ParseResources)?;
        Ok(self.with(resources.cpu().as_ref()))
    }

    fn with(self, cpu: Option<&LinuxCpu>) -> Self {
        let Some(cpu) = cpu else { return self };
        // 0 is Go's "not set".
        Self {
            shares: cpu.shares().filter(|&shares| shares > 0).or(self.shares),
            quota: match cpu.quota() {
                None | Some(0) => self.quota,
                Some(quota) => quota.try_into().ok(),
            },
            period: cpu.period().filter(|&period| period > 0).or(self.period),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(text: &str) -> String {
        let path = CgroupPath::parse(text).unwrap().unwrap();
        path.folder().display().to_string()
    }

    #[test]
    fn a_plain_path_is_one_from_the_root() {
        assert_eq!(folder("/default/web"), "default/web");
        assert_eq!(folder("default//./web/"), "default/web");
        assert_eq!(folder("/a:b:c"), "a:b:c");
        assert_eq!(CgroupPath::parse("").unwrap(), None);
    }

    #[test]
    fn a_systemd_path_is_expanded_as_systemd_does() {
        assert_eq!(
            folder("kubepods-burstable-pod7.slice:cri-containerd:abc"),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7.slice/cri-containerd-abc.scope"
        );
        assert_eq!(
            folder("system.slice:docker:abc"),
            "system.slice/docker-abc.scope"
        );
        assert_eq!(folder(":nerdctl:abc"), "system.slice/nerdctl-abc.scope");
        assert_eq!(folder("-.slice:x:abc"), "x-abc.scope");
        assert_eq!(folder("a.slice::a-b.slice"), "a.slice/a-b.slice");
    }

    #[test]
    fn a_sibling_has_the_same_parent() {
        let sibling = |text: &str| {
            let path = CgroupPath::parse(text).unwrap().unwrap();
            path.named("pod").to_string()
        };
        assert_eq!(sibling("/kubepods/pod7/web"), "/kubepods/pod7/pod");
        assert_eq!(sibling("/web"), "/pod");
        assert_eq!(sibling("a.slice:cri:web"), "/a.slice/cri-pod.scope");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [
            "/",
            "/../x",
            "a/../../b",
            "kubepods:cri:x",
            "a--b.slice:cri:x",
            "a.slice:cri:",
            "a.slice:c/d:x",
            "a/b.slice:cri:x",
        ] {
            CgroupPath::parse(text).expect_err(text);
        }
    }

    #[test]
    fn the_share_of_the_processors_is_read() {
        let cgroup = |json: &str| {
            let linux: Linux = serde_json::from_str(json).unwrap();
            Cgroup::new(Some(&linux), Path::new("/b/config.json")).unwrap()
        };
        let told =
            cgroup(r#"{"resources": {"cpu": {"shares": 512, "quota": 50000, "period": 100000}}}"#);
        let wanted = CpuShare {
            shares: Some(512),
            quota: Some(50_000),
            period: Some(100_000),
        };
        assert_eq!(told.cpu, wanted);
        let none = cgroup(r#"{"resources": {"cpu": {"shares": 0, "quota": -1, "period": 0}}}"#);
        assert_eq!(none.cpu, CpuShare::default());
        let updated = |json: &str| wanted.updated(json.as_bytes()).unwrap();
        assert_eq!(updated(r#"{"cpu": {"quota": 0}}"#), wanted);
        assert_eq!(updated(r#"{"memory": {}}"#), wanted);
        let more = CpuShare {
            shares: Some(2),
            quota: None,
            ..wanted
        };
        assert_eq!(updated(r#"{"cpu": {"shares": 2, "quota": -1}}"#), more);
    }

    #[test]
    fn an_error_names_the_path() {
        let linux: Linux = serde_json::from_str(r#"{"cgroupsPath": "/../x"}"#).unwrap();
        let error = Cgroup::new(Some(&linux), Path::new("/b/config.json")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the cgroup `/../x` in /b/config.json leads upwards; write the path without `..`"
        );
    }
}
