//! Wasm layers: which blob of an image is the program of a container that has no file for it.
//!
//! An image that was pulled is a tree of JSON documents in containerd's content store: perhaps an index,
//! then a manifest, then layers. This module is the policy of walking it, one document at a time; who
//! reads the blobs, and from where, is the caller's business. The rules:
//!
//! - Of an index, attestations are passed over (OCI image-spec `image-index.md` knows them as manifests of
//!   platform `unknown/unknown`, BuildKit marks them with `vnd.docker.reference.type`). Then the
//!   manifests for wasm platforms count: the first of them, as the specification asks for, that was pulled,
//!   for containerd pulls that of one platform only. Without any, a manifest that is the only one and names
//!   no platform counts.
//! - Of a manifest, layers of the media types that tools have used for wasm count, whatever its config
//!   is: an ordinary image config, the CNCF artifact's, oras' empty one.
//! - One such layer is the program. Several are components that are composed into one, by what they import
//!   and export, in which this module has no part.
//!
//! What names a layer is `org.opencontainers.image.title`, and its digest where it has none.

use std::collections::HashMap;
use std::fmt;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

/// The layer media types that hold a raw wasm module or component.
pub const WASM_LAYERS: [&str; 3] = [
    // CNCF TAG Runtime, "Wasm OCI Artifact layout"; wkg, oras, runwasi.
    "application/wasm",
    // wasm-to-oci, Spin.
    "application/vnd.wasm.content.layer.v1+wasm",
    // runwasi's oci-tar-builder.
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// Layers of wasm that is loaded into a program and is none, and whose it is.
const PLUGINS: [(&str, &str); 1] = [(
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "a module for the scanner Trivy",
)];

/// The most wasm layers of one image, each of which is looked at beside all others.
const MAX_LAYERS: usize = 32;

const TITLE: &str = "org.opencontainers.image.title";
const ATTESTATION: &str = "vnd.docker.reference.type";
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// A blob of an image, by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    media_type: String,
    sha256: [u8; 32],
    size: u64,
    title: Option<String>,
}

/// What a document of an image says about the container's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The first of these documents that there is says more; one is named at least.
    Read(Vec<Blob>),
    /// This layer is the program; several are it together, in the manifest's order.
    Program(Vec<Blob>),
    /// The image has no wasm layer; what it has is in its files.
    Nothing,
}

/// Why an image cannot be run, though it has wasm or claims to.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// A descriptor names a blob in a way this shim cannot check.
    #[error(
        "a blob of it is named {digest:?}; only sha256 digests can be checked, build it again with those"
    )]
    Digest {
        /// What it says.
        digest: String,
    },
    /// A document is none.
    #[error("{blob} is no {what}")]
    Parse {
        /// Which.
        blob: Box<Blob>,
        /// What it should be.
        what: &'static str,
        /// Where and why.
        #[source]
        source: oci_spec::OciSpecError,
    },
    /// More layers than are composed.
    #[error(
        "it has {count} wasm layers, and {MAX_LAYERS} is the most; compose them into one component \
         (`wac plug`) and put that into the image"
    )]
    Several {
        /// How many.
        count: usize,
    },
    /// It is loaded by another program.
    #[error("its wasm layer {layer} is {what}, which another program loads, and no program itself")]
    Plugin {
        /// The layer.
        layer: Box<Blob>,
        /// What it is.
        what: &'static str,
    },
}

impl Blob {
    /// A blob as a descriptor names it; `digest` is `sha256:` and 64 hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`LayersError::Digest`].
    pub fn new(media_type: &str, digest: &str, size: u64) -> Result<Self, LayersError> {
        let sha256 = digest.strip_prefix("sha256:").and_then(bytes);
        Ok(Self {
            media_type: media_type.to_owned(),
            sha256: sha256.ok_or_else(|| LayersError::Digest {
                digest: digest.to_owned(),
            })?,
            size,
            title: None,
        })
    }

