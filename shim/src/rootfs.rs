//! A container's file tree: its root file system and every OCI mount, in the mount namespace of the
//! container's thread, where no mount shows on the host and none survives the thread.
//!
//! What the guest gets is not a path in that namespace but a detached copy of the whole tree, held by
//! a descriptor: it lives as long as the descriptor, with every mount in place, whoever goes first. The
//! thread itself then makes the tree its root, so that `/proc/<pid>/root` tells the truth and names are
//! resolved through the container's own `/etc/resolv.conf`. Being a copy, it sees nothing of what the
//! host mounts later: every mount is private, whatever propagation was asked for.
//!
//! Destinations are resolved with the container's root as the root of everything (`rootfs/tree.rs`).
//!
//! No device file can be opened, whether an image brought it or a volume: there is no device cgroup to
//! stop a guest, which may well be root. Exempt are the default devices, made here, and a device file
//! that is bind-mounted by name; a bind of a folder with devices, or of all of `/dev`, is not.
//!
//! procfs and cgroups are covered, masked paths too (`rootfs/cover.rs`).

mod attributes;
mod cover;
mod overlay;
mod preopens;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use wasi_bundles::{Mount, MountKind, Plan};

use self::attributes::Change;
pub(crate) use self::attributes::probe;
use self::tree::{Place, Tree, descriptor_path};
use crate::Error;

/// The device files that every container has (OCI config-linux.md, "Default Devices"), except the
/// terminals `tty`, `console` and `ptmx`: a guest has none but its stdio.
const DEVICES: [(&str, u32, u32); 5] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
];

/// A mounted file tree.
#[derive(Debug)]
pub struct Rootfs {
    path: PathBuf,
    tree: Tree,
}

impl Rootfs {
    /// Mounts `layers`, containerd's mounts for the root file system, then the mounts of `plan`.
    ///
    /// The calling thread must be in a mount namespace of its own, with the host's `/proc` in it, and
    /// share its working directory with no other (`CLONE_FS`).
    ///
    /// `mounted` is called with the tree in between: what it mounts there is the container's, too.
    ///
    /// # Errors
    ///
    /// [`Error::MountSource`], [`Error::Mount`] or [`Error::Host`], and those of `mounted`. What was mounted until then goes
    /// with the thread.
    pub fn mount(
        plan: &Plan,
        layers: &[Mount],
        mounted: impl FnOnce(BorrowedFd<'_>) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let given = &plan.rootfs().path;
        if !layers.is_empty() {
            // A place for them. Without any it is somebody else's, who has made it.
            std::fs::create_dir_all(given)
                .map_err(Error::host(format!("make the rootfs {}", given.display())))?;
        }
        let path = directory(given)?;
        for layer in layers {
            mount_layer(layer, given, &path)?;
        }
        // Somebody else may have mounted it (Docker) or nobody (a plain directory): only a mount point
        // can become a root. Recursive, for what is mounted below.
        rustix::mount::mount_bind_recursive(&path, &path)
            .map_err(mount_error("the rootfs", &path))?;
        let tree = Tree::at(&path)?;
        Change::PRIVATE
            .apply_recursively(&tree.0)
            .map_err(mount_error("the rootfs as a private mount", &path))?;

        let mut with_devices = Vec::new();
        for mount in plan.mounts() {
            with_devices.extend(apply(mount, &tree)?);
        }
        tree.ensure(Path::new(&plan.process().cwd), Place::Directory)?;
        Change::NO_DEVICES
            .apply_recursively(&tree.0)
            .map_err(mount_error("the rootfs without devices", &path))?;
        for mounted in with_devices {
            Change::DEVICES
                .apply(&mounted)
                .map_err(mount_error("the devices", &path))?;
        }
        cover::cover_process_interfaces(&path, &tree)?;
        for masked in plan.masked_paths() {
            if let Some(target) = tree.find(masked)? {
                cover::cover(&path, &target)?;
            }
        }
        for readonly in plan.readonly_paths() {
            protect(&tree, readonly)?;
        }
        mounted(tree.0.as_fd())?;
        if plan.rootfs().readonly {
            Change::READONLY
                .apply(&tree.0)
                .map_err(mount_error("the rootfs read-only", &path))?;
        }
        let copy = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, &path, copy)
            .map(Tree)
            .map_err(mount_error("a copy of the rootfs", &path))?;
        cover::require_covered(&path, &tree)?;
        Ok(Self { path, tree })
    }

