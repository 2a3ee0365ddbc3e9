//! Mounts: what is put where over the root file system, in the order of the list.
//!
//! A mount is one of three things. A **bind** shows a host directory or file at a second place; its
//! type is meaningless and ignored, as for runc. A **file system** is made fresh (tmpfs) or mounted
//! from its source (overlay). And **procfs** is its own kind because it is the one file system a wasm
//! container must never get: guests are threads of the shim, so `/proc/self` would be the shim itself
//! and `/proc/self/mem` its memory, writable to whoever runs in it. A wasm guest has no processes to
//! look at either, so the shim puts an empty read-only directory there.
//!
//! The same file system can arrive by another name: a bind of the host's `/proc`, or a recursive one of
//! `/`. A path does not tell (it may be a symlink), so whoever mounts has to ask the opened source with
//! `fstatfs`, not this module.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime;

use crate::{
    Error, MountFlags,
    mount_options::{Bind, Options, Refused},
};

/// One mount, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where: absolute, without `.`, `..` or doubled slashes. For a mount of `config.json` this is
    /// inside of the container's root and still to be resolved there, following its symlinks.
    pub destination: PathBuf,
    /// What.
    pub kind: MountKind,
    /// How.
    pub flags: MountFlags,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// The absolute host path.
        source: PathBuf,
        /// Whether what is mounted below comes along (`rbind`).
        recursive: bool,
    },
    /// A file system of its own.
    Filesystem {
        /// The kernel's name of it: `tmpfs`, `overlay`, `sysfs`, ...
        fstype: String,
        /// The device or, where there is none, a name for `/proc/mounts`. Never empty.
        source: String,
        /// Its options, joined by `,` for `mount(2)`. May be empty.
        data: String,
    },
    /// An empty read-only directory in the place of procfs (see the module).
    Procfs,
}

impl Mount {
    /// Reads a mount as OCI and containerd describe it, for `mounts` of `config.json` as well as for
    /// the `rootfs` of a `Create` request, where `destination` is the host path of the rootfs.
    ///
    /// A relative source of a bind is joined to `base`, the bundle. Options that are no flags are the
    /// file system's. A type `bind` without the option is a bind of the one file system, which is more
    /// lenient than runc. Options that containerd's own mount library would have acted on (`loop`,
    /// `X-containerd.*`) are not known here and end up in the file system's.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMount`]: a destination that is empty or has `..`, a bind without source or with
    /// options of a file system, no type, a NUL byte. [`Error::Unsupported`]: an option that is known
    /// and cannot be honoured.
    pub fn from_options(
        fstype: &str,
        source: &str,
        destination: &Path,
        options: &[String],
        base: &Path,
    ) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::InvalidMount {
            destination: destination.to_owned(),
            reason: reason.to_owned(),
        };
        // Everything ends up in a C string.
        let mut texts = [fstype, source].into_iter();
        if texts.any(|text| text.contains('\0'))
            || options.iter().any(|option| option.contains('\0'))
            || destination.as_os_str().as_encoded_bytes().contains(&0)
        {
            return Err(invalid("it contains a NUL byte"));
        }
        let absolute = normalize(destination).map_err(invalid)?;
        let Options { flags, bind, data } = match Options::parse(options) {
            Ok(options) => options,
            Err(Refused { option, remedy }) => {
                return Err(unsupported(
                    destination,
                    format!("the mount option {option}"),
                    remedy,
                ));
            }
        };
        let bind = bind.or((fstype == "bind").then_some(Bind::Single));
        let kind = match bind {
            Some(bind) => {
                if source.is_empty() {
                    return Err(invalid("a bind mount needs a source"));
                }
                // The kernel would ignore them without a word.
                if !data.is_empty() {
                    return Err(invalid(&format!(
                        "a bind mount has no file system options, and these are none of mount's: {}",
                        data.join(",")
                    )));
                }
                MountKind::Bind {
                    source: base.join(source),
                    recursive: match bind {
                        Bind::Single => false,
                        Bind::Recursive => true,
                    },
                }
            }
            None if fstype == "proc" => MountKind::Procfs,
            None if fstype.is_empty() => {
                return Err(invalid("it has no type, and is no bind mount either"));
            }
            None => MountKind::Filesystem {
                fstype: fstype.to_owned(),
                source: if source.is_empty() { fstype } else { source }.to_owned(),
                data: data.join(","),
            },
        };
        Ok(Self {
            destination: absolute,
            kind,
            flags,
        })
    }

    /// Reads one entry of `mounts` (OCI config.md, "Mounts"). `bundle` is what relative sources are
    /// relative to.
    pub(crate) fn new(mount: &runtime::Mount, bundle: &Path) -> Result<Self, Error> {
        let destination = mount.destination();
        let mapped = |ids: &Option<Vec<_>>| ids.as_ref().is_some_and(|ids| !ids.is_empty());
        if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
            return Err(unsupported(
                destination,
                "a mount with ids mapped".to_owned(),
                "leave out uidMappings and gidMappings: there is no user namespace to map ids for",
            ));
        }
        let invalid = |reason: &str| Error::InvalidMount {
            destination: destination.clone(),
            reason: reason.to_owned(),
        };
        let source = match mount.source() {
            None => "",
            Some(source) => source
                .to_str()
                .ok_or_else(|| invalid("its source is not UTF-8"))?,
        };
        let mounted = Self::from_options(
            mount.typ().as_deref().unwrap_or_default(),
            source,
            destination,
            mount.options().as_deref().unwrap_or_default(),
            bundle,
        )?;
        if mounted.destination == Path::new("/") {
            return Err(invalid("it would hide the root file system; set root.path"));
        }
        Ok(mounted)
    }
}