    fn of(descriptor: &Descriptor) -> Result<Self, LayersError> {
        let (media_type, digest) = (descriptor.media_type(), descriptor.digest());
        let blob = Self::new(media_type.as_ref(), digest.as_ref(), descriptor.size())?;
        Ok(Self {
            title: annotation(descriptor, TITLE).cloned(),
            ..blob
        })
    }

    /// What its content hashes to.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// As descriptors have it: `sha256:…`.
    pub fn digest(&self) -> String {
        let digits = self.sha256.iter().map(|byte| format!("{byte:02x}"));
        digits.fold("sha256:".to_owned(), |all, digits| all + &digits)
    }

    /// Its length in bytes, as its descriptor says.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file name it has in its image, if one was given.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// What a blob of this type with this content says; `json` has been checked to be what the digest
    /// names. Of a blob that is no index and no manifest: nothing, and it need not be read.
    ///
    /// # Errors
    ///
    /// Any [`LayersError`].
    pub fn look(&self, json: &[u8]) -> Result<Step, LayersError> {
        let parse = |what| {
            move |source| LayersError::Parse {
                blob: Box::new(self.clone()),
                what,
                source,
            }
        };
        if INDEXES.contains(&self.media_type.as_str()) {
            let index = ImageIndex::from_reader(json).map_err(parse("image index"))?;
            let found = manifests(index.manifests());
            if found.is_empty() {
                return Ok(Step::Nothing);
            }
            let blobs = found.into_iter().map(Self::of);
            return Ok(Step::Read(blobs.collect::<Result<_, _>>()?));
        }
        if self.is_document() {
            let manifest = ImageManifest::from_reader(json).map_err(parse("image manifest"))?;
            return program(manifest.layers());
        }
        Ok(Step::Nothing)
    }

    /// Whether [`Blob::look`] has something to say about its content.
    pub fn is_document(&self) -> bool {
        let media_type = self.media_type.as_str();
        INDEXES.contains(&media_type) || MANIFESTS.contains(&media_type)
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.title {
            Some(title) => write!(f, "{title} ({})", self.digest()),
            None => f.write_str(&self.digest()),
        }
    }
}

fn bytes(hexadecimal: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = hexadecimal.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes?.try_into().ok()
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a String> {
    let annotations: Option<&HashMap<_, _>> = descriptor.annotations().as_ref();
    annotations.and_then(|annotations| annotations.get(key))
}

/// The manifests of an index that are for wasm.
fn manifests(manifests: &[Descriptor]) -> Vec<&Descriptor> {
    let images = manifests.iter();
    let images: Vec<_> = images
        .filter(|entry| annotation(entry, ATTESTATION).is_none())
        .collect();
    match images[..] {
        [only] if only.platform().is_none() => images,
        _ => {
            let wasm = images.into_iter().filter(|entry| is_for_wasm(entry));
            wasm.collect()
        }
    }
}

/// `wasm32` is what the first tools wrote before `GOARCH`'s `wasm` became the rule.
fn is_for_wasm(descriptor: &Descriptor) -> bool {
    descriptor.platform().as_ref().is_some_and(|platform| {
        let (os, architecture) = (
            platform.os().to_string(),
            platform.architecture().to_string(),
        );
        ["wasi", "wasip1", "wasip2"].contains(&os.as_str())
            && ["wasm", "wasm32"].contains(&architecture.as_str())
    })
}

fn program(layers: &[Descriptor]) -> Result<Step, LayersError> {
    let of_types = |types: &[&str]| {
        let named = |layer: &&Descriptor| types.contains(&layer.media_type().as_ref());
        let blobs = layers.iter().filter(named).map(Blob::of);
        blobs.collect::<Result<Vec<_>, _>>()
    };
    let wasm = of_types(&WASM_LAYERS)?;
    match wasm.len() {
        0 => {}
        1..=MAX_LAYERS => return Ok(Step::Program(wasm)),
        count => return Err(LayersError::Several { count }),
    }
    for (media_type, what) in PLUGINS {
        if let Some(layer) = of_types(&[media_type])?.pop() {
            let layer = Box::new(layer);
            return Err(LayersError::Plugin { layer, what });
        }
    }
    Ok(Step::Nothing)
}

#[cfg(test)]
mod tests;
