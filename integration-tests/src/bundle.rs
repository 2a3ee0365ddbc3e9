//! A bundle as containerd prepares it: `config.json`, `rootfs/` and a fifo for the shim's log.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

/// A bundle on disk.
#[derive(Debug)]
pub struct Bundle {
    id: String,
    path: PathBuf,
    /// containerd's end of the `log` fifo: it opens both directions, so that the shim's open never blocks.
    log: Option<File>,
}

/// A bundle about to be written.
#[derive(Clone, Debug)]
pub struct BundleBuilder {
    id: String,
    path: PathBuf,
    spec: Value,
    files: Vec<(String, Vec<u8>)>,
    log: bool,
    reader: bool,
}

impl BundleBuilder {
    pub(crate) fn new(path: PathBuf, id: &str) -> Self {
        let spec = json!({
            "ociVersion": "1.1.0",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": ["/main.wasm"],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs" },
            "mounts": [],
            "annotations": {},
            "linux": { "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
            ] },
        });
        Self {
            id: id.to_owned(),
            path,
            spec,
            files: Vec::new(),
            log: true,
            reader: true,
        }
    }

    /// The program and its arguments; `/main.wasm` by default.
    #[must_use]
    pub fn args<'a>(self, args: impl IntoIterator<Item = &'a str>) -> Self {
        let args: Value = args.into_iter().collect();
        self.edit(|spec| spec["process"]["args"] = args)
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(self, name: &str, value: &str) -> Self {
        self.edit(|spec| spec["annotations"][name] = value.into())
    }

    /// Any change of the spec.
    #[must_use]
    pub fn edit(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self
    }

    /// A file of the root file system; executable, as a native program has to be.
    #[must_use]
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files
            .push((path.trim_start_matches('/').to_owned(), bytes.into()));
        self
    }

    /// Makes the `log` fifo, but does not open it: a containerd that is gone for the moment.
    #[must_use]
    pub fn without_log_reader(mut self) -> Self {
        self.reader = false;
        self
    }

    /// No `log` at all.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.log = false;
        self
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn write(self) -> Result<Bundle> {
        let rootfs = self.path.join("rootfs");
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&rootfs)
            .context("create the bundle")?;
        let config = serde_json::to_vec_pretty(&self.spec)?;
        std::fs::write(self.path.join("config.json"), config).context("write config.json")?;
        for (path, bytes) in &self.files {
            let file = rootfs.join(path);
            std::fs::create_dir_all(file.parent().unwrap_or(&rootfs))
                .with_context(|| format!("folder of {path}"))?;
            std::fs::write(&file, bytes).with_context(|| format!("write {path}"))?;
            std::fs::set_permissions(&file, Permissions::from_mode(0o755))
                .with_context(|| format!("chmod {path}"))?;
        }
        let fifo = self.path.join("log");
        if self.log {
            mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o700), 0)
                .context("make the log fifo")?;
        }
        let log = (self.log && self.reader)
            .then(|| OpenOptions::new().read(true).write(true).open(&fifo))
            .transpose()
            .context("open the log fifo")?;
        Ok(Bundle {
            id: self.id,
            path: self.path,
            log,
        })
    }
}

impl Bundle {
    /// The container's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the shim's `start` wrote into `address`.
    ///
    /// # Errors
    ///
    /// When it wrote none.
    pub fn address(&self) -> Result<String> {
        std::fs::read_to_string(self.path.join("address")).context("read the bundle's address file")
    }

    /// Stops holding the `log` fifo: from now on the shim writes to nobody.
    pub fn abandon_log(&mut self) {
        self.log = None;
    }

    /// What the shim has logged since this was asked last.
    ///
    /// # Errors
    ///
    /// When nobody holds its `log` fifo any more.
    pub fn logged(&self) -> Result<String> {
        let mut log = self.log.as_ref().context("the log fifo is not held")?;
        rustix::io::ioctl_fionbio(log, true).context("read what is there")?;
        let mut text = Vec::new();
        match log.read_to_end(&mut text) {
            // The end of what is there; what came before it was read.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            read => drop(read.context("read the log fifo")?),
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What is mounted in it.
    #[must_use]
    pub fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points
            .filter(|point| Path::new(point).starts_with(&self.path))
            .map(str::to_owned)
            .collect()
    }
}