    /// The root directory, with everything below it.
    #[must_use]
    pub fn tree(&self) -> &OwnedFd {
        &self.tree.0
    }

    /// The same, to keep.
    #[must_use]
    pub fn into_tree(self) -> OwnedFd {
        self.tree.0
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
}

/// The root file system's directory. The kernel's list of mounts has no symlinks in it: `/var/run` would
/// be one.
fn directory(given: &Path) -> Result<PathBuf, Error> {
    let unusable = |reason: String| Error::Rootfs {
        path: given.to_owned(),
        reason,
    };
    let path = given
        .canonicalize()
        .map_err(|error| unusable(error.to_string()))?;
    if path == Path::new("/") {
        return Err(unusable("it is the host's own".to_owned()));
    }
    if !path.is_dir() {
        return Err(unusable("it is no directory".to_owned()));
    }
    Ok(path)
}

/// Mounts one of containerd's mounts for the root file system, which it knows as `given`, at `root` or
/// below.
fn mount_layer(layer: &Mount, given: &Path, root: &Path) -> Result<(), Error> {
    let below = layer.destination.strip_prefix(given).map_err(|_| {
        let outside = io::Error::other("it is not in the rootfs");
        mount_error(describe(layer), &layer.destination)(outside)
    })?;
    let tree = Tree::at(root)?;
    if below.as_os_str().is_empty() {
        put(layer, &tree.0, || Ok(Tree::at(root)?.0))?;
    } else {
        put_below(layer, &tree, &Path::new("/").join(below))?;
    }
    Ok(())
}

/// Carries out one mount of the spec. Gives it back if devices may be opened there.
fn apply(mount: &Mount, tree: &Tree) -> Result<Option<OwnedFd>, Error> {
    let destination = &mount.destination;
    let mounted = put_below(mount, tree, destination)?;
    match &mount.kind {
        MountKind::Filesystem { fstype, .. }
            if fstype == "tmpfs" && destination == Path::new("/dev") =>
        {
            make_devices(&mounted).map_err(mount_error("the default devices", destination))?;
            Ok(Some(mounted))
        }
        MountKind::Bind { .. } => {
            let kind = rustix::fs::fstat(&mounted)
                .map(|stat| FileType::from_raw_mode(stat.st_mode))
                .map_err(mount_error(describe(mount), destination))?;
            let is_device = kind.is_char_device() || kind.is_block_device();
            Ok(is_device.then_some(mounted))
        }
        MountKind::Filesystem { .. } | MountKind::Procfs => Ok(None),
    }
}

/// Mounts at `place`, which is made if it is missing.
fn put_below(mount: &Mount, tree: &Tree, place: &Path) -> Result<OwnedFd, Error> {
    let is_directory = match &mount.kind {
        MountKind::Filesystem { .. } | MountKind::Procfs => true,
        MountKind::Bind { source, .. } => metadata(source, mount)?.is_dir(),
    };
    let kind = if is_directory {
        Place::Directory
    } else {
        Place::File
    };
    let target = tree.ensure(place, kind)?;
    put(mount, &target, || tree.open(place))
}

/// Mounts on `target`, with everything that takes a second step; `open` opens what is there on top.
fn put(
    mount: &Mount,
    target: &OwnedFd,
    open: impl FnOnce() -> Result<OwnedFd, Error>,
) -> Result<OwnedFd, Error> {
    let failed = || mount_error(describe(mount), &mount.destination);
    let flags = &mount.flags;
    mount_on(mount, &descriptor_path(target))?;
    let mounted = open()?;
    if let MountKind::Bind { .. } = mount.kind
        && !(flags.set | flags.clear).is_empty()
    {
        // A bind takes its flags in a second step (mount(2)).
        remount(&descriptor_path(&mounted), flags.set, flags.clear).map_err(failed())?;
    }
    let change = if flags.recursive_readonly {
        Change::READONLY
    } else {
        Change::PRIVATE
    };
    change.apply_recursively(&mounted).map_err(failed())?;
    Ok(mounted)
}

/// Mounts at a path of the thread's own view.
fn mount_on(mount: &Mount, target: &Path) -> Result<(), Error> {
    let result = match &mount.kind {
        MountKind::Procfs => return cover::cover_directory(target),
        MountKind::Filesystem { fstype, .. } if matches!(fstype.as_str(), "cgroup" | "cgroup2") => {
            return cover::cover_directory(target);
        }
        MountKind::Filesystem {
            fstype,
            source,
            data,
        } => mount_filesystem(fstype, source, data, mount.flags.set, target),
        MountKind::Bind {
            source,
            recursive: true,
        } => rustix::mount::mount_bind_recursive(source, target).map_err(io::Error::from),
        MountKind::Bind {
            source,
            recursive: false,
        } => rustix::mount::mount_bind(source, target).map_err(io::Error::from),
    };
    result.map_err(mount_error(describe(mount), &mount.destination))
}

fn mount_filesystem(
    fstype: &str,
    source: &str,
    data: &str,
    flags: MountFlags,
    target: &Path,
) -> io::Result<()> {
    let mount = |data: &str| -> io::Result<()> {
        let data = CString::new(data)?;
        let data = (!data.is_empty()).then_some(data.as_c_str());
        Ok(rustix::mount::mount(source, target, fstype, flags, data)?)
    };
    if data.len() <= overlay::LIMIT {
        return mount(data);
    }
    let too_long = || {
        let (length, limit) = (data.len(), overlay::LIMIT);
        io::Error::other(format!(
            "its options have {length} bytes, of which the kernel reads {limit}; \
             an image of fewer layers needs fewer"
        ))
    };
    let (base, short) = overlay::relative(data)
        .filter(|(_, short)| short.len() <= overlay::LIMIT)
        .ok_or_else(too_long)?;
    // The working directory is this thread's own, and nobody else's until the root is entered.
    rustix::process::chdir(&base)?;
    let mounted = mount(&short);
    rustix::process::chdir("/")?;
    mounted
}

/// Changes the flags of a mount, keeping those it has.
fn remount(path: &Path, set: MountFlags, clear: MountFlags) -> rustix::io::Result<()> {
    let has = rustix::fs::statvfs(path)?.f_flag.bits();
    // statvfs and mount(2) share the numbers of these flags (include/linux/statfs.h, mount.h).
    let kept = MountFlags::from_bits_truncate(u32::try_from(has & 0x0f).unwrap_or_default());
    rustix::mount::mount_remount(path, (kept - clear) | set | MountFlags::BIND, c"")
}

/// Makes what is at `path`, if anything, read-only with all below.
fn protect(tree: &Tree, path: &Path) -> Result<(), Error> {
    let Some(target) = tree.find(path)? else {
        return Ok(());
    };
    // Put there when it is read-only already: what is mounted on the root itself no path leads to.
    let copy = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let protect = || -> rustix::io::Result<()> {
        let copy = rustix::mount::open_tree(&target, c"", copy)?;
        Change::READONLY.apply_recursively(&copy)?;
        rustix::mount::move_mount(&copy, c"", &target, c"", both)
    };
    protect().map_err(mount_error("a read-only path", path))
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

/// What the source of a bind is.
fn metadata(source: &Path, mount: &Mount) -> Result<std::fs::Metadata, Error> {
    std::fs::metadata(source).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Error::MountSource {
                source_path: source.to_owned(),
                destination: mount.destination.clone(),
            }
        } else {
            mount_error(describe(mount), &mount.destination)(error)
        }
    })
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
