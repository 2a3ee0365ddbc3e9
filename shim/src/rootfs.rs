//! A container's file tree: its root file system and every OCI mount, in the mount namespace of the
//! container's thread, where no mount shows on the host and none survives the thread.
//!
//! What the guest gets is not a path in that namespace but a detached copy of the whole tree, held by
//! a descriptor: it lives as long as the descriptor, with every mount in place, whoever goes first. The
//! thread itself then makes the tree its root, so that `/proc/<pid>/root` tells the truth and names are
//! resolved through the container's own `/etc/resolv.conf`.
//!
//! Destinations are resolved with the container's root as the root of everything (`RESOLVE_IN_ROOT`):
//! a symlink in an image cannot put a mount elsewhere.
//!
//! Kernel interfaces of *processes* are covered with an empty read-only directory, under whatever
//! name they came: a guest has no process, and `/proc/self` would be the shim, with its memory in
//! `/proc/self/mem`. So are cgroups, whose files control the shim.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};
use wasi_bundles::{Mount, MountKind, Plan};

use crate::Error;

/// The device files that every container has (OCI config-linux.md, "Default Devices"), except the
/// terminals.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// A mounted file tree.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    tree: OwnedFd,
}

/// What to mount on: a mount of a directory needs a directory, one of a file a file.
#[derive(Debug, Clone, Copy)]
enum Place {
    Directory,
    File,
}

impl Rootfs {
    /// Mounts `layers`, containerd's mounts for the root file system, then the mounts of `plan`.
    ///
    /// The calling thread must be in a mount namespace of its own, with the host's `/proc` in it.
    ///
    /// # Errors
    ///
    /// [`Error::MountSource`], [`Error::Mount`] or [`Error::Host`]. What was mounted until then goes
    /// with the thread.
    pub fn mount(plan: &Plan, layers: &[Mount]) -> Result<Self, Error> {
        let path = plan.rootfs().path.clone();
        std::fs::create_dir_all(&path)
            .map_err(Error::host(format!("make the rootfs {}", path.display())))?;
        for layer in layers {
            mount_at(layer, &layer.destination)?;
        }
        // Somebody else may have mounted it (Docker) or nobody (a plain directory): only a mount point
        // can become a root. Recursive, for what is mounted below.
        rustix::mount::mount_bind_recursive(&path, &path)
            .map_err(mount_error("the rootfs", &path))?;
        let mut rootfs = Self {
            tree: open_directory(&path)?,
            path,
        };
        for mount in plan.mounts() {
            rootfs.apply(mount)?;
        }
        rootfs.ensure_directory(Path::new(&plan.process().cwd))?;
        rootfs.cover_process_interfaces()?;
        if plan.rootfs().readonly {
            remount(&rootfs.path, MountFlags::RDONLY, MountFlags::empty())
                .map_err(mount_error("the rootfs read-only", &rootfs.path))?;
        }
        rootfs.tree = rustix::mount::open_tree(
            CWD,
            &rootfs.path,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::AT_RECURSIVE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )
        .map_err(mount_error("a copy of the rootfs", &rootfs.path))?;
        Ok(rootfs)
    }

    /// The root directory, with everything below it.
    #[must_use]
    pub fn tree(&self) -> &OwnedFd {
        &self.tree
    }

    /// Makes the tree the root of the calling thread, and the host's unreachable.
    ///
    /// # Errors
    ///
    /// [`Error::Host`].
    pub fn enter(&self) -> Result<(), Error> {
        let enter = || -> io::Result<()> {
            rustix::process::chdir(&self.path)?;
            // The old root lands on top of the new one and is taken off again (pivot_root(2), NOTES).
            rustix::process::pivot_root(".", ".")?;
            rustix::mount::unmount(".", UnmountFlags::DETACH)?;
            Ok(rustix::process::chdir("/")?)
        };
        enter().map_err(Error::host("enter the container's root"))
    }

    /// Carries out one mount of the spec.
    fn apply(&self, mount: &Mount) -> Result<(), Error> {
        let destination = &mount.destination;
        let is_directory = match &mount.kind {
            MountKind::Filesystem { .. } | MountKind::Procfs => true,
            MountKind::Bind { source, .. } => std::fs::metadata(source)
                .map_err(|error| {
                    if error.kind() == io::ErrorKind::NotFound {
                        Error::MountSource {
                            source_path: source.clone(),
                            destination: destination.clone(),
                        }
                    } else {
                        mount_error(describe(mount), destination)(error)
                    }
                })?
                .is_dir(),
        };
        let target = if is_directory {
            self.ensure_directory(destination)?
        } else {
            self.ensure_file(destination)?
        };
        mount_at(mount, &descriptor_path(&target))?;
        // The descriptor names the place below the mount; what is on top now is opened anew.
        let mounted = self.open(destination)?;
        let path = descriptor_path(&mounted);
        if let MountKind::Bind { .. } = mount.kind
            && !(mount.flags.set | mount.flags.clear).is_empty()
        {
            // A bind takes its flags in a second step (mount(2)).
            remount(&path, mount.flags.set, mount.flags.clear)
                .map_err(mount_error(describe(mount), destination))?;
        }
        if let Some(propagation) = mount.flags.propagation {
            rustix::mount::mount_change(&path, propagation)
                .map_err(mount_error(describe(mount), destination))?;
        }
        if destination == Path::new("/dev")
            && matches!(&mount.kind, MountKind::Filesystem { fstype, .. } if fstype == "tmpfs")
        {
            make_devices(&mounted).map_err(mount_error("the default devices", destination))?;
        }
        Ok(())
    }

