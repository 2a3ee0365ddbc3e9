//! A pod that containerd describes by its Sandbox API (`sandboxer = "shim"`), and not as a container.
//!
//! There is no pause image then, and no `config.json` in the sandbox's bundle: the shim writes one ([`spec`]),
//! and the sandbox is a holder of namespaces like any other from there on. Nor are there the files that
//! containerd makes beside a pause container; so they are here, in the same bundle, and go into each
//! container of the pod as it is created, whoever runs it:
//!
//! | in the bundle | in a container | as containerd's CRI plugin has it |
//! |---|---|---|
//! | `pod/hosts` | `/etc/hosts` | the node's |
//! | `pod/hostname` | `/etc/hostname` | the pod's name, or the node's |
//! | `pod/resolv.conf` | `/etc/resolv.conf` | from the pod's DNS configuration, or the node's |
//!
//! A container that has a mount of its own there keeps it: a kubelet brings `/etc/hosts`. Up to containerd
//! 2.0 the plugin names files that nobody has made, and makes folders of them: those are replaced.

pub mod spec;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};
use wasi_bundles::{Bundle, CgroupPath, Plan};

use crate::Error;
use crate::content::messages::cri::{DnsConfig, PodSandboxConfig};

/// Files of a pod: their names in the bundle, and their places in a container.
const FILES: [(&str, &str); 3] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
];

/// A pod, from when its sandbox is created.
#[derive(Debug)]
pub struct Pod {
    id: String,
    bundle: PathBuf,
    created: SystemTime,
}

