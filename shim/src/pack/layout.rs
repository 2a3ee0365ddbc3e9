//! The image: an OCI layout (image-spec `image-layout.md`) whose bytes depend on its input only.
//!
//! ```text
//! oci-layout  index.json  manifest.json (Docker's)  blobs/sha256/{config, manifest, layer}
//! ```
//!
//! The wasm is read twice and never held: once for its digest, once to be copied behind it. A file that
//! has changed in between is noticed.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wasi_bundles::{Error as Fault, Kind};
use wasi_runtime::Cache;

use super::request::{Packing, Shape};
use super::world;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// CNCF TAG Runtime, "Wasm OCI Artifact layout".
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const WASM: &str = "application/wasm";
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// A tar is made of these.
const BLOCK: u64 = 512;
/// How much is copied at once.
const PIECE: usize = 256 << 10;

/// An image that is ready to be written.
#[derive(Debug)]
pub(super) struct Layout {
    name: String,
    /// Small files, in order, by path.
    files: Vec<(String, Vec<u8>)>,
    layer: Layer,
    manifest: String,
}

/// The wasm, with what is around it in its blob.
#[derive(Debug)]
struct Layer {
    wasm: File,
    path: String,
    size: u64,
    before: Vec<u8>,
    after: Vec<u8>,
    sha256: String,
}

impl Layout {
    /// Looks at the file and plans the image. `size` is told the file's size, and `progress` how many bytes
    /// of it were read since.
    pub(super) fn of(
        packing: &Packing,
        size: &dyn Fn(u64),
        progress: &dyn Fn(u64),
    ) -> Result<Self, String> {
        let (mut layer, kind) = Layer::open(packing)?;
        size(layer.size);
        layer.sha256 = layer.copy(&mut io::sink(), progress)?;
        let (config_type, config) = match packing.shape {
            Shape::File | Shape::Layer => (CONFIG, image_config(packing, &layer.sha256)),
            Shape::Artifact => (WASM_CONFIG, artifact_config(packing, kind, &layer)?),
        };
        let config = bytes(&config);
        let layer_type = match packing.shape {
            Shape::File => TAR,
            Shape::Layer | Shape::Artifact => WASM,
        };
        let mut descriptor = described(layer_type, &layer.sha256, layer.length());
        if packing.shape != Shape::File {
            let title = packing.wasm.file_name().map(|name| name.to_string_lossy());
            descriptor["annotations"] = json!({ "org.opencontainers.image.title": title });
        }
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(config_type, &hex(&config), config.len() as u64),
            "layers": [descriptor],
        }));
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), bytes(&index(packing, &manifest))),
        ];
        if packing.shape == Shape::File {
            let docker = json!([{
                "Config": blob(&hex(&config)),
                "RepoTags": [packing.name],
                "Layers": [blob(&layer.sha256)],
            }]);
            files.push(("manifest.json".to_owned(), bytes(&docker)));
        }
        let digest = hex(&manifest);
        files.push((blob(&hex(&config)), config));
        files.push((blob(&digest), manifest));
        Ok(Self {
            name: packing.name.clone(),
            files,
            layer,
            manifest: digest,
        })
    }

    /// The image's name and digest.
    pub(super) fn summary(&self) -> String {
        format!("{}@sha256:{}", self.name, self.manifest)
    }

    /// Writes the tar.
    pub(super) fn write(&self, to: &mut dyn Write, progress: &dyn Fn(u64)) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot write the image: {error}");
        for (path, content) in &self.files {
            let size = content.len() as u64;
            to.write_all(&header(path, size).map_err(failed)?)
                .map_err(failed)?;
            to.write_all(content).map_err(failed)?;
            to.write_all(&padding(size)).map_err(failed)?;
        }
        let (path, size) = (blob(&self.layer.sha256), self.layer.length());
        to.write_all(&header(&path, size).map_err(failed)?)
            .map_err(failed)?;
        if self.layer.copy(to, progress)? != self.layer.sha256 {
            return Err(self.layer.changed());
        }
        to.write_all(&padding(size)).map_err(failed)?;
        to.write_all(&end())
            .and_then(|()| to.flush())
            .map_err(failed)
    }
}

