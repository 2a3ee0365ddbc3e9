//! A thread's own namespaces.
//!
//! On Linux these are attributes of a thread. The container's thread leaves the host's here, before
//! anything of the container is touched; every thread it starts later is born into the same ones, and
//! the kernel frees them with the last of these, and of the [`Handles`] by which the threads of execs
//! join them. The threads that talk to containerd never enter.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use wasi_bundles::{Namespace, Plan, Sysctl};

use crate::Error;

/// Moves the calling thread into the namespaces of `plan`. It has a private copy of the host's mounts
/// then, in which nothing it does is seen outside.
///
/// # Errors
///
/// [`Error::Host`] names the namespace.
pub fn enter(plan: &Plan) -> Result<(), Error> {
    // CLONE_FS: its own root, working directory and umask; a mount namespace of one thread needs it.
    leave_host(plan, CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    // Mounts made here must not propagate to the host; unmounts of the host should get here.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(Error::host("make the container's mounts private"))?;
    furnish(plan)
}

/// Moves the calling thread into the namespaces of `plan`, and leaves it among the host's files.
///
/// # Errors
///
/// As [`enter`].
pub fn hold(plan: &Plan) -> Result<(), Error> {
    leave_host(plan, CloneFlags::empty())?;
    furnish(plan)
}

/// Joins what is to be joined, and makes what is to be made, with `new`.
fn leave_host(plan: &Plan, mut new: CloneFlags) -> Result<(), Error> {
    let namespaces = plan.namespaces();
    let kinds = [
        ("network", &namespaces.network, CloneFlags::CLONE_NEWNET),
        ("ipc", &namespaces.ipc, CloneFlags::CLONE_NEWIPC),
        ("uts", &namespaces.uts, CloneFlags::CLONE_NEWUTS),
    ];
    for (name, namespace, flag) in kinds {
        match namespace {
            Namespace::Host => {}
            Namespace::New => new |= flag,
            Namespace::Join(path) => join(path, flag).map_err(Error::host(format!(
                "join the {name} namespace {}",
                path.display()
            )))?,
        }
    }
    unshare(new).map_err(Error::host("make the container's namespaces"))
}

/// Sets up what the namespaces of the calling thread shall have in them.
fn furnish(plan: &Plan) -> Result<(), Error> {
    if plan.namespaces().network == Namespace::New {
        raise_loopback().map_err(Error::host("set up the loopback interface"))?;
    }
    if let Some(name) = plan.hostname() {
        rustix::system::sethostname(name.as_bytes())
            .map_err(Error::host(format!("set the host name {name}")))?;
    }
    if let Some(name) = plan.domainname() {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(Error::host(format!("set the domain name {name}")))?;
    }
    // What is below `/proc/sys` depends on who opens it: this thread sees its own namespaces'.
    for Sysctl { file, value } in plan.sysctls() {
        let file = Path::new("/proc/sys").join(file);
        std::fs::write(&file, value)
            .map_err(Error::host(format!("write {value} to {}", file.display())))?;
    }
    Ok(())
}

/// The namespaces of a thread, held open.
#[derive(Debug)]
pub struct Handles([(OwnedFd, CloneFlags); 4]);

impl Handles {
    /// Those of the calling thread, which must still see the host's `/proc`.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] names the namespace.
    pub fn of_this_thread() -> Result<Self, Error> {
        let open = |name: &str, flag| {
            let path = format!("/proc/thread-self/ns/{name}");
            let file = File::open(&path).map_err(Error::host(format!("open {path}")))?;
            Ok::<_, Error>((OwnedFd::from(file), flag))
        };
        Ok(Self([
            open("net", CloneFlags::CLONE_NEWNET)?,
            open("ipc", CloneFlags::CLONE_NEWIPC)?,
            open("uts", CloneFlags::CLONE_NEWUTS)?,
            open("mnt", CloneFlags::CLONE_NEWNS)?,
        ]))
    }

    /// Moves the calling thread into them. Its root and working directory are the root of the mount
    /// namespace then (setns(2)).
    ///
    /// # Errors
    ///
    /// [`Error::Host`].
    pub fn join(&self) -> Result<(), Error> {
        // Its own root, working directory and umask, without which no mount namespace can be joined.
        unshare(CloneFlags::CLONE_FS)
            .and_then(|()| {
                let Self(namespaces) = self;
                let mut namespaces = namespaces.iter();
                namespaces.try_for_each(|(handle, flag)| setns(handle.as_fd(), *flag))
            })
            .map_err(Error::host("join the container's namespaces"))
    }
}

fn join(path: &Path, flag: CloneFlags) -> io::Result<()> {
    // A FIFO in its place is refused by setns(2), and not waited for.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let namespace = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(setns(namespace, flag)?)
}

/// Sets the interface `lo` up, as runc does in a network namespace it makes: a server that listens on
/// 127.0.0.1 has to be reachable from the same pod. One rtnetlink request (rtnetlink(7)).
fn raise_loopback() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    /// The first interface of every network namespace.
    const LOOPBACK_INDEX: u32 = 1;
    const NLMSG_ERROR: u16 = 2;

    let mut request = Vec::with_capacity(32);
    request.extend(32_u32.to_ne_bytes()); // nlmsghdr: length of all
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    request.extend([0; 8]); // sequence, port
    request.extend([0; 4]); // ifinfomsg: family, padding, type
    request.extend(LOOPBACK_INDEX.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes()); // flags
    request.extend(IFF_UP.to_ne_bytes()); // which of them to change

    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    rustix::net::sendto(
        &socket,
        &request,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut reply = [0; 128];
    let (count, _) = rustix::net::recv(&socket, &mut reply[..], RecvFlags::empty())?;
    let field = |from: usize| {
        reply[..count]
            .get(from..from + 4)
            .and_then(|f| f.try_into().ok())
    };
    let kind = field(4).map(|f: [u8; 4]| u16::from_ne_bytes([f[0], f[1]]));
    match (kind, field(16).map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("unexpected answer from rtnetlink")),
    }
}