impl Pod {
    /// Writes what the pod `id` needs into `bundle`: its `config.json`, and its files.
    ///
    /// # Errors
    ///
    /// [`Error::Pod`] when it asks for what cannot be; [`Error::Host`].
    pub fn make(
        id: &str,
        bundle: &Path,
        network: &Path,
        config: &PodSandboxConfig,
    ) -> Result<Self, Error> {
        let pod = Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            created: SystemTime::now(),
        };
        let spec = spec::spec(id, network, config)?;
        write(bundle, &spec).map_err(Error::host("write the sandbox's config.json"))?;
        pod.write_files(config)
            .map_err(Error::host("write the files of the pod"))?;
        Ok(pod)
    }

    /// containerd's id of its sandbox.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// The `config.json` of its sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] when it is not there any more.
    pub fn spec(&self) -> Result<Value, Error> {
        read(&self.bundle).map_err(Error::host("read the sandbox's config.json"))
    }

    /// Its cgroup, which holds those of its containers, from the root of the hierarchies. None if the kubelet named
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Bundle`] when the `config.json` of its sandbox is not there any more.
    pub fn cgroup(&self) -> Result<Option<PathBuf>, Error> {
        let plan = Plan::new(&Bundle::open(&self.bundle)?)?;
        let sandbox = plan.cgroup().path.as_ref().map(CgroupPath::folder);
        Ok(sandbox.and_then(|folder| folder.parent().map(Path::to_owned)))
    }

    /// Puts the pod's files into a container that is about to be created from `bundle`.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] when its `config.json` cannot be changed.
    pub fn furnish(&self, bundle: &Path) -> Result<(), Error> {
        let change = || {
            let mut spec = read(bundle)?;
            if !self.furnish_spec(&mut spec) {
                return Ok(());
            }
            write(bundle, &spec)
        };
        change().map_err(Error::host(format!(
            "put the pod's files into {}",
            bundle.join("config.json").display()
        )))
    }

    /// Whether anything is changed.
    fn furnish_spec(&self, spec: &mut Value) -> bool {
        if spec["annotations"]["io.kubernetes.cri.sandbox-id"] != json!(self.id) {
            return false;
        }
        let readonly = spec["root"]["readonly"] == json!(true);
        let of_containerd = format!("sandboxes/{}/", self.id);
        if !spec["mounts"].is_array() {
            spec["mounts"] = json!([]);
        }
        let Some(mounts) = spec["mounts"].as_array_mut() else {
            return false;
        };
        let mut changed = false;
        for (name, destination) in FILES {
            let file = self.bundle.join("pod").join(name);
            if !file.exists() {
                continue;
            }
            let at_place = |mount: &&mut Value| mount["destination"] == json!(destination);
            match mounts.iter_mut().find(at_place) {
                None => mounts.push(json!({
                    "destination": destination,
                    "type": "bind",
                    "source": file,
                    "options": ["rbind", "rprivate", if readonly { "ro" } else { "rw" }],
                })),
                Some(mount) => {
                    let source = mount["source"].as_str().unwrap_or_default();
                    if !source.contains(&of_containerd) || Path::new(source).is_file() {
                        continue;
                    }
                    mount["source"] = json!(file);
                }
            }
            changed = true;
        }
        changed
    }

    fn write_files(&self, config: &PodSandboxConfig) -> io::Result<()> {
        let folder = self.bundle.join("pod");
        fs::create_dir_all(&folder)?;
        copy("/etc/hosts", &folder.join("hosts"))?;
        let name = match config.hostname.as_str() {
            "" => rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            name => name.to_owned(),
        };
        fs::write(folder.join("hostname"), name + "\n")?;
        let resolver = folder.join("resolv.conf");
        match resolv_conf(&config.dns_config) {
            Some(text) => fs::write(resolver, text),
            None => copy("/etc/resolv.conf", &resolver),
        }
    }
}

/// What resolv.conf(5) says for it; nothing if it says nothing.
fn resolv_conf(dns: &DnsConfig) -> Option<String> {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    (!text.is_empty()).then_some(text)
}

/// A node may do without the file; then its pods do, too.
fn copy(from: &str, to: &Path) -> io::Result<()> {
    match fs::read(from) {
        Ok(text) => fs::write(to, text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read(bundle: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&fs::read(
        bundle.join("config.json"),
    )?)?)
}

/// Written whole or not at all: who reads it sees one or the other.
fn write(bundle: &Path, spec: &Value) -> io::Result<()> {
    let temporary = bundle.join(".config.json");
    fs::write(&temporary, serde_json::to_vec(spec)?)?;
    fs::rename(temporary, bundle.join("config.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with a file `hosts`, and nothing else.
    fn pod(folder: &Path) -> Pod {
        fs::create_dir(folder.join("pod")).unwrap();
        fs::write(folder.join("pod/hosts"), "127.0.0.1 localhost\n").unwrap();
        Pod {
            id: "web".to_owned(),
            bundle: folder.to_owned(),
            created: SystemTime::now(),
        }
    }

    fn container(of: &str, mounts: &Value) -> Value {
        json!({
            "annotations": { "io.kubernetes.cri.sandbox-id": of },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": mounts,
        })
    }

    #[test]
    fn a_container_gets_the_files_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let pod = pod(folder.path());
        let mut spec = container("web", &json!([]));
        assert!(pod.furnish_spec(&mut spec));
        let wanted = json!([{
            "destination": "/etc/hosts",
            "type": "bind",
            "source": folder.path().join("pod/hosts"),
            "options": ["rbind", "rprivate", "ro"],
        }]);
        assert_eq!(spec["mounts"], wanted);
        let mut without = json!({ "annotations": { "io.kubernetes.cri.sandbox-id": "web" } });
        assert!(pod.furnish_spec(&mut without));
        assert_eq!(without["mounts"][0]["options"][2], "rw");
    }

    #[test]
    fn a_container_of_another_pod_gets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let pod = pod(folder.path());
        let mut spec = container("other", &json!([]));
        assert!(!pod.furnish_spec(&mut spec));
        assert_eq!(spec, container("other", &json!([])));
    }

    #[test]
    fn a_kubelets_file_stays_and_a_file_that_is_none_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pod = pod(folder.path());
        let of_kubelet =
            json!([{ "destination": "/etc/hosts", "source": "/var/lib/kubelet/hosts" }]);
        let mut spec = container("web", &of_kubelet);
        assert!(!pod.furnish_spec(&mut spec));
        assert_eq!(spec["mounts"], of_kubelet);

        let missing = folder.path().join("sandboxes/web/hosts");
        fs::create_dir_all(&missing).unwrap();
        let named = json!([{ "destination": "/etc/hosts", "source": missing, "options": ["rw"] }]);
        let mut spec = container("web", &named);
        assert!(pod.furnish_spec(&mut spec));
        assert_eq!(
            spec["mounts"],
            json!([{
                "destination": "/etc/hosts",
                "source": folder.path().join("pod/hosts"),
                "options": ["rw"],
            }])
        );
    }

    #[test]
    fn names_are_resolved_as_the_pod_says() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".to_owned(), "10.0.0.11".to_owned()],
            searches: vec!["a.local".to_owned(), "local".to_owned()],
            options: vec!["ndots:5".to_owned()],
            ..DnsConfig::default()
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search a.local local\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), None);
    }
}
