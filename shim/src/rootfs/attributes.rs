//! Attributes of a mount, or of a whole tree of mounts at once: `mount_setattr(2)`, which rustix does
//! not have.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};

/// What to change. Every mount it is applied to becomes private as well: nothing that the host mounts
/// later gets below it, where no attribute was set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    set: MountAttrFlags,
    clear: MountAttrFlags,
}

impl Change {
    pub(super) const PRIVATE: Self = Self {
        set: MountAttrFlags::empty(),
        clear: MountAttrFlags::empty(),
    };
    pub(super) const READONLY: Self = Self {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..Self::PRIVATE
    };
    /// Device files cannot be opened, set-user-id bits do not count.
    pub(super) const NO_DEVICES: Self = Self {
        set: MountAttrFlags::MOUNT_ATTR_NODEV.union(MountAttrFlags::MOUNT_ATTR_NOSUID),
        ..Self::PRIVATE
    };
    pub(super) const DEVICES: Self = Self {
        clear: MountAttrFlags::MOUNT_ATTR_NODEV,
        ..Self::PRIVATE
    };
    /// Nothing but to be looked at.
    pub(super) const INERT: Self = Self {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY
            .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
            .union(MountAttrFlags::MOUNT_ATTR_NODEV)
            .union(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        ..Self::PRIVATE
    };

    /// Changes the one mount whose root is open as `mount`.
    pub(super) fn apply(self, mount: impl AsFd) -> rustix::io::Result<()> {
        self.set_attributes(mount, 0)
    }

    /// Changes it and everything mounted below, all or nothing.
    pub(super) fn apply_recursively(self, mount: impl AsFd) -> rustix::io::Result<()> {
        self.set_attributes(mount, libc::AT_RECURSIVE)
    }

    #[allow(unsafe_code, reason = "rustix has no mount_setattr")]
    fn set_attributes(self, mount: impl AsFd, flags: libc::c_int) -> rustix::io::Result<()> {
        let attributes = libc::mount_attr {
            attr_set: self.set.bits().into(),
            attr_clr: self.clear.bits().into(),
            propagation: libc::MS_PRIVATE,
            userns_fd: 0,
        };
        // SAFETY: the kernel reads a C string and a `struct mount_attr` whose size it is told, and both
        // live until the call returns; it writes nothing. The descriptor is borrowed for as long.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_fd().as_raw_fd(),
                c"".as_ptr(),
                flags | libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        Err(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::INVAL))
    }
}

/// Makes a copy of a mount and changes its attributes, as every container's start does.
pub(crate) fn probe() -> rustix::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = rustix::mount::open_tree(CWD, c"/", flags)?;
    Change::READONLY.apply(copy)
}
