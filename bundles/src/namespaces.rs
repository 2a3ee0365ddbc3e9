//! Which kernel namespaces a container shares, gets fresh, or joins (OCI config-linux.md, "Namespaces").
//!
//! | type    | what happens                                                                        |
//! |---------|-------------------------------------------------------------------------------------|
//! | network, ipc, uts | not listed: the host's; listed: a new one; listed with a path: joined     |
//! | mount   | always a new one, listed or not: the container's mounts are its thread's            |
//! | pid     | accepted, and nothing happens: a wasm guest sees no processes, its own included      |
//! | cgroup  | accepted, and nothing happens: a wasm guest sees no cgroup                           |
//! | user, time | refused                                                                          |

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::Error;

/// One kind of namespace, from the container's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// The host's, shared.
    Host,
    /// A fresh one, made for the container.
    New,
    /// The existing one that this file is (`/proc/<pid>/ns/net`, `/run/netns/...`).
    Join(PathBuf),
}

/// The namespaces of a container that a guest can notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Interfaces, addresses, ports.
    pub network: Namespace,
    /// System V IPC and POSIX message queues, with the `mqueue` mounts.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
}

/// `linux.namespaces` taken apart by type, each at most once: what was said, before what it means.
#[derive(Default)]
struct Listed<'a> {
    network: Option<&'a LinuxNamespace>,
    ipc: Option<&'a LinuxNamespace>,
    uts: Option<&'a LinuxNamespace>,
    mount: Option<&'a LinuxNamespace>,
    pid: Option<&'a LinuxNamespace>,
    cgroup: Option<&'a LinuxNamespace>,
    user: Option<&'a LinuxNamespace>,
    time: Option<&'a LinuxNamespace>,
}

impl Namespaces {
    /// Reads `linux.namespaces`. `config` is the file an error names.
    pub(crate) fn new(listed: &[LinuxNamespace], config: &Path) -> Result<Self, Error> {
        let listed = Listed::new(listed, config)?;
        let unsupported = |what: &str, remedy| Error::Unsupported {
            path: config.to_owned(),
            what: what.to_owned(),
            remedy,
        };
        if listed.user.is_some() {
            return Err(unsupported(
                "a user namespace",
                "leave it out (Kubernetes: hostUsers: true), or run this container with a runtime for Linux containers",
            ));
        }
        if listed.time.is_some() {
            return Err(unsupported("a time namespace", "leave it out"));
        }
        if listed.mount.is_some_and(|mount| path(mount).is_some()) {
            return Err(unsupported(
                "joining a mount namespace",
                "leave out its path: the container gets a mount namespace of its own",
            ));
        }
        // Accepted and without effect, see the module's table.
        let Listed {
            pid: _, cgroup: _, ..
        } = listed;
        Ok(Self {
            network: meaning(listed.network),
            ipc: meaning(listed.ipc),
            uts: meaning(listed.uts),
        })
    }
}

impl<'a> Listed<'a> {
    fn new(namespaces: &'a [LinuxNamespace], config: &Path) -> Result<Self, Error> {
        let mut listed = Self::default();
        for namespace in namespaces {
            let (name, place) = match namespace.typ() {
                LinuxNamespaceType::Network => ("network", &mut listed.network),
                LinuxNamespaceType::Ipc => ("ipc", &mut listed.ipc),
                LinuxNamespaceType::Uts => ("uts", &mut listed.uts),
                LinuxNamespaceType::Mount => ("mount", &mut listed.mount),
                LinuxNamespaceType::Pid => ("pid", &mut listed.pid),
                LinuxNamespaceType::Cgroup => ("cgroup", &mut listed.cgroup),
                LinuxNamespaceType::User => ("user", &mut listed.user),
                LinuxNamespaceType::Time => ("time", &mut listed.time),
            };
            if place.replace(namespace).is_some() {
                return Err(Error::DuplicateNamespace {
                    config: config.to_owned(),
                    namespace: name,
                });
            }
        }
        Ok(listed)
    }
}

fn meaning(listed: Option<&LinuxNamespace>) -> Namespace {
    match listed {
        None => Namespace::Host,
        Some(namespace) => match path(namespace) {
            None => Namespace::New,
            Some(path) => Namespace::Join(path.to_owned()),
        },
    }
}

/// Go writes an unset path as an empty string where `omitempty` was forgotten.
fn path(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace
        .path()
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(json: &str) -> Result<Namespaces, Error> {
        let listed: Vec<LinuxNamespace> = serde_json::from_str(json).unwrap();
        Namespaces::new(&listed, Path::new("/b/config.json"))
    }

    #[test]
    fn what_is_not_listed_is_the_hosts() {
        let host = Namespaces {
            network: Namespace::Host,
            ipc: Namespace::Host,
            uts: Namespace::Host,
        };
        assert_eq!(namespaces("[]").unwrap(), host);
    }

    #[test]
    fn listed_is_new_and_with_a_path_joined() {
        let namespaces = namespaces(
            r#"[{"type": "network", "path": "/proc/7/ns/net"}, {"type": "ipc"}, {"type": "uts", "path": ""}]"#,
        )
        .unwrap();
        assert_eq!(namespaces.network, Namespace::Join("/proc/7/ns/net".into()));
        assert_eq!(namespaces.ipc, Namespace::New);
        assert_eq!(namespaces.uts, Namespace::New);
    }

    #[test]
    fn mount_pid_and_cgroup_are_accepted() {
        namespaces(
            r#"[{"type": "mount"}, {"type": "pid", "path": "/proc/7/ns/pid"}, {"type": "cgroup"}]"#,
        )
        .unwrap();
    }

    #[test]
    fn user_time_and_a_joined_mount_namespace_are_refused() {
        assert_eq!(
            namespaces(r#"[{"type": "user"}]"#).unwrap_err().to_string(),
            "/b/config.json asks for a user namespace, which wasm containers do not support; leave it out \
             (Kubernetes: hostUsers: true), or run this container with a runtime for Linux containers"
        );
        for json in [
            r#"[{"type": "time"}]"#,
            r#"[{"type": "mount", "path": "/proc/7/ns/mnt"}]"#,
        ] {
            let error = namespaces(json).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        }
    }

    #[test]
    fn a_type_listed_twice_is_refused() {
        let error = namespaces(r#"[{"type": "pid"}, {"type": "ipc"}, {"type": "pid"}]"#);
        assert_eq!(
            error.unwrap_err().to_string(),
            "/b/config.json lists the pid namespace twice; list it once"
        );
    }
}
