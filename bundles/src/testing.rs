//! Bundles on disk, for tests.
//!
//! A [`BundleBuilder`] starts as the smallest bundle that makes a [`Plan`](crate::Plan) and runs
//! `/app.wasm`, an empty core module. Whatever a test needs is said on top of it; what it does not say
//! is not in `config.json`. Fixtures panic: a test that cannot write its bundle has nothing to prove.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The smallest core module.
pub const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// The smallest component.
pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Describes a bundle; [`build`](Self::build) writes it.
#[derive(Debug, Clone)]
#[must_use]
pub struct BundleBuilder {
    config: Value,
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// A bundle in a temporary directory, removed when dropped.
#[derive(Debug)]
pub struct TestBundle {
    dir: TempDir,
}

impl TestBundle {
    /// The bundle's directory, absolute.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The root file system in it.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }
}

impl Default for BundleBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BundleBuilder {
    /// A bundle that runs `/app.wasm` as root, in `/`, with every namespace the host's.
    pub fn new() -> Self {
        let config = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs" },
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/app.wasm"], "env": [] },
            "mounts": [],
            "annotations": {},
            "linux": { "namespaces": [] },
        });
        Self {
            config,
            files: vec![(PathBuf::from("app.wasm"), MODULE.to_owned())],
        }
    }

    /// Replaces the arguments, the program included.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.config["process"]["args"] = json!(args);
        self
    }

    /// Adds an environment variable.
    pub fn env(self, name: &str, value: &str) -> Self {
        self.push("/process/env", json!(format!("{name}={value}")))
    }

    /// Sets the working directory.
    pub fn cwd(mut self, cwd: &str) -> Self {
        self.config["process"]["cwd"] = json!(cwd);
        self
    }

    /// Sets user and group.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.config["process"]["user"] = json!({ "uid": uid, "gid": gid });
        self
    }

    /// Asks for a terminal.
    pub fn terminal(mut self) -> Self {
        self.config["process"]["terminal"] = json!(true);
        self
    }

    /// Makes the root file system read-only.
    pub fn readonly(mut self) -> Self {
        self.config["root"]["readonly"] = json!(true);
        self
    }

    /// Sets the host name; takes effect with a `uts` namespace only.
    pub fn hostname(mut self, name: &str) -> Self {
        self.config["hostname"] = json!(name);
        self
    }

    /// Limits the memory, in bytes.
    pub fn memory(mut self, bytes: i64) -> Self {
        self.config["linux"]["resources"] = json!({ "memory": { "limit": bytes } });
        self
    }

    /// Adds a mount. A relative source of a bind is relative to the bundle.
    pub fn mount(self, destination: &str, fstype: &str, source: &str, options: &[&str]) -> Self {
        let mount = json!({
            "destination": destination,
            "type": fstype,
            "source": source,
            "options": options,
        });
        self.push("/mounts", mount)
    }

    /// Lists a namespace, by the OCI name of its type, to be made or, with a path, to be joined.
    pub fn namespace(self, kind: &str, path: Option<&str>) -> Self {
        let namespace = match path {
            None => json!({ "type": kind }),
            Some(path) => json!({ "type": kind, "path": path }),
        };
        self.push("/linux/namespaces", namespace)
    }

    /// Sets an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config["annotations"][key] = json!(value);
        self
    }

    /// Puts a file into the root file system, with the directories above it. A later one replaces an
    /// earlier one of the same path.
    ///
    /// # Panics
    ///
    /// If the path leaves the root.
    pub fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        assert!(
            !path.split('/').any(|name| name == ".."),
            "{path} leaves the root"
        );
        let path = PathBuf::from(path.trim_start_matches('/'));
        self.files.push((path, bytes.to_owned()));
        self
    }

    /// Sets any part of `config.json`, by JSON pointer, for what has no method of its own.
    ///
    /// # Panics
    ///
    /// If the parent of what the pointer names is no object of the config.
    pub fn config(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer starts with /");
        self.config
            .pointer_mut(parent)
            .and_then(Value::as_object_mut)
            .unwrap_or_else(|| panic!("config.json has no object at {parent:?}"))
            .insert(key.to_owned(), value);
        self
    }

    /// Writes the bundle.
    ///
    /// # Panics
    ///
    /// If the disk says no.
    pub fn build(self) -> TestBundle {
        let bundle = TestBundle {
            dir: tempfile::tempdir().expect("temporary directory"),
        };
        fs::create_dir(bundle.rootfs()).expect("rootfs");
        for (path, bytes) in &self.files {
            let path = bundle.rootfs().join(path);
            let parent = path.parent().expect("a file in the root has a parent");
            fs::create_dir_all(parent).expect("directories in rootfs");
            fs::write(&path, bytes).expect("file in rootfs");
        }
        let text = serde_json::to_vec_pretty(&self.config).expect("JSON values are serializable");
        fs::write(bundle.path().join("config.json"), text).expect("config.json");
        bundle
    }

    fn push(mut self, pointer: &str, value: Value) -> Self {
        self.config
            .pointer_mut(pointer)
            .and_then(Value::as_array_mut)
            .expect("`new` made the list, and only `config` can replace it")
            .push(value);
        self
    }
}
