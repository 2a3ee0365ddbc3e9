//! The shim's socket: one per group, named so that everybody who may look for it computes the same
//! name, and nobody else does.
//!
//! The name hashes what runc's shim hashes, with a prefix of our own: with the same name, a runc shim
//! of the same group would take ours for its own (`containerd-shim-contract` §0, trap 4). Binding,
//! finding and removing happen under an exclusive `flock` on the folder, so that two starts of one
//! group cannot both take a dead socket for theirs, and none finds a socket that is bound but does
//! not listen yet.
//!
//! A `start` that finds the group's shim marks the socket, under the same lock: it sets the time of
//! its last change. A shim that wants to go looks for a mark, under the lock: if there is a fresh one, a
//! container was promised a place in it, and it stays until that container had time to come.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};

/// `sun_path` is 108 bytes with its end; containerd itself allows 106.
const MAX_PATH: usize = 106;
/// 64 digits and the slash before them.
const NAME: usize = 65;
/// Where containerd's own shims have their sockets, unless told otherwise.
const DEFAULT_DIR: &str = "/run/containerd/s";
/// From the answer of a `start` to the Create that follows it: containerd does nothing between them.
pub const EXPECTED: Duration = Duration::from_secs(5);

/// Where a group's shim listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPath(PathBuf);

/// What looking for a group's shim found.
#[derive(Debug)]
pub enum Socket {
    /// Nobody listened; now this process does.
    Bound(UnixListener, Claim),
    /// The group's shim is there, and knows that a container will come.
    Served,
}

/// A socket's file, to whoever bound it. Dropping this removes the file: nobody finds the socket any
/// more, however this process came to give it up.
#[derive(Debug)]
pub struct Claim {
    path: SocketPath,
    /// The last mark that was looked at.
    mark: Option<SystemTime>,
}

impl Claim {
    /// Leaves the file to another process, which has inherited the claim.
    pub fn pass_on(self) {
        std::mem::forget(self);
    }

    /// Removes the file, unless a container was promised a place meanwhile: then gives the claim back,
    /// to be asked again after [`EXPECTED`].
    ///
    /// # Errors
    ///
    /// The claim, if a container is expected.
    pub fn give_up(mut self) -> Result<(), Self> {
        let lock = self.path.lock();
        let mark = self.path.mark();
        let seen = std::mem::replace(&mut self.mark, mark);
        // Each mark delays once, so that no jump of the clock can keep a shim for ever.
        let fresh = mark.is_some_and(|mark| mark.elapsed().map_or(true, |age| age < EXPECTED));
        if fresh && mark != seen {
            return Err(self);
        }
        self.remove();
        drop(lock);
        std::mem::forget(self);
        Ok(())
    }

    fn remove(&self) {
        if let Err(error) = self.path.unlink() {
            log::error!("cannot remove {}: {error}", self.path.address());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without its folder there is no socket to remove either.
        if let Ok(_lock) = self.path.lock() {
            self.remove();
        }
    }
}

impl SocketPath {
    /// The socket of `group`, in containerd's choice of folder, or beside the bundle's state.
    ///
    /// `bundle` is `<state>/io.containerd.runtime.v2.task/<namespace>/<id>`; `<state>/s` is where
    /// containerd 2.3 asks for the socket, and for the default state it is the folder that older ones
    /// use. A state with a path too long for a socket has its shims in the default folder.
    #[must_use]
    pub fn new(
        chosen: Option<&Path>,
        bundle: &Path,
        address: &str,
        namespace: &str,
        group: &str,
    ) -> Self {
        let beside_state = || {
            let state = bundle.ancestors().nth(3)?;
            let tasks = bundle.ancestors().nth(2)?.file_name()?.to_str()?;
            tasks.starts_with("io.containerd.").then(|| state.join("s"))
        };
        let dir = chosen
            .map(Path::to_path_buf)
            .or_else(beside_state)
            .filter(|dir| dir.as_os_str().len() + NAME <= MAX_PATH)
            .unwrap_or_else(|| DEFAULT_DIR.into());
        let key = format!("wasi/v1\0{address}/{namespace}/{group}");
        let name: String = Sha256::digest(key)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self(dir.join(name))
    }

    /// Reads back what [`Self::address`] gave.
    #[must_use]
    pub fn from_address(address: &str) -> Option<Self> {
        address
            .trim()
            .strip_prefix("unix://")
            .map(|path| Self(path.into()))
    }

    /// As containerd dials it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.0.display())
    }

    /// Listens here, unless somebody does. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says to making the folder, locking, binding.
    pub fn bind(&self) -> io::Result<Socket> {
        if let Some(dir) = self.0.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        let _lock = self.lock()?;
        if self.is_served() {
            self.set_mark(UTIME_NOW)?;
            return Ok(Socket::Served);
        }
        self.unlink()?;
        // Nobody may connect between bind and chmod. `start` has one thread, so this is safe to set.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&self.0);
        rustix::process::umask(umask);
        let listener = listener?;
        // 1970: no mark is the same, however soon it comes.
        self.set_mark(0)?;
        let claim = Claim {
            mark: self.mark(),
            path: self.clone(),
        };
        Ok(Socket::Bound(listener, claim))
    }

