//! The directories that a guest is given, in the place of the container's root: the option `preopens`.
//!
//! ```text
//! /=/:ro,/data,/cache=/var/cache/app:rw
//! │  │ │  │
//! │  │ │  └ the next one: the container's /data, as /data, as writable as it is
//! │  │ └ read-only
//! │  └ where it is in the container
//! └ its name in the guest
//! ```

use std::path::{Component, Path, PathBuf};

/// A directory that a guest is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preopen {
    /// Its name in the guest: an absolute path.
    pub name: String,
    /// Where it is in the container: an absolute path, to be resolved there.
    pub path: PathBuf,
    /// Whether it is read-only to the guest. Else it is as writable as the container has it.
    pub readonly: bool,
}

impl Preopen {
    /// Reads the value of the option. `none` is the empty list.
    pub(crate) fn list(value: &str) -> Result<Vec<Self>, String> {
        if value == "none" {
            return Ok(Vec::new());
        }
        let mut list: Vec<Self> = Vec::new();
        for entry in value.split(',') {
            let preopen = Self::read(entry.trim())
                .map_err(|reason| format!("`{}`: {reason}", entry.trim()))?;
            if list.iter().any(|other| other.name == preopen.name) {
                return Err(format!("two directories have the name {}", preopen.name));
            }
            list.push(preopen);
        }
        Ok(list)
    }

    fn read(entry: &str) -> Result<Self, &'static str> {
        const FORM: &str = "a directory is written NAME, NAME=PATH, and with :ro or :rw at its end; \
                            `none` alone gives the guest no files";
        let (entry, readonly) = match entry.rsplit_once(':') {
            None => (entry, false),
            Some((entry, "ro")) => (entry, true),
            Some((entry, "rw")) => (entry, false),
            Some(_) => return Err(FORM),
        };
        let (name, path) = entry.split_once('=').unwrap_or((entry, entry));
        for path in [name, path] {
            if path.is_empty() || path.contains(['=', ':', '\0']) {
                return Err(FORM);
            }
            let mut components = Path::new(path).components();
            let is_plain = components.next() == Some(Component::RootDir)
                && components.all(|part| matches!(part, Component::Normal(_)));
            if !is_plain {
                return Err("names and paths start with / and have no .. in them");
            }
        }
        let whole = |path: &str| Path::new(path).components().collect::<PathBuf>();
        Ok(Self {
            // Without a slash at its end.
            name: whole(name).to_string_lossy().into_owned(),
            path: whole(path),
            readonly,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preopen(name: &str, path: &str, readonly: bool) -> Preopen {
        Preopen {
            name: name.to_owned(),
            path: path.into(),
            readonly,
        }
    }

    #[test]
    fn a_list_gives_names_places_and_access() {
        assert_eq!(
            Preopen::list("/=/:ro, /data,/cache/=/var//cache:rw,/x:ro"),
            Ok(vec![
                preopen("/", "/", true),
                preopen("/data", "/data", false),
                preopen("/cache", "/var/cache", false),
                preopen("/x", "/x", true),
            ])
        );
        assert_eq!(Preopen::list("/"), Ok(vec![preopen("/", "/", false)]));
        assert_eq!(Preopen::list("none"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_not_written_that_way_is_refused_with_the_entry() {
        for (value, part) in [
            ("", "NAME=PATH"),
            ("/data,", "NAME=PATH"),
            ("data", "start with /"),
            ("/data=var", "start with /"),
            ("/data=/a/../b", "no .."),
            ("/data:wo", ":ro or :rw"),
            ("/data=", "NAME=PATH"),
            ("/a=/b=/c", "NAME=PATH"),
            ("/a:ro:rw", "NAME=PATH"),
            ("/a,none", "start with /"),
            ("/a,/a/=/b", "two directories have the name /a"),
        ] {
            let reason = Preopen::list(value).unwrap_err();
            assert!(reason.contains(part), "{value}: {reason}");
        }
    }
}
