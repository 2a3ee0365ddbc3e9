//! What a guest must not see, under something empty that nobody can write to.
//!
//! Kernel interfaces of *processes* are covered under whatever name they came: a guest has no process,
//! and `/proc/self` would be the shim, with its memory in `/proc/self/mem`. So are cgroups, whose files
//! control the shim. Which mounts these are the kernel says: the list of mounts where they are, the
//! opened place what is there on top.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, FsWord, Mode, PROC_SUPER_MAGIC};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::attributes::Change;
use super::mount_error;
use super::tree::{Tree, descriptor_path};
use crate::Error;

/// What the interfaces are known by once opened; `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` are
/// from linux/magic.h.
const MAGIC: [FsWord; 3] = [PROC_SUPER_MAGIC, 0x0027_e0eb, 0x6367_7270];

/// Covers what is open as `target` with an empty directory, or if it is none, with an empty file.
/// `root` is where the tree is mounted.
pub(super) fn cover(root: &Path, target: &OwnedFd) -> Result<(), Error> {
    let path = descriptor_path(target);
    let is_directory = rustix::fs::fstat(target)
        .map(|stat| FileType::from_raw_mode(stat.st_mode).is_dir())
        .map_err(mount_error("an empty directory", &path))?;
    if is_directory {
        cover_directory(&path)
    } else {
        cover_file(root, target).map_err(mount_error("an empty file", &path))
    }
}

/// Covers the directory `target`.
pub(super) fn cover_directory(target: &Path) -> Result<(), Error> {
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

fn cover_file(root: &Path, target: &OwnedFd) -> rustix::io::Result<()> {
    // A file can be covered by a file of a mount only; this one is in the way for no longer than it
    // takes to get hold of its file.
    let options = Some(c"size=4k,nr_inodes=2,mode=555");
    rustix::mount::mount("tmpfs", root, "tmpfs", MountFlags::empty(), options)?;
    let file = empty_file(root);
    rustix::mount::unmount(root, UnmountFlags::DETACH)?;
    let file = file?;
    Change::INERT.apply(&file)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&file, c"", target, c"", both)
}

fn empty_file(directory: &Path) -> rustix::io::Result<OwnedFd> {
    let path = directory.join("empty");
    let mode = Mode::from_raw_mode(0o444);
    rustix::fs::mknodat(CWD, &path, FileType::RegularFile, mode, 0)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, &path, flags)
}

/// Covers every mount of procfs or a cgroup file system in `tree`, which is mounted at `root`.
pub(super) fn cover_process_interfaces(root: &Path, tree: &Tree) -> Result<(), Error> {
    for point in process_interfaces(root)? {
        // One below another is gone with it, and so is one that something else was mounted over.
        if let Some(found) = tree.find(&point)?
            && shows_processes(&found, &point)?
        {
            cover(root, &found)?;
        }
    }
    Ok(())
}

/// Refuses a tree, which is mounted at `root`, that has such a mount uncovered.
pub(super) fn require_covered(root: &Path, tree: &Tree) -> Result<(), Error> {
    for point in process_interfaces(root)? {
        if let Some(found) = tree.find(&point)?
            && shows_processes(&found, &point)?
        {
            return Err(mount_error("an empty directory", &point)(
                std::io::Error::other("procfs or a cgroup file system is still there"),
            ));
        }
    }
    Ok(())
}

/// Whether what is open belongs to procfs or a cgroup file system.
fn shows_processes(found: &OwnedFd, point: &Path) -> Result<bool, Error> {
    let status =
        rustix::fs::fstatfs(found).map_err(Error::host(format!("examine {}", point.display())))?;
    Ok(MAGIC.contains(&status.f_type))
}

fn process_interfaces(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let table = std::fs::read("/proc/thread-self/mountinfo")
        .map_err(Error::host("read /proc/thread-self/mountinfo"))?;
    Ok(points(root, &table))
}

/// The mount points of procfs and cgroups in a mountinfo, as paths in the tree at `root`.
fn points(root: &Path, mountinfo: &[u8]) -> Vec<PathBuf> {
    let point = |line: &[u8]| {
        // proc(5): ... (5) mount point ... - (9) type (10) source (11) options
        let mut fields = line.split(|&byte| byte == b' ');
        let point = unescape(fields.nth(4)?);
        let fstype = fields.skip_while(|&field| field != b"-").nth(1)?;
        let below = point.strip_prefix(root).ok()?;
        matches!(fstype, b"proc" | b"cgroup" | b"cgroup2").then(|| Path::new("/").join(below))
    };
    let lines = mountinfo.split(|&byte| byte == b'\n');
    lines.filter_map(point).collect()
}

/// Undoes the escapes of mountinfo: three octal digits after a backslash, for space, tab, newline and
/// backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        rest = match rest {
            [
                b'\\',
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ] => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_below_the_root_only() {
        let table = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
90 80 0:21 / /run/b/rootfs/host\\040proc rw,relatime shared:3 master:1 - proc proc rw
91 80 0:21 /uptime /run/b/rootfs/uptime ro - proc proc rw
92 80 0:38 / /run/b/rootfs/sys/fs/cgroup rw - cgroup2 cgroup2 rw
93 80 0:39 / /run/b/rootfs/tmp rw - tmpfs proc rw
95 80 0:21 / /run/b/rootfs/\xff\\134040 rw - proc proc rw
94 80 0:21 / /run/b/rootfs2 rw - proc proc rw
";
        let expected: [&[u8]; 4] = [b"/host proc", b"/uptime", b"/sys/fs/cgroup", b"/\xff\\040"];
        let expected = expected.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
        assert_eq!(points(Path::new("/run/b/rootfs"), table), expected);
    }
}
