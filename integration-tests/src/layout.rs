//! Images of every shape that wasm comes in: layers of any type under any config, indexes of any platforms.
//!
//! What [`Image`](crate::image::Image) makes is an ordinary image, with files in a tar. This makes the others, blob by blob, so that a
//! test can also say which of them containerd is to lose.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::image::{append, descriptor, digest, hex};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One manifest: a config, layers, and the platform that an index lists it for.
#[derive(Clone, Debug)]
pub struct Manifest {
    config: (String, Value),
    layers: Vec<(String, Vec<u8>)>,
    platform: Option<(String, String)>,
    annotations: Vec<(String, String)>,
}

/// An OCI layout of one image, which is a manifest or an index of some.
#[derive(Clone, Debug)]
pub struct Layout {
    name: String,
    manifests: Vec<Manifest>,
    index: bool,
}

impl Manifest {
    /// An image of `platform` with an OCI image config that says what to run and lists no files.
    #[must_use]
    pub fn image((os, architecture): (&str, &str), entrypoint: &[&str]) -> Self {
        Self {
            config: (
                "application/vnd.oci.image.config.v1+json".into(),
                json!({
                    "os": os,
                    "architecture": architecture,
                    "config": { "Entrypoint": entrypoint },
                    "rootfs": { "type": "layers", "diff_ids": [] },
                }),
            ),
            layers: Vec::new(),
            platform: Some((os.into(), architecture.into())),
            annotations: Vec::new(),
        }
    }

    /// An artifact of the CNCF's layout for wasm, of which nothing says how to run it.
    #[must_use]
    pub fn artifact() -> Self {
        Self {
            config: (
                "application/vnd.wasm.config.v0+json".into(),
                json!({ "architecture": "wasm", "os": "wasip1", "layerDigests": [] }),
            ),
            layers: Vec::new(),
            platform: None,
            annotations: Vec::new(),
        }
    }

    /// One more layer.
    #[must_use]
    pub fn layer(mut self, media_type: &str, bytes: &[u8]) -> Self {
        self.layers.push((media_type.into(), bytes.to_vec()));
        self
    }

    /// An annotation of its entry in an index.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// Its descriptor, as an index has it, and its blobs.
    fn blobs(&self) -> Result<(Value, Vec<Vec<u8>>)> {
        let (config_type, config) = &self.config;
        let config = serde_json::to_vec(config)?;
        let layers = self.layers.iter();
        let layers: Value = layers
            .clone()
            .map(|(media_type, bytes)| descriptor(media_type, bytes))
            .collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(config_type, &config),
            "layers": layers,
        }))?;
        let mut entry = descriptor(MANIFEST, &manifest);
        if let Some((os, architecture)) = &self.platform {
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        for (name, value) in &self.annotations {
            entry["annotations"][name] = value.as_str().into();
        }
        let mut blobs = vec![manifest, config];
        blobs.extend(self.layers.iter().map(|(_, bytes)| bytes.clone()));
        Ok((entry, blobs))
    }
}

impl Layout {
    /// An image that is this manifest. `name` is a full reference.
    #[must_use]
    pub fn of(name: &str, manifest: Manifest) -> Self {
        Self {
            name: name.into(),
            manifests: vec![manifest],
            index: false,
        }
    }

    /// An image that is an index of these manifests.
    #[must_use]
    pub fn index(name: &str, manifests: impl IntoIterator<Item = Manifest>) -> Self {
        Self {
            name: name.into(),
            manifests: manifests.into_iter().collect(),
            index: true,
        }
    }

    fn tar(&self) -> Result<Vec<u8>> {
        let mut blobs = Vec::new();
        let mut entries = Vec::new();
        for manifest in &self.manifests {
            let (entry, more) = manifest.blobs()?;
            entries.push(entry);
            blobs.extend(more);
        }
        if self.index {
            let index = serde_json::to_vec(&json!({
                "schemaVersion": 2, "mediaType": INDEX, "manifests": entries,
            }))?;
            entries = vec![descriptor(INDEX, &index)];
            blobs.push(index);
        }
        for entry in &mut entries {
            entry["annotations"]["io.containerd.image.name"] = self.name.as_str().into();
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
        blobs.sort();
        blobs.dedup();
        for blob in &blobs {
            append(&mut tar, &format!("blobs/sha256/{}", hex(blob)), blob)?;
        }
        tar.into_inner().context("finish the layout")
    }

    /// Imports it for every platform and unpacks nothing.
    ///
    /// # Errors
    ///
    /// When `ctr` refuses it.
    pub fn import(&self, containerd: &Containerd) -> Result<()> {
        let file = containerd
            .folder()
            .join("images")
            .join(self.name.replace(['/', ':'], "-"));
        std::fs::write(&file, self.tar()?).with_context(|| format!("write {}", file.display()))?;
        import(containerd, &file, &["--all-platforms", "--no-unpack"])
    }
}

/// `ctr image import` of a file.
///
/// # Errors
///
/// When `ctr` refuses it.
pub fn import(containerd: &Containerd, file: &Path, flags: &[&str]) -> Result<()> {
    // From 1.7 on the import is the daemon's (transfer service), which knows the host's platform only.
    let local = if containerd.version().at_least(1, 7) {
        &["--local"][..]
    } else {
        &[]
    };
    let ctr = containerd.ctr(["image", "import"]).args(flags).args(local);
    ctr.arg(file).success().map(drop)
}

/// Makes containerd lose a blob.
///
/// # Errors
///
/// When it has none such.
pub fn lose(containerd: &Containerd, bytes: &[u8]) -> Result<()> {
    let ctr = containerd.ctr(["content", "rm", &digest(bytes)]);
    ctr.success().map(drop)
}
