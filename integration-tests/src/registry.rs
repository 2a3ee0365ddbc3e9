//! A registry of images: Debian's `docker-registry`, on the loopback of a containerd's network namespace, with what
//! it has in that containerd's folder. It goes with its value.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::containerd::Containerd;
use crate::invocation::Invocation;

/// A running registry, without TLS and for everybody, as clients expect it at a loopback address.
#[derive(Debug)]
pub struct Registry<'a> {
    containerd: &'a Containerd,
    process: Child,
    address: String,
}

impl<'a> Registry<'a> {
    /// Starts one that this containerd reaches. `name` is for its folder.
    ///
    /// # Errors
    ///
    /// When it is not installed, or does not listen.
    pub fn beside(containerd: &'a Containerd, name: &str) -> Result<Self> {
        let program = crate::target().join("registry/usr/bin/docker-registry");
        ensure!(
            program.is_file(),
            "{} is missing; run `make setup`",
            program.display()
        );
        let folder = containerd.folder().join("registries").join(name);
        std::fs::create_dir_all(&folder).context("a folder for the registry")?;
        let config = folder.join("config.yml");
        let store = folder.join("store");
        let lines = [
            "version: 0.1".to_owned(),
            format!(
                "storage: {{ filesystem: {{ rootdirectory: {} }} }}",
                store.display()
            ),
            "http: { addr: \"127.0.0.1:0\" }".to_owned(),
        ];
        std::fs::write(&config, lines.join("\n")).context("describe the registry")?;
        let mut process = Command::new("nsenter")
            .arg(format!("--net={}", containerd.network().display()))
            .arg(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the registry")?;
        let log = process.stderr.take().context("the registry's log")?;
        let mut registry = Self {
            containerd,
            process,
            address: String::new(),
        };
        // It says on which port it is before it serves; connections wait for it from then on.
        let mut lines = BufReader::new(log).lines();
        while registry.address.is_empty() {
            let line = lines.next().context("the registry has ended")??;
            if let Some((_, rest)) = line.split_once("listening on ") {
                let address = rest.split('"').next().unwrap_or_default();
                address.trim().clone_into(&mut registry.address);
            }
        }
        // Read to its end, or the registry would wait for it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(registry)
    }

    /// The full reference of an image in it.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// `ctr image …`, in the network that the registry is in: what of it is done by `ctr`, and what by containerd,
    /// depends on the version.
    pub fn ctr<'b>(&self, args: impl IntoIterator<Item = &'b str>) -> Invocation {
        let ctr = Invocation::new("nsenter")
            .arg(format!("--net={}", self.containerd.network().display()))
            .arg(self.containerd.version().tool("ctr"));
        self.containerd.client(ctr).arg("image").args(args)
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        // It keeps nothing that is to be saved.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
