//! Kernel parameters that a bundle sets (`linux.sysctl`). They are written by the container's thread in the
//! namespaces it has then, so only such may be set as the kernel keeps per namespace, and only where the
//! container shares that namespace with nobody on the host. The list is runc's (libcontainer
//! `configs/validate/validator.go`): others would change the node.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use crate::{Error, Namespace, Namespaces};

/// The System V ones of the IPC namespace; those of POSIX message queues are below `fs/mqueue`.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// A parameter and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its file below `/proc/sys`.
    pub file: PathBuf,
    /// What is written there.
    pub value: String,
}

impl Sysctl {
    /// Reads `linux.sysctl`; `config` is the file an error names. In the order of their names.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for one that is not the container's own.
    pub(crate) fn list(
        listed: Option<&HashMap<String, String>>,
        namespaces: &Namespaces,
        config: &Path,
    ) -> Result<Vec<Self>, Error> {
        let mut listed: Vec<_> = listed.into_iter().flatten().collect();
        listed.sort();
        let sysctl = |(name, value): (&String, &String)| {
            let file = file(name);
            match owner(&file, namespaces) {
                Some(Namespace::New | Namespace::Join(_)) => Ok(Self {
                    file,
                    value: value.clone(),
                }),
                Some(Namespace::Host) | None => Err(Error::Unsupported {
                    path: config.to_owned(),
                    what: format!("the sysctl {name}, which would change the node"),
                    remedy: "leave it out, or give the container a network, ipc or uts namespace of its own if it belongs to that",
                }),
            }
        };
        listed.into_iter().map(sysctl).collect()
    }
}

/// As sysctl(8) has it: whichever of dot and slash comes first separates.
fn file(name: &str) -> PathBuf {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('.') => name.chars().map(swap).collect::<String>(),
        Some(_) | None => name.to_owned(),
    }
    .into()
}

/// The namespace that keeps a parameter.
fn owner<'a>(file: &Path, namespaces: &'a Namespaces) -> Option<&'a Namespace> {
    let plain = file
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if !plain {
        None
    } else if file.starts_with("net") {
        Some(&namespaces.network)
    } else if file.starts_with("fs/mqueue") || IPC.iter().any(|own| file == Path::new(own)) {
        Some(&namespaces.ipc)
    } else if file == Path::new("kernel/domainname") {
        Some(&namespaces.uts)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctls(name: &str, network: Namespace) -> Result<Vec<Sysctl>, Error> {
        let namespaces = Namespaces {
            network,
            ipc: Namespace::Host,
            uts: Namespace::New,
        };
        let listed = HashMap::from([(name.to_owned(), "1".to_owned())]);
        Sysctl::list(Some(&listed), &namespaces, Path::new("/b/config.json"))
    }

    #[test]
    fn dots_separate_unless_a_slash_comes_first() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/7.mtu", "net/ipv4/conf/eth0.7/mtu"),
            ("net/ipv4/conf/eth0.7/mtu", "net/ipv4/conf/eth0.7/mtu"),
        ] {
            assert_eq!(file(name), Path::new(path));
        }
    }

    #[test]
    fn what_belongs_to_a_namespace_of_the_container_may_be_set() {
        let set = sysctls("net.ipv4.ip_forward", Namespace::New).unwrap();
        assert_eq!(set[0].file, Path::new("net/ipv4/ip_forward"));
        assert_eq!(set[0].value, "1");
        assert!(sysctls("kernel.domainname", Namespace::Host).is_ok());
    }

    #[test]
    fn what_would_change_the_node_is_refused() {
        for name in [
            "net.ipv4.ip_forward",
            "kernel.shmmax",
            "vm.swappiness",
            "net/../vm/swappiness",
            "/net/ipv4",
            "",
        ] {
            let error = sysctls(name, Namespace::Host).unwrap_err();
            assert!(
                error.to_string().contains("would change the node"),
                "{error}"
            );
        }
    }
}
