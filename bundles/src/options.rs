//! What a wasm container can be told that OCI has no field for: annotations of the form
//! `io.containerd.wasi.v1.<option>`.
//!
//! An option that nobody knows is refused rather than passed over: it is a typing error more often than
//! not, and a limit that was misspelt is no limit. docs/annotations.md lists all of them.
//! Under CRI an annotation gets into the bundle only if containerd's configuration of the runtime lists
//! it (`container_annotations`, `pod_annotations`).

use crate::{Bundle, Error, Preopen};

/// What comes before the name of an option.
const PREFIX: &str = "io.containerd.wasi.v1.";

/// The options of a container. The default is what a bundle without any has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// `preopens`: the directories that the guest is given; `None` is the container's root as `/`.
    pub preopens: Option<Vec<Preopen>>,
}

/// Reads the value of one option; what is wrong with it otherwise, and how it is written.
type Read = fn(&mut Options, &str) -> Result<(), String>;

/// Every option, by name.
const KNOWN: &[(&str, Read)] = &[("preopens", |options, value| {
    options.preopens = Some(Preopen::list(value)?);
    Ok(())
})];

impl Options {
    /// Reads the annotations of a bundle.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownOption`] and [`Error::InvalidOption`].
    pub fn new(bundle: &Bundle) -> Result<Self, Error> {
        let mut options = Self::default();
        let annotations = bundle.spec().annotations().iter().flatten();
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(PREFIX) else {
                continue;
            };
            let Some((_, read)) = KNOWN.iter().find(|(known, _)| *known == name) else {
                return Err(Error::UnknownOption {
                    config: bundle.config(),
                    key: key.clone(),
                    known: KNOWN.iter().map(|(name, _)| *name).collect(),
                });
            };
            read(&mut options, value.trim()).map_err(|reason| Error::InvalidOption {
                config: bundle.config(),
                key: key.clone(),
                value: value.clone(),
                reason,
            })?;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BundleBuilder;

    fn options(key: &str, value: &str) -> Result<Options, Error> {
        let bundle = BundleBuilder::new().annotation(key, value).build();
        Options::new(&Bundle::open(bundle.path()).unwrap())
    }

    #[test]
    fn other_annotations_are_none_of_its_business() {
        let options = options("io.kubernetes.cri.container-name", "web").unwrap();
        assert_eq!(options, Options::default());
    }

    #[test]
    fn directories_are_listed_in_the_place_of_the_root() {
        let key = "io.containerd.wasi.v1.preopens";
        let listed = options(key, "/:ro,/data").unwrap().preopens.unwrap();
        assert_eq!(listed.len(), 2);
        let error = options(key, "data").unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
    }

    #[test]
    fn an_option_that_nobody_knows_is_refused() {
        let error = options("io.containerd.wasi.v1.speed", "fast").unwrap_err();
        assert!(matches!(error, Error::UnknownOption { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("io.containerd.wasi.v1.speed"), "{text}");
    }
}