fn unsupported(destination: &Path, what: String, remedy: &'static str) -> Error {
    Error::Unsupported {
        path: destination.to_owned(),
        what,
        remedy,
    }
}

/// A relative destination starts at `/` (OCI config.md, "Mounts": deprecated, and still allowed). `..`
/// is refused instead of resolved: what it means depends on symlinks only the container has.
fn normalize(destination: &Path) -> Result<PathBuf, &'static str> {
    if destination.as_os_str().is_empty() {
        return Err("it has no destination");
    }
    let mut normal = PathBuf::from("/");
    for component in destination.components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err("its destination contains `..`"),
            Component::Normal(name) => normal.push(name),
        }
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::mount::MountFlags as Flags;

    use super::*;

    fn from(fstype: &str, source: &str, to: &str, options: &[&str]) -> Result<Mount, Error> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Mount::from_options(fstype, source, Path::new(to), &options, Path::new("/b"))
    }

    fn entry(json: &str) -> Result<Mount, Error> {
        Mount::new(&serde_json::from_str(json).unwrap(), Path::new("/b"))
    }

    #[test]
    fn the_option_makes_a_bind_whatever_the_type() {
        for (fstype, option) in [("bind", "rbind"), ("proc", "rbind"), ("", "rbind")] {
            let mount = from(fstype, "/srv/data", "/data", &[option, "ro"]).unwrap();
            assert_eq!(
                mount.kind,
                MountKind::Bind {
                    source: "/srv/data".into(),
                    recursive: true
                }
            );
            assert_eq!(mount.flags.set, Flags::RDONLY);
        }
    }

    #[test]
    fn the_type_alone_makes_a_bind_that_is_not_recursive() {
        let mount = from("bind", "sub/dir", "/data", &[]).unwrap();
        assert_eq!(
            mount.kind,
            MountKind::Bind {
                source: "/b/sub/dir".into(),
                recursive: false
            }
        );
    }

    #[test]
    fn a_file_system_keeps_its_own_options() {
        let mount = from(
            "overlay",
            "overlay",
            "/run/rootfs",
            &["index=off", "lowerdir=/a:/b", "ro", "upperdir=/c"],
        )
        .unwrap();
        assert_eq!(
            mount.kind,
            MountKind::Filesystem {
                fstype: "overlay".into(),
                source: "overlay".into(),
                data: "index=off,lowerdir=/a:/b,upperdir=/c".into(),
            }
        );
    }

    #[test]
    fn a_file_system_without_source_is_named_after_its_type() {
        let mount = entry(r#"{"destination": "/tmp", "type": "tmpfs"}"#).unwrap();
        let MountKind::Filesystem { source, data, .. } = mount.kind else {
            panic!("{mount:?}");
        };
        assert_eq!((source.as_str(), data.as_str()), ("tmpfs", ""));
    }

    #[test]
    fn proc_is_never_a_file_system() {
        let mount = from("proc", "proc", "/proc", &["nosuid", "hidepid=2"]).unwrap();
        assert_eq!(mount.kind, MountKind::Procfs);
    }

    #[test]
    fn destinations_are_made_normal() {
        for destination in ["/a/b", "a/b", "//a/./b/", "./a//b"] {
            let mount = from("tmpfs", "", destination, &[]).unwrap();
            assert_eq!(mount.destination.to_str(), Some("/a/b"));
        }
    }

    #[test]
    fn broken_mounts_are_refused_with_their_destination() {
        for (error, text) in [
            (
                from("tmpfs", "", "/a/../b", &[]),
                "invalid mount at `/a/../b`: its destination contains `..`",
            ),
            (
                from("tmpfs", "", "", &[]),
                "invalid mount at ``: it has no destination",
            ),
            (
                from("bind", "", "/a", &["bind"]),
                "invalid mount at `/a`: a bind mount needs a source",
            ),
            (
                from("bind", "/x", "/a", &["bind", "size=1", "z"]),
                "invalid mount at `/a`: a bind mount has no file system options, and these are none of mount's: size=1,z",
            ),
            (
                from("", "/x", "/a", &["ro"]),
                "invalid mount at `/a`: it has no type, and is no bind mount either",
            ),
            (
                from("tmpfs", "a\0b", "/a", &[]),
                "invalid mount at `/a`: it contains a NUL byte",
            ),
            (
                entry(r#"{"destination": "/./", "type": "tmpfs"}"#),
                "invalid mount at `/./`: it would hide the root file system; set root.path",
            ),
            (
                from("tmpfs", "", "/run", &["tmpcopyup"]),
                "/run asks for the mount option tmpcopyup, which wasm containers do not support; \
                 leave it out, and put the files into a volume or the image",
            ),
            (
                entry(
                    r#"{"destination": "/v", "source": "/s", "options": ["bind"],
                        "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}"#,
                ),
                "/v asks for a mount with ids mapped, which wasm containers do not support; \
                 leave out uidMappings and gidMappings: there is no user namespace to map ids for",
            ),
        ] {
            assert_eq!(error.unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_mount_is_normal_or_refused(
            fstype in "(bind|proc|tmpfs|)",
            source in "[a-z./\\x00]{0,8}",
            destination in "[ab./\\x00]{0,12}",
            options in prop::collection::vec("(bind|rbind|ro|rw|rro|size=1|[a-z=\\x00]{0,4})", 0..5),
        ) {
            let destination = Path::new(&destination);
            let base = Path::new("/b");
            let Ok(mount) = Mount::from_options(&fstype, &source, destination, &options, base)
            else {
                return Ok(());
            };
            prop_assert!(mount.destination.is_absolute());
            let text = mount.destination.to_str().unwrap();
            prop_assert!(!text.contains("//") && !text.contains('\0'));
            prop_assert!(text.split('/').all(|name| name != "." && name != ".."));
            match mount.kind {
                MountKind::Bind { source, .. } => prop_assert!(source.is_absolute()),
                MountKind::Filesystem { fstype, source, .. } => {
                    prop_assert!(!source.is_empty());
                    prop_assert_ne!(fstype, "proc");
                }
                MountKind::Procfs => prop_assert_eq!(fstype, "proc"),
            }
        }
    }
}