    /// Removes the socket if nobody listens on it.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says to locking or unlinking.
    pub fn remove_if_dead(&self) -> io::Result<()> {
        let _lock = match self.lock() {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.is_served() {
            Ok(())
        } else {
            self.unlink()
        }
    }

    /// Whether somebody listens. That he answers is not said: he may be stopped, with a queue of
    /// connections.
    #[must_use]
    pub fn is_served(&self) -> bool {
        match self.connect() {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Connects, without waiting; the connection is not blocking either.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when too many wait already; nobody listens, otherwise.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &SocketAddrUnix::new(&self.0)?) {
            Ok(()) => Ok(socket.into()),
            Err(Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_mark(&self, tv_nsec: rustix::fs::Nsecs) -> io::Result<()> {
        let time = Timespec { tv_sec: 0, tv_nsec };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        Ok(rustix::fs::utimensat(
            CWD,
            &self.0,
            &times,
            AtFlags::empty(),
        )?)
    }

    /// When a `start` found the socket served last; 1970 if none has.
    fn mark(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.0)
            .and_then(|file| file.modified())
            .ok()
    }

    fn unlink(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Held until the file is dropped. The folder itself is locked: there is no lock file to leave.
    fn lock(&self) -> io::Result<File> {
        let dir = File::open(self.0.parent().unwrap_or(Path::new("/")))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&dir, FlockOperation::LockExclusive))?;
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUNDLE: &str = "/run/containerd/io.containerd.runtime.v2.task/default/web";

    fn path(chosen: Option<&str>, bundle: &str, group: &str) -> PathBuf {
        SocketPath::new(
            chosen.map(Path::new),
            Path::new(bundle),
            "/c.sock",
            "default",
            group,
        )
        .0
    }

    #[test]
    fn the_folder_is_containerds_choice_then_the_states_then_the_default() {
        assert!(path(Some("/chosen"), BUNDLE, "web").starts_with("/chosen"));
        assert!(path(None, BUNDLE, "web").starts_with("/run/containerd/s"));
        let private = BUNDLE.replace("/run/containerd", "/tmp/private");
        assert!(path(None, &private, "web").starts_with("/tmp/private/s"));
        assert!(path(None, "/some/bundle", "web").starts_with(DEFAULT_DIR));
    }

    #[test]
    fn a_folder_too_long_for_a_socket_is_not_used() {
        let long = format!("/tmp/{}", "x".repeat(60));
        let path = path(None, &BUNDLE.replace("/run/containerd", &long), "web");
        assert!(path.as_os_str().len() <= MAX_PATH);
    }

    #[test]
    fn groups_do_not_share_a_socket_and_runcs_shim_has_another() {
        assert_ne!(path(None, BUNDLE, "a"), path(None, BUNDLE, "b"));
        let runc = Sha256::digest("/c.sock/default/a");
        let runc: String = runc.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_ne!(
            path(None, BUNDLE, "a").file_name().unwrap().to_str(),
            Some(runc.as_str())
        );
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketPath(dir.path().join("s"));
        let Socket::Bound(listener, claim) = socket.bind().unwrap() else {
            panic!("nobody listens yet");
        };
        assert!(matches!(socket.bind().unwrap(), Socket::Served));
        drop(listener);
        claim.pass_on();
        assert!(socket.0.exists(), "a dead socket stays behind");
        let Socket::Bound(_, claim) = socket.bind().unwrap() else {
            panic!("nobody listens any more");
        };
        drop(claim);
        socket.remove_if_dead().unwrap();
        assert!(!socket.0.exists());
    }

    #[test]
    fn a_socket_that_a_start_was_sent_to_is_not_given_up_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketPath(dir.path().join("s"));
        let Socket::Bound(_listener, claim) = socket.bind().unwrap() else {
            panic!("nobody listens yet");
        };
        assert!(matches!(socket.bind().unwrap(), Socket::Served));
        let claim = claim.give_up().unwrap_err();
        assert!(socket.0.exists());
        claim.give_up().unwrap();
        assert!(!socket.0.exists());
    }

    #[test]
    fn a_stopped_listener_with_a_full_queue_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let socket = SocketPath(dir.path().join("s"));
        let Socket::Bound(listener, _claim) = socket.bind().unwrap() else {
            panic!("nobody listens yet");
        };
        rustix::net::listen(&listener, 1).unwrap();
        let waiting: Vec<_> = std::iter::repeat_with(|| socket.connect())
            .take_while(Result::is_ok)
            .collect();
        assert!(!waiting.is_empty());
        assert!(socket.is_served());
    }
}