impl Layer {
    /// Opens the file and finds out what it is. Its digest is not known yet.
    fn open(packing: &Packing) -> Result<(Self, Kind), String> {
        let path = packing.wasm.display().to_string();
        let failed = |error: io::Error| format!("cannot read {path}: {error}");
        // Opening a fifo would wait for its writer.
        let metadata = packing.wasm.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(format!("{path} is no regular file; name a .wasm file"));
        }
        let size = metadata.len();
        if size > Cache::LARGEST {
            let limit = Cache::LARGEST >> 20;
            return Err(format!(
                "{path} is larger than {limit} MiB, and the shim runs nothing larger"
            ));
        }
        let wasm = File::open(&packing.wasm).map_err(failed)?;
        let mut preamble = Vec::new();
        (&wasm)
            .take(Kind::PREAMBLE as u64)
            .read_to_end(&mut preamble)
            .map_err(failed)?;
        let kind = Kind::of(&preamble).map_err(|what| {
            let path = path.clone();
            Fault::NotWasm { path, what }.to_string()
        })?;
        let (before, after) = match packing.shape {
            Shape::File => {
                let name = packing
                    .wasm
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                let after = [padding(size), end()].concat();
                (header(&name, size).map_err(failed)?, after)
            }
            Shape::Layer | Shape::Artifact => (Vec::new(), Vec::new()),
        };
        let sha256 = String::new();
        let layer = Self {
            wasm,
            path,
            size,
            before,
            after,
            sha256,
        };
        Ok((layer, kind))
    }

    /// Of the blob.
    fn length(&self) -> u64 {
        self.size + (self.before.len() + self.after.len()) as u64
    }

    /// Copies the blob; what it hashes to.
    fn copy(&self, to: &mut dyn Write, progress: &dyn Fn(u64)) -> Result<String, String> {
        let unread = |error: io::Error| format!("cannot read {}: {error}", self.path);
        let unwritten = |error: io::Error| format!("cannot write the image: {error}");
        let mut wasm = &self.wasm;
        wasm.rewind().map_err(unread)?;
        let mut hash = Sha256::new();
        let mut put = |data: &[u8]| {
            hash.update(data);
            to.write_all(data).map_err(unwritten)
        };
        put(&self.before)?;
        let (mut piece, mut left) = (vec![0; PIECE], self.size);
        loop {
            // One byte beyond its size shows that it has grown.
            let count = match wasm.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unread(error)),
            };
            left = left
                .checked_sub(count as u64)
                .ok_or_else(|| self.changed())?;
            put(&piece[..count])?;
            progress(count as u64);
        }
        if left > 0 {
            return Err(self.changed());
        }
        put(&self.after)?;
        Ok(format!("{:x}", hash.finalize()))
    }

    fn changed(&self) -> String {
        format!("{} has changed while it was packed; try again", self.path)
    }
}

fn image_config(packing: &Packing, layer: &str) -> Value {
    let diff_ids = match packing.shape {
        Shape::File => vec![format!("sha256:{layer}")],
        // It is no layer of files (image-spec `config.md`, "rootfs").
        Shape::Layer | Shape::Artifact => Vec::new(),
    };
    let mut config = json!({ "Entrypoint": packing.entrypoint });
    for (key, words) in [("Cmd", &packing.cmd), ("Env", &packing.env)] {
        if !words.is_empty() {
            config[key] = json!(words);
        }
    }
    if let Some(workdir) = &packing.workdir {
        config["WorkingDir"] = json!(workdir);
    }
    if packing.shape == Shape::Layer {
        // CRI calls an image by its config: two that only differ in their wasm must not have the same.
        config["Labels"] = json!({ "containerd.runwasi.layers": layer });
    }
    json!({
        "architecture": packing.architecture,
        "os": packing.os,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

fn artifact_config(packing: &Packing, kind: Kind, layer: &Layer) -> Result<Value, String> {
    // The layout knows `wasip1` for modules and `wasip2` for components.
    let (os, component) = match kind {
        Kind::Module => ("wasip1", Value::Null),
        Kind::Component => {
            let unread = |error: String| format!("cannot read {}: {error}", layer.path);
            let bytes = std::fs::read(&packing.wasm).map_err(|error| unread(error.to_string()))?;
            let (imports, exports) = world::of(&bytes).map_err(unread)?;
            let component = json!({ "imports": imports, "exports": exports, "target": null });
            ("wasip2", component)
        }
    };
    let digest = format!("sha256:{}", layer.sha256);
    Ok(json!({
        "created": EPOCH,
        "author": null,
        "architecture": "wasm",
        "os": os,
        "layerDigests": [digest],
        "component": component,
    }))
}

/// The platform is not repeated here: `ctr image import` passes over entries of other platforms than its
/// host's, and takes one that names none. What the image is for, its config says.
fn index(packing: &Packing, manifest: &[u8]) -> Value {
    let mut entry = described(MANIFEST, &hex(manifest), manifest.len() as u64);
    let last = packing.name.rsplit('/').next().unwrap_or_default();
    let tag = last.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    entry["annotations"] = json!({
        "io.containerd.image.name": packing.name,
        "org.opencontainers.image.ref.name": tag,
    });
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    })
}

fn described(media_type: &str, sha256: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{sha256}"), "size": size })
}

/// Keys come in the order of the alphabet, whoever made the value.
fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn blob(sha256: &str) -> String {
    format!("blobs/sha256/{sha256}")
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The header of a file that is root's and as old as time, with what a long name takes before it.
fn header(path: &str, size: u64) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    let mut tar = tar::Builder::new(Vec::new());
    // The content follows, streamed, from elsewhere: only the header is wanted.
    tar.append_data(&mut header, path, io::empty())?;
    Ok(std::mem::take(tar.get_mut()))
}

fn padding(size: u64) -> Vec<u8> {
    let rest = (BLOCK - size % BLOCK) % BLOCK;
    vec![0; usize::try_from(rest).unwrap_or_default()]
}

/// Two empty blocks end a tar.
fn end() -> Vec<u8> {
    vec![0; 1024]
}
