//! A containerd release that is installed for the tests.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// One installed containerd: `target/containerd/<major>.<minor>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    release: (u32, u32),
    bin: PathBuf,
    runc: PathBuf,
}

impl Version {
    /// Every installed version, oldest first.
    ///
    /// # Errors
    ///
    /// When none is installed, or one without its tools. A missing prerequisite is a failure, not a skip.
    pub fn found() -> Result<Vec<Self>> {
        Self::found_in(&crate::target().join("containerd")).context(
            "no containerd to test with; `make setup` installs them (see integration-tests/setup)",
        )
    }

    /// The newest installed version.
    ///
    /// # Errors
    ///
    /// As [`Version::found`].
    pub fn newest() -> Result<Self> {
        Self::found()?
            .pop()
            .context("`found` never returns an empty list")
    }

    fn found_in(folder: &Path) -> Result<Vec<Self>> {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("open {}", folder.display()))?;
        let runc = find_file(&folder.join("runc"), "runc", 4)
            .with_context(|| format!("no runc below {}", folder.join("runc").display()))?;
        let mut found = Vec::new();
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?
        {
            let entry = entry?;
            let Some(release) = parse(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            let bin = entry.path().join("usr/bin");
            for tool in ["containerd", "ctr", "containerd-shim-runc-v2"] {
                if !bin.join(tool).is_file() {
                    bail!("{} is missing", bin.join(tool).display());
                }
            }
            found.push(Self {
                release,
                bin,
                runc: runc.clone(),
            });
        }
        if found.is_empty() {
            bail!("no version in {}", folder.display());
        }
        found.sort();
        Ok(found)
    }

    /// Whether this is `major.minor` or newer.
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.release >= (major, minor)
    }

    /// A binary of this release.
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The folders its containerd looks for binaries in: ours first, then its own, runc's, the system's.
    #[must_use]
    pub fn path(&self) -> std::ffi::OsString {
        let ours = crate::binaries();
        let mut folders = vec![ours.canonicalize().unwrap_or(ours), self.bin.clone()];
        folders.extend(self.runc.parent().map(Path::to_path_buf));
        let system = std::env::var_os("PATH").unwrap_or_default();
        folders.extend(std::env::split_paths(&system));
        std::env::join_paths(folders).unwrap_or(system)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.release.0, self.release.1)
    }
}

fn parse(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn find_file(folder: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let file = folder.join(name);
    if file.is_file() {
        return Some(file);
    }
    if depth == 0 {
        return None;
    }
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries
        .iter()
        .filter(|path| path.is_dir())
        .find_map(|path| find_file(path, name, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert_eq!(parse("1.7"), Some((1, 7)));
        assert_eq!(parse("runc"), None);
        assert!(parse("2.10") > parse("2.9"));
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Version::found_in(folder.path()).is_err());
    }
}
