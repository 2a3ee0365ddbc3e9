//! Who the container's thread is: the user and groups of `process.user`, its umask, and of the
//! capabilities that the spec lists those that a guest can make use of.
//!
//! Linux has all of this per thread (the C library's `setuid` changes every thread, which is why it is
//! not used). Host functions act for the guest on this thread and its children, so the kernel decides
//! what files the guest may touch and who owns what it makes.

use std::io;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capability_is_in_bounding_set,
    remove_capability_from_bounding_set,
};
use wasi_bundles::User;

use crate::Error;

/// Capabilities about files and ports. No WASI call needs any other.
const USEFUL: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// What a spec without a umask gets, whatever containerd's is (runc's `finalizeRootfs`).
const UMASK: u32 = 0o022;
/// Makes the calling thread, which is about to start a Linux program of the container's, wholly `user`,
/// with no more capabilities than a guest: a program of uid 0 has what the bounding set leaves it.
///
/// # Errors
///
/// What the kernel refused.
pub fn assume_for_a_program<'a>(
    user: &User,
    capabilities: impl Iterator<Item = &'a str>,
) -> io::Result<()> {
    let kept = useful(capabilities);
    for capability in CapabilitySet::all().iter() {
        // The running kernel may know fewer.
        if !kept.contains(capability) && capability_is_in_bounding_set(capability).unwrap_or(false)
        {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|&gid| Gid::from_raw(gid))
        .collect();
    rustix::thread::set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Of the capabilities with these names those that a guest can make use of.
fn useful<'a>(names: impl Iterator<Item = &'a str>) -> CapabilitySet {
    let named: CapabilitySet = names
        .filter_map(|name| CapabilitySet::from_name(name.trim_start_matches("CAP_")))
        .collect();
    named & USEFUL
}

/// Makes the calling thread act for `user`. `capabilities` are the names of the spec's effective
/// set, such as `CAP_CHOWN`; a user other than root has none, as after a `setuid`.
///
/// # Errors
///
/// [`Error::Host`] names what the kernel refused.
pub fn assume<'a>(user: &User, capabilities: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let umask = user.umask.unwrap_or(UMASK) & 0o777;
    rustix::process::umask(Mode::from_raw_mode(umask));
    let kept = useful(capabilities);
    let groups: Vec<Gid> = user
        .additional_gids
        .iter()
        .map(|&gid| Gid::from_raw(gid))
        .collect();
    rustix::thread::set_thread_groups(&groups)
        .map_err(Error::host("set the container's additional groups"))?;
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .map_err(Error::host(format!("become group {}", user.gid)))?;
    let uid = Uid::from_raw(user.uid);
    // Only the effective one, which files and sockets go by. A process of the real or saved one could
    // signal the thread, and with it the whole shim, and its limit of processes would count our threads.
    rustix::thread::set_thread_res_uid(Uid::ROOT, uid, Uid::ROOT)
        .map_err(Error::host(format!("become user {}", user.uid)))?;
    let kept = if uid.is_root() {
        kept
    } else {
        CapabilitySet::empty()
    };
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(Error::host("drop capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(Error::host("set no_new_privs"))
}

/// Has a thread act for `user`, as [`assume`] says, and do `work`. The calling one stays who it is.
///
/// # Errors
///
/// Those of [`assume`]; [`Error::Host`] if there can be no thread.
pub fn acting<'a, T: Send>(
    user: &User,
    capabilities: impl Iterator<Item = &'a str> + Send,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("wasi-user".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            // The umask is not to be the other's, too.
            unshare(CloneFlags::CLONE_FS).map_err(Error::host("have a umask of its own"))?;
            assume(user, capabilities)?;
            Ok(work())
        });
        let thread = thread.map_err(Error::host("make a thread that acts for the user"))?;
        thread.join().unwrap_or(Err(Error::Panicked))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
    use std::path::Path;

    use super::*;

    /// Becomes `user` on a thread with a umask of its own, and does something.
    fn as_user<T: Send>(user: &User, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
                rustix::process::umask(Mode::from_raw_mode(0o777));
                assume(user, std::iter::empty()).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }

    fn user(umask: Option<u32>) -> User {
        User {
            uid: 1234,
            gid: 5678,
            additional_gids: vec![42],
            umask,
        }
    }

    fn shared_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        folder
    }

    fn make(path: &Path) {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).mode(0o666).open(path);
        drop(file.unwrap());
    }

    #[test]
    fn the_users_umask_counts_and_no_other() {
        for (umask, mode) in [(None, 0o644), (Some(0o027), 0o640), (Some(0), 0o666)] {
            let folder = shared_folder();
            let file = folder.path().join("file");
            as_user(&user(umask), || make(&file));
            let made = fs::metadata(file).unwrap();
            assert_eq!(made.mode() & 0o7777, mode, "{umask:?}");
            assert_eq!((made.uid(), made.gid()), (1234, 5678));
        }
    }

    #[test]
    fn additional_groups_open_what_is_theirs() {
        let folder = shared_folder();
        for (name, group) in [("ours", 42), ("theirs", 43)] {
            let file = folder.path().join(name);
            fs::write(&file, "text").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            chown(&file, Some(0), Some(group)).unwrap();
        }
        let read = |name: &str| {
            let path = folder.path().join(name);
            as_user(&user(None), || fs::read_to_string(path).ok())
        };
        assert_eq!(read("ours").as_deref(), Some("text"));
        assert_eq!(read("theirs"), None);
    }

    #[test]
    fn who_has_another_act_for_a_user_stays_who_it_is() {
        let folder = shared_folder();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let read = || fs::read_to_string(&file).map_err(|error| error.kind());
        let user = user(None);
        let acting = |work| acting(&user, ["CAP_DAC_OVERRIDE"].into_iter(), work).unwrap();
        // The capability is root's only.
        assert_eq!(acting(&read), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(read().unwrap(), "text");
        chown(&file, Some(1234), None).unwrap();
        assert_eq!(acting(&read).unwrap(), "text");
    }
}
