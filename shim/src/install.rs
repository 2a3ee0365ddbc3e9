//! `install` and `uninstall`: put the shim on a node of Kubernetes, and take it away again.
//!
//! The node's root may be mounted somewhere (`--root /host`, in a pod); the command then reads its own
//! binaries and moves into that root, so that the node's symbolic links and its `systemctl` mean what they
//! mean there. A file is replaced by a finished one, never written in place; the configuration as it was is kept beside it
//! until `uninstall`, which puts it back if nobody has changed the file since, and takes out only the
//! runtime's table if somebody has.

mod request;
pub(crate) mod table;

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

pub use self::request::Action;
use self::request::{HELP, Request};
use self::table::Runtime;

/// The shim and its compiler, which it looks for beside itself.
pub(crate) const BINARIES: [&str; 2] = ["containerd-shim-wasi-v1", "containerd-shim-wasi-compile"];
/// The name under which k3s looks for a shim.
const ALIAS: &str = "containerd-shim-wasmtime-v1";
/// What the configuration was before, beside it. No `.toml` at its end: `imports` may have a pattern.
const BACKUP: &str = "before-wasi";
/// Where a service manager's PATH leads to.
const ON_PATH: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// Does what `words`, those after `install` or `uninstall`, ask for.
///
/// # Errors
///
/// What could not be done, on which file, and why.
pub fn main(action: Action, words: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    let Some(request) = Request::parse(action, words)? else {
        return say(HELP).map(|()| ExitCode::SUCCESS);
    };
    let binaries = match action {
        Action::Install => own_binaries()?,
        Action::Uninstall => Vec::new(),
    };
    enter(&request.root)?;
    match action {
        Action::Install => request.install(&binaries),
        Action::Uninstall => request.uninstall(),
    }
    .map(|()| ExitCode::SUCCESS)
}

impl Request {
    fn install(&self, binaries: &[(&str, Vec<u8>)]) -> Result<(), String> {
        // What the configuration says is known before anything is changed.
        let change = if self.k3s {
            None
        } else {
            Some(self.addition()?)
        };
        let folder = self.prefix.join("bin");
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        for (name, bytes) in binaries {
            let path = folder.join(name);
            if fs::read(&path).is_ok_and(|there| there == *bytes) {
                say(&format!("{} is there already\n", path.display()))?;
            } else {
                replace(&path, bytes, 0o755)?;
                say(&format!("{} is written\n", path.display()))?;
            }
        }
        let Some((before, after)) = change else {
            return self.alias(&folder);
        };
        if before.as_deref() == Some(after.as_str()) {
            say(&format!(
                "{} has the runtime {} already\n",
                self.config.display(),
                self.runtime_name
            ))?;
            return Ok(());
        }
        if let Some(before) = &before
            && !table::has(before, &self.runtime_name).unwrap_or(false)
        {
            replace(&self.backup(), before.as_bytes(), mode(&self.config))?;
        }
        self.configure(&after)?;
        if table::disables_cri(&after) {
            say(&format!(
                "{} turns the CRI plugin off (disabled_plugins); Kubernetes needs it\n",
                self.config.display()
            ))?;
        }
        self.restarted()
    }

    fn uninstall(&self) -> Result<(), String> {
        let mut changed = false;
        if !self.k3s {
            changed = self.unconfigure()?;
        }
        if changed {
            // Before the binaries go: until then containerd may call them.
            self.restarted()?;
        }
        let folder = self.prefix.join("bin");
        let alias = folder.join(ALIAS);
        let is_ours = fs::read_link(&alias).is_ok_and(|target| target == Path::new(BINARIES[0]));
        let unlinked = is_ours && remove(&alias)?;
        for name in BINARIES {
            remove(&folder.join(name))?;
        }
        if self.k3s && unlinked {
            self.restarted()?;
        }
        Ok(())
    }

    /// The configuration before and after.
    fn addition(&self) -> Result<(Option<String>, String), String> {
        let before = self.read_config()?;
        let after = self
            .runtime()
            .add(before.as_deref())
            .map_err(|error| format!("{}: {error}", self.config.display()))?;
        Ok((before, after))
    }

