//! Who the container's thread is: the user and groups of `process.user`, its umask, and of the
//! capabilities that the spec lists those that a guest can make use of.
//!
//! Linux has all of this per thread (the C library's `setuid` changes every thread, which is why it is
//! not used). Host functions act for the guest on this thread and its children, so the kernel decides
//! what files the guest may touch and who owns what it makes.

use std::io;

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
    if let Some(umask) = user.umask {
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    }
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
