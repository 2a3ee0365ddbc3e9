//! Cgroups of the host, of either version, as the tests look at them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::fake::FakeContainerd;
use crate::poll;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of one test, for its shims to live below. It is not there, unless the test makes it.
#[derive(Debug)]
pub struct Below(String);

impl Below {
    /// That of a fake, whose name nobody else has.
    ///
    /// # Errors
    ///
    /// When the fake has no folder.
    pub fn of(fake: &FakeContainerd) -> Result<Self> {
        let unique = fake
            .folder()
            .file_name()
            .context("the fake's folder has no name")?;
        Ok(Self(format!("/wasi-test-{}", unique.display())))
    }

    /// One by its path from the root.
    #[must_use]
    pub fn at(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// Its path from the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0
    }

    /// Makes it in every hierarchy, for processes to be put there.
    ///
    /// # Errors
    ///
    /// When it is there.
    pub fn make(&self) -> Result<()> {
        for mount in mounts() {
            let folder = mount.join(&self.0[1..]);
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        Ok(())
    }

    /// What there is of it.
    #[must_use]
    pub fn found(&self) -> Vec<PathBuf> {
        let folders = mounts().into_iter().map(|mount| mount.join(&self.0[1..]));
        folders.filter(|folder| folder.exists()).collect()
    }

    /// Waits until nothing is.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub fn is_gone(&self) -> Result<()> {
        poll::until("the cgroup is gone", Duration::from_secs(5), || {
            let found = self.found();
            if found.is_empty() {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        for folder in self.found() {
            fs::remove_dir(folder).ok();
        }
    }
}

/// Whether this host has version 2 and nothing else.
#[must_use]
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The hierarchies that have controllers, and systemd's.
#[must_use]
pub fn mounts() -> Vec<PathBuf> {
    if is_v2() {
        return vec![ROOT.into()];
    }
    let all = fs::read_dir(ROOT).into_iter().flatten().flatten();
    all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|mount| mount.join("cgroup.procs").exists() && !mount.ends_with("unified"))
        .collect()
}

/// The hierarchy with this controller.
#[must_use]
pub fn mount(controller: &str) -> PathBuf {
    if is_v2() {
        ROOT.into()
    } else {
        Path::new(ROOT).join(controller)
    }
}

/// The cgroup of a thread, by the table of its `/proc` folder.
///
/// # Errors
///
/// When it is not there, or has no such controller.
pub fn cgroup(of: &str, controller: &str) -> Result<String> {
    let table = fs::read_to_string(of).with_context(|| of.to_owned())?;
    let found = table.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let fits = if is_v2() {
            controllers.is_empty()
        } else {
            controllers == controller
        };
        fits.then(|| path.to_owned())
    });
    found.with_context(|| table.clone())
}
