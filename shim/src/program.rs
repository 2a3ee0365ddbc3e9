//! The program of a process: the file that `args[0]` names, or, only where there is no such file, the wasm
//! layer of the container's image.
//!
//! An image with a wasm layer has no file for it, and often no files at all; what its `args[0]` says is
//! a name for the layer then, whatever it is, and what is behind `#` an export of it. An exec finds the layer
//! under the same name.

use std::os::fd::BorrowedFd;

use wasi_bundles::{Blob, Entrypoint, Error as Fault, Plan, Process};
use wasi_runtime::{Artifact, Guest, Prepared};

use crate::Error;
use crate::content::{ContentStore, Layer};
use crate::place::Place;
use crate::programs::Programs;

/// What to run, found.
#[derive(Debug)]
pub struct Program {
    /// The file's path in the container, or the layer's name.
    path: String,
    export: Option<String>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File(Entrypoint),
    Layer(Box<Layer>),
    /// The layer that the container runs already.
    Kept(Artifact),
}

/// The image of a container, in which its program may be.
#[derive(Debug, Clone)]
pub struct Image {
    /// The container's id, by which containerd knows its image.
    pub id: String,
    /// Where it is.
    pub store: ContentStore,
}

impl Program {
    /// Finds the program of a container's first process: the file that was `found`, or, where there is
    /// none, the layer.
    ///
    /// # Errors
    ///
    /// [`Error::Entrypoint`]; [`Error::Image`] when there is no such file, and the image should
    /// have had the program and does not.
    pub fn find(
        found: Result<Entrypoint, Fault>,
        process: &Process,
        image: &Image,
    ) -> Result<Self, Error> {
        let missing = match found {
            Ok(entrypoint) => return Ok(Self::file(entrypoint)),
            Err(missing) => missing,
        };
        let asked = process.args.first().map_or("", String::as_str);
        let Some((name, export)) = layer_name(&missing, process) else {
            return Err(Error::entrypoint(asked, missing));
        };
        let layer = match image.store.layer(&image.id) {
            Ok(Some(layer)) => layer,
            Ok(None) => return Err(Error::entrypoint(asked, missing)),
            Err(source) => {
                return Err(Error::Image {
                    missing: Box::new(missing),
                    source: Box::new(source),
                });
            }
        };
        let blobs: Vec<String> = layer.blobs.iter().map(Blob::to_string).collect();
        log::debug!(
            "{} of image {} is the program",
            blobs.join(" and "),
            layer.image
        );
        let name = match (name, layer.blobs.as_slice()) {
            ("", [blob]) => blob.title().unwrap_or("layer"),
            ("", _) => "layers",
            (name, _) => name,
        };
        Ok(Self {
            path: name.to_owned(),
            export: export.map(str::to_owned),
            source: Source::Layer(Box::new(layer)),
        })
    }

    /// Finds the program of one more process of a container.
    ///
    /// # Errors
    ///
    /// [`Error::Exec`].
    pub fn find_again(
        place: &Place,
        root: BorrowedFd<'_>,
        process: &Process,
    ) -> Result<Self, Error> {
        let missing = match Entrypoint::resolve(root, process) {
            Ok(entrypoint) => return Ok(Self::file(entrypoint)),
            Err(missing) => missing,
        };
        match (layer_name(&missing, process), &place.layer) {
            (Some((name, export)), Some(layer)) if name == place.program => Ok(Self {
                path: name.to_owned(),
                export: export.map(str::to_owned),
                source: Source::Kept(layer.clone()),
            }),
            (_, _) => Err(Error::exec(&process.args[0], missing)),
        }
    }

    fn file(entrypoint: Entrypoint) -> Self {
        Self {
            path: entrypoint.path.clone(),
            export: entrypoint.export.clone(),
            source: Source::File(entrypoint),
        }
    }

    /// The file's path in the container, or the layer's name.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The export to run, if one was asked for.
    #[must_use]
    pub fn export(&self) -> Option<&str> {
        self.export.as_deref()
    }

    /// Its code; and once more, if it is no file's. Blocks while it is compiled.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] when the program is at fault, [`Error::LayerContent`] when it cannot be read.
    pub fn load(
        &self,
        programs: &Programs,
        plan: &Plan,
    ) -> Result<(Artifact, Option<Artifact>), Error> {
        let wasi_0_3 = plan.options().wasi_0_3;
        Ok(match &self.source {
            Source::File(Entrypoint { file, kind, .. }) => {
                (programs.load(&self.path, file, *kind, wasi_0_3)?, None)
            }
            Source::Layer(layer) => {
                let artifact = programs.load_layer(&self.path, layer, wasi_0_3)?;
                (artifact.clone(), Some(artifact))
            }
            Source::Kept(artifact) => (artifact.clone(), None),
        })
    }

    /// `guest` with this program, whose code is `artifact`, ready to run.
    ///
    /// # Errors
    ///
    /// [`Error::Program`].
    pub fn prepare(&self, artifact: &Artifact, mut guest: Guest) -> Result<Prepared, Error> {
        guest.export.clone_from(&self.export);
        artifact.prepare(guest).map_err(|source| Error::Program {
            path: self.path.clone(),
            source,
        })
    }
}

/// The name and the export of `args[0]`, if what is missing may be a layer: a file that is not there, or a
/// bare `#export`.
fn layer_name<'a>(missing: &Fault, process: &'a Process) -> Option<(&'a str, Option<&'a str>)> {
    let name = process.args.first()?.as_str();
    let (file, export) = match name.split_once('#') {
        Some((file, export)) => (file, Some(export)),
        None => (name, None),
    };
    let bare = file.is_empty() && export.is_some_and(|export| !export.is_empty());
    let absent = matches!(missing, Fault::NoEntrypoint { .. })
        || bare && matches!(missing, Fault::InvalidEntrypoint { .. });
    absent.then_some((file, export))
}
