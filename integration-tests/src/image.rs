//! OCI images, built in memory: the same input gives the same bytes.
//!
//! An image is an OCI layout in a tar: one manifest, one config, one uncompressed layer. Its name is an
//! annotation of the index, where `ctr image import` looks for it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An image in the making.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    os: String,
    architecture: String,
    /// By path, so that folders come before what is in them.
    entries: BTreeMap<String, Entry>,
    config: BTreeMap<&'static str, Value>,
}

#[derive(Clone, Debug)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Folder,
    File(Vec<u8>),
    Link(String),
}

impl Image {
    /// An empty image for `wasi/wasm`. `name` is completed to a full reference, as Docker does.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let name = if name.contains('/') {
            name.to_owned()
        } else {
            format!("example.test/{name}")
        };
        Self {
            name,
            os: "wasi".into(),
            architecture: "wasm".into(),
            entries: BTreeMap::new(),
            config: BTreeMap::new(),
        }
    }

    /// The same image under another name.
    #[must_use]
    pub fn renamed(mut self, name: &str) -> Self {
        self.name = Self::new(name).name;
        self
    }

    /// The full reference: what `ctr` calls the image.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The platform as `ctr` takes it: `os/architecture`.
    #[must_use]
    pub fn os_and_architecture(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }

    /// What it runs on: `wasi`/`wasm`, `wasip1`/`wasm`, `linux`/`amd64`.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.os = os.into();
        self.architecture = architecture.into();
        self
    }

    /// A file, 0644.
    #[must_use]
    pub fn file(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.file_with_mode(path, bytes, 0o644)
    }

    /// A file, 0755.
    #[must_use]
    pub fn executable(self, path: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.file_with_mode(path, bytes, 0o755)
    }

    /// A file with these permissions.
    #[must_use]
    pub fn file_with_mode(self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) -> Self {
        self.entry(path, mode, Content::File(bytes.as_ref().to_vec()))
    }

    /// A folder. Those that files are in need not be named; they are 0755.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, Content::Folder)
    }

    /// A symbolic link at `path`, pointing at `to`.
    #[must_use]
    pub fn link(self, path: &str, to: &str) -> Self {
        self.entry(path, 0o777, Content::Link(to.into()))
    }

    /// Gives an entry that was added before to a user and group; everything else is root's.
    #[must_use]
    pub fn owned_by(mut self, path: &str, uid: u32, gid: u32) -> Self {
        if let Some(entry) = self.entries.get_mut(path.trim_matches('/')) {
            entry.owner = (uid, gid);
        }
        self
    }

    /// What is run.
    #[must_use]
    pub fn entrypoint<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.list("Entrypoint", words)
    }

    /// Its default arguments.
    #[must_use]
    pub fn cmd<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.list("Cmd", words)
    }

    /// Environment, as `NAME=value`.
    #[must_use]
    pub fn env<'a>(self, variables: impl IntoIterator<Item = &'a str>) -> Self {
        self.list("Env", variables)
    }

    /// The working directory.
    #[must_use]
    pub fn workdir(mut self, path: &str) -> Self {
        self.config.insert("WorkingDir", path.into());
        self
    }

    /// The user, as `uid` or `uid:gid`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.config.insert("User", user.into());
        self
    }

    /// What Docker executes every second, to see whether it is well (a field of Docker's images, not of OCI's).
    #[must_use]
    pub fn healthcheck<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        let test: Vec<&str> = std::iter::once("CMD").chain(words).collect();
        let healthcheck = json!({ "Test": test, "Interval": 1_000_000_000_u64 });
        self.config.insert("Healthcheck", healthcheck);
        self
    }

    fn list<'a>(mut self, key: &'static str, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.config.insert(key, words.into_iter().collect());
        self
    }

    fn entry(mut self, path: &str, mode: u32, content: Content) -> Self {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries
                .entry(path[..end].to_owned())
                .or_insert_with(|| Entry {
                    mode: 0o755,
                    owner: (0, 0),
                    content: Content::Folder,
                });
        }
        self.entries.insert(
            path.to_owned(),
            Entry {
                mode,
                owner: (0, 0),
                content,
            },
        );
        self
    }

    /// The image as a tar that `ctr image import` takes.
    ///
    /// # Errors
    ///
    /// When a path does not fit into a tar.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let layer = self
            .layer()
            .with_context(|| format!("the layer of {}", self.name))?;
        let config = serde_json::to_vec(&json!({
            "os": self.os,
            "architecture": self.architecture,
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        entry["platform"] = json!({ "os": self.os, "architecture": self.architecture });
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        }))?;

        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", &index)?;
        for blob in [&manifest, &config, &layer] {
            append(&mut tar, &format!("blobs/sha256/{}", hex(blob)), blob)?;
        }
        tar.into_inner().context("finish the image")
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = header(entry.mode);
            header.set_uid(entry.owner.0.into());
            header.set_gid(entry.owner.1.into());
            match &entry.content {
                Content::Folder => {
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), [].as_slice())
                }
                Content::File(bytes) => {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())
                }
                Content::Link(to) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, path, to)
                }
            }
            .with_context(|| format!("add /{path}"))?;
        }
        tar.into_inner().context("finish the layer")
    }
}

fn header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

pub(crate) fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(0o644);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
        .with_context(|| format!("add {path}"))
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn example() -> Image {
        Image::new("example:1")
            .file("/srv/app/main.wasm", b"\0asm")
            .link("/app", "srv/app")
            .entrypoint(["/app/main.wasm"])
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(example().tar().unwrap(), example().tar().unwrap());
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let layer = example().layer().unwrap();
        let mut tar = tar::Archive::new(layer.as_slice());
        let paths: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["app", "srv/", "srv/app/", "srv/app/main.wasm"]);
    }

    #[test]
    fn the_index_carries_the_name() {
        let bytes = example().tar().unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let mut index = tar.entries().unwrap().nth(1).unwrap().unwrap();
        let mut text = String::new();
        index.read_to_string(&mut text).unwrap();
        assert!(text.contains("example.test/example:1"), "{text}");
    }
}