    /// Takes the runtime out of the configuration; whether it was there.
    fn unconfigure(&self) -> Result<bool, String> {
        let Some(current) = self.read_config()? else {
            return Ok(false);
        };
        let about = |error| format!("{}: {error}", self.config.display());
        let runtime = self.runtime();
        let without = runtime.remove(&current).map_err(about)?;
        if without == current {
            return Ok(false);
        }
        let makes = |before: Option<&str>| runtime.add(before).is_ok_and(|own| own == current);
        let backup = self.backup();
        let before = fs::read_to_string(&backup).ok();
        match before.filter(|before| makes(Some(before))) {
            Some(before) => self.configure(&before)?,
            None if makes(None) => drop(remove(&self.config)?),
            None => self.configure(&without)?,
        }
        remove(&backup)?;
        Ok(true)
    }

    fn read_config(&self) -> Result<Option<String>, String> {
        match fs::read_to_string(&self.config) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &self.config)(error)),
        }
    }

    fn configure(&self, text: &str) -> Result<(), String> {
        if let Some(folder) = self.config.parent() {
            fs::create_dir_all(folder).map_err(failed("create", folder))?;
        }
        replace(&self.config, text.as_bytes(), mode(&self.config))?;
        say(&format!("{} is written\n", self.config.display()))
    }

    fn alias(&self, folder: &Path) -> Result<(), String> {
        let alias = folder.join(ALIAS);
        match fs::read_link(&alias) {
            Ok(target) if target == Path::new(BINARIES[0]) => {
                return say(&format!("{} is there already\n", alias.display()));
            }
            // Not ours to replace: another shim of that name, or a link to one.
            _ if alias.symlink_metadata().is_ok() => {
                return Err(format!(
                    "{} is another program; remove it first if k3s shall run this one",
                    alias.display()
                ));
            }
            _ => symlink(BINARIES[0], &alias).map_err(failed("create", &alias))?,
        }
        say(&format!("{} is written\n", alias.display()))?;
        self.restarted()
    }

    /// Restarts the service, or says who has to be.
    fn restarted(&self) -> Result<(), String> {
        if !self.restart {
            return say(&format!(
                "{} reads this when it is restarted: systemctl restart {}\n",
                self.service, self.service
            ));
        }
        // In a pod the root is the node's, and the systemd that is asked is the node's: no reason to ignore it.
        let status = Command::new("systemctl")
            .args(["restart", &self.service])
            .env("SYSTEMD_IGNORE_CHROOT", "1")
            .status()
            .map_err(|error| {
                format!(
                    "cannot run systemctl: {error}; restart {} by hand",
                    self.service
                )
            })?;
        if status.success() {
            say(&format!("{} is restarted\n", self.service))
        } else {
            Err(format!(
                "systemctl restart {} failed ({status}); `systemctl status {}` says why",
                self.service, self.service
            ))
        }
    }

    fn runtime(&self) -> Runtime {
        let folder = self.prefix.join("bin");
        let on_path = ON_PATH.iter().any(|path| folder == Path::new(path));
        let path = folder.join(BINARIES[0]).display().to_string();
        Runtime {
            name: self.runtime_name.clone(),
            path: (!on_path).then_some(path),
        }
    }

    fn backup(&self) -> PathBuf {
        let mut name = self.config.clone().into_os_string();
        name.push(".");
        name.push(BACKUP);
        name.into()
    }
}

/// The two programs of this release.
fn own_binaries() -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let own =
        std::env::current_exe().map_err(|error| format!("cannot find its own program: {error}"))?;
    let [shim, compiler] = BINARIES;
    let read = |path: &Path| fs::read(path).map_err(failed("read", path));
    Ok(vec![
        (shim, read(&own)?),
        (compiler, read(&own.with_file_name(compiler))?),
    ])
}

/// Makes `root` the root of this process.
fn enter(root: &Path) -> Result<(), String> {
    if root == Path::new("/") {
        return Ok(());
    }
    std::os::unix::fs::chroot(root).map_err(failed("make it the root:", root))?;
    std::env::set_current_dir("/").map_err(failed("enter", root))
}

/// Puts a finished file in place of what is there.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    // The file that a link names, so that the link stays.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".containerd-shim-wasi-")
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        let file_of = file.as_file();
        file_of.set_permissions(Permissions::from_mode(mode))?;
        file_of.sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The name, too, shall survive a node that loses power.
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(failed("write", path))
}

/// Removes a file; whether it was there.
fn remove(path: &Path) -> Result<bool, String> {
    match fs::remove_file(path) {
        Ok(()) => say(&format!("{} is removed\n", path.display())).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// The permissions of a file, or what a configuration has.
fn mode(path: &Path) -> u32 {
    path.metadata()
        .map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777)
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    let about = format!("cannot {what} {}", path.display());
    move |error| format!("{about}: {error}")
}

fn say(text: &str) -> Result<(), String> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot say what was done: {error}"))
}