    /// Covers every mount of procfs or a cgroup file system below the root, however it got there.
    fn cover_process_interfaces(&self) -> Result<(), Error> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo")
            .map_err(Error::host("read /proc/thread-self/mountinfo"))?;
        for line in table.lines() {
            // proc(5): ... (5) mount point ... - (9) type (10) source (11) options
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let fstype = right.split(' ').next().unwrap_or_default();
            let point = PathBuf::from(unescape(left.split(' ').nth(4).unwrap_or_default()));
            if matches!(fstype, "proc" | "cgroup" | "cgroup2") && point.starts_with(&self.path) {
                cover(&point)?;
            }
        }
        Ok(())
    }

    /// Opens what is at `path` in the container, without using it.
    fn open(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.openat2(path, OFlags::PATH)
            .map_err(Error::host(format!(
                "open {} in the container",
                path.display()
            )))
    }

    fn openat2(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat2(
            &self.tree,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens the directory `path`, made with its parents if it is missing, as runc does.
    fn ensure_directory(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.ensure(path, Place::Directory)
    }

    /// Opens the file `path`, made empty if it is missing: a place to mount a file.
    fn ensure_file(&self, path: &Path) -> Result<OwnedFd, Error> {
        self.ensure(path, Place::File)
    }

    /// Follows symlinks to where nothing is yet, too, and makes it there.
    fn ensure(&self, path: &Path, place: Place) -> Result<OwnedFd, Error> {
        let failed = || Error::host(format!("make {} in the container", path.display()));
        let open = || match place {
            Place::Directory => self.openat2(path, OFlags::PATH | OFlags::DIRECTORY),
            Place::File => self.openat2(path, OFlags::PATH),
        };
        match open() {
            Err(Errno::NOENT) => {}
            found => return found.map_err(failed()),
        }
        let parent = path.parent().ok_or(Errno::NOENT).map_err(failed())?;
        let directory = self.ensure_directory(parent)?;
        // Without a name it ends in `..`, whose own parent exists now.
        if let Some(name) = path.file_name() {
            match rustix::fs::readlinkat(&directory, name, []) {
                Ok(target) => {
                    let target = std::ffi::OsStr::from_bytes(target.to_bytes());
                    return self.ensure(&parent.join(target), place);
                }
                Err(_) => match place {
                    Place::Directory => {
                        rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755))
                    }
                    Place::File => {
                        let mode = Mode::from_raw_mode(0o644);
                        rustix::fs::mknodat(&directory, name, FileType::RegularFile, mode, 0)
                    }
                }
                .map_err(failed())?,
            }
        }
        open().map_err(failed())
    }
}

/// Mounts at a path of the thread's own view: the rootfs, or a descriptor's entry in `/proc`.
fn mount_at(mount: &Mount, target: &Path) -> Result<(), Error> {
    let result = match &mount.kind {
        MountKind::Procfs => return cover(target),
        MountKind::Filesystem { fstype, .. } if matches!(fstype.as_str(), "cgroup" | "cgroup2") => {
            return cover(target);
        }
        MountKind::Filesystem {
            fstype,
            source,
            data,
        } => {
            let data = CString::new(data.as_str())
                .map_err(|error| mount_error(describe(mount), target)(io::Error::from(error)))?;
            let data = (!data.is_empty()).then_some(data.as_c_str());
            rustix::mount::mount(source, target, fstype, mount.flags.set, data)
        }
        MountKind::Bind {
            source,
            recursive: true,
        } => rustix::mount::mount_bind_recursive(source, target),
        MountKind::Bind {
            source,
            recursive: false,
        } => rustix::mount::mount_bind(source, target),
    };
    result.map_err(mount_error(describe(mount), &mount.destination))
}

/// Puts an empty directory, which nobody can write to, over `target`.
fn cover(target: &Path) -> Result<(), Error> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(
        "tmpfs",
        target,
        "tmpfs",
        flags,
        Some(c"size=4k,nr_inodes=1,mode=555"),
    )
    .map_err(mount_error("an empty directory", target))
}

/// Changes the flags of a mount, keeping those it has.
fn remount(path: &Path, set: MountFlags, clear: MountFlags) -> rustix::io::Result<()> {
    let has = rustix::fs::statvfs(path)?.f_flag.bits();
    // statvfs and mount(2) share the numbers of these flags (include/linux/statfs.h, mount.h).
    let kept = MountFlags::from_bits_truncate(u32::try_from(has & 0x0f).unwrap_or_default());
    rustix::mount::mount_remount(path, (kept - clear) | set | MountFlags::BIND, c"")
}

fn make_devices(dev: &OwnedFd) -> rustix::io::Result<()> {
    for (name, major, minor) in DEVICES {
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device)?;
        // The umask of containerd has no say in it.
        rustix::fs::chmodat(dev, name, mode, rustix::fs::AtFlags::empty())?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    File::open(path)
        .map(OwnedFd::from)
        .map_err(Error::host(format!("open {}", path.display())))
}

fn descriptor_path(fd: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

fn describe(mount: &Mount) -> String {
    match &mount.kind {
        MountKind::Bind { source, .. } => source.display().to_string(),
        MountKind::Filesystem { fstype, source, .. } if fstype == source => fstype.clone(),
        MountKind::Filesystem { fstype, source, .. } => format!("{fstype} {source}"),
        MountKind::Procfs => "proc".to_owned(),
    }
}

fn mount_error<E: Into<io::Error>>(
    what: impl Into<String>,
    destination: &Path,
) -> impl FnOnce(E) -> Error {
    let (what, destination) = (what.into(), destination.to_owned());
    move |source| Error::Mount {
        what,
        destination,
        source: source.into(),
    }
}

/// Undoes the octal escapes of mountinfo: space, tab, newline, backslash.
fn unescape(field: &str) -> String {
    field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}
