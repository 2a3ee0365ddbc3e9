//! How the facts of a node are found: by doing what a container's start does, where that is possible.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::CloneFlags;
use rustix::fs::{StatVfsMountFlags, statfs, statvfs};

use super::findings::{Facts, Store};
use super::request::Request;
use crate::install::{BINARIES, table};
use crate::programs::{CacheOptions, Programs};
use crate::rootfs;
use crate::stats::CgroupVersion;

/// What names a file system to statfs(2) (linux/magic.h).
const KINDS: [(i64, &str); 8] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x794c_7630, "overlay"),
    (TMPFS, "tmpfs"),
    (RAMFS, "ramfs"),
    (0x6969, "nfs"),
    (0x2fc1_2fc1, "zfs"),
];
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

impl Facts {
    /// Looks at this node. The cache's folder is made if it is not there, as the first container would.
    pub(super) fn of(request: &Request) -> Self {
        Self {
            is_root: rustix::process::geteuid().is_root(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            mounts: rootfs::probe().map_err(|error| error.to_string()),
            namespaces: namespaces(),
            seccomp: seccomp(),
            compiler: compiler(),
            cache: cache(),
            socket: UnixStream::connect(&request.address)
                .map(|_| request.address.display().to_string())
                .map_err(|error| format!("{}: {error}", request.address.display())),
            version: run(&["--version"]),
            table: configuration(&request.config).and_then(|text| {
                table::has(&text, &request.runtime_name).map_err(|error| error.to_string())
            }),
            shim: on_path(BINARIES[0]).map(|path| path.display().to_string()),
            no_runc: ["containerd-shim-runc-v2", "runc"]
                .into_iter()
                .filter(|name| on_path(name).is_none())
                .collect(),
            cgroups: CgroupVersion::of_host(),
        }
    }
}

/// In a thread, which takes what it made with it.
fn namespaces() -> Result<(), String> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    std::thread::spawn(move || nix::sched::unshare(flags))
        .join()
        .map_err(|_| "the thread that tried panicked".to_owned())?
        .map_err(|error| format!("unshare: {error}"))
}

fn seccomp() -> Result<(), String> {
    let path = "/proc/sys/kernel/seccomp/actions_avail";
    let actions = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    if actions.split_whitespace().any(|action| action == "errno") {
        Ok(())
    } else {
        Err(format!("{path} has no errno"))
    }
}

fn compiler() -> Result<String, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = own.with_file_name(BINARIES[1]);
    if is_program(&path) {
        Ok(path.display().to_string())
    } else {
        Err(format!("{} is no program", path.display()))
    }
}

fn cache() -> Result<Store, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let options = CacheOptions::from_environment().map_err(|error| error.text())?;
    let folder = options.folder.clone();
    let programs = Programs::new(&own, options);
    programs.engine_and_cache().map_err(|error| error.text())?;
    let about = |error| format!("{}: {error}", folder.display());
    let kind = statfs(&folder).map_err(about)?.f_type;
    let flags = statvfs(&folder).map_err(about)?.f_flag;
    let name = KINDS.iter().find(|(magic, _)| *magic == kind);
    Ok(Store {
        folder: folder.display().to_string(),
        kind: name.map_or_else(
            || format!("a file system {kind:#x}"),
            |(_, name)| (*name).to_owned(),
        ),
        is_noexec: flags.contains(StatVfsMountFlags::NOEXEC),
        is_memory: [TMPFS, RAMFS].contains(&kind),
    })
}

/// containerd's own view, which has imported files and defaults; without its program, the file.
fn configuration(path: &Path) -> Result<String, String> {
    let name = path.display().to_string();
    if on_path("containerd").is_some() && path.exists() {
        return run(&["--config", &name, "config", "dump"]);
    }
    fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))
}

fn run(words: &[&str]) -> Result<String, String> {
    let output = Command::new("containerd")
        .args(words)
        .output()
        .map_err(|error| format!("cannot run containerd: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let words = words.join(" ");
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("containerd {words} failed: {}", said.trim()))
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
