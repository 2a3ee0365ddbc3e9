//! `start`: make or find the group's shim, say where it listens, be gone.
//!
//! Everything up to the fork is one thread without an async runtime or an engine, so that the child
//! inherits nothing half-locked and no second exec is needed. The socket listens before the answer
//! is printed: containerd connects at once, and waits in the backlog until the child accepts.

use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie};
use wasi_bundles::Bundle;

use crate::StartError;
use crate::bootstrap::{Dialect, shim_cgroup};
use crate::cgroup;
use crate::flags::Flags;
use crate::ignored;
use crate::programs::CacheOptions;
use crate::recover::ShimRecord;
use crate::runc::call::Call;
use crate::runc::child::Origin;
use crate::socket::{Claim, Socket, SocketPath};

/// Containers with the same value share a shim, first one first (as runc's shim has it).
const GROUP_ANNOTATIONS: [&str; 2] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// The kernel takes no more.
const MAX_OOM_SCORE_ADJ: i32 = 1000;

/// What the daemon inherits from the `start` that made it.
#[derive(Debug)]
pub struct Inheritance {
    /// Already listening.
    pub listener: UnixListener,
    /// Its file.
    pub claim: Claim,
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's gRPC socket.
    pub containerd: PathBuf,
    /// containerd's socket for events.
    pub events_address: String,
    /// The first container's bundle, which has the `log` fifo.
    pub bundle: PathBuf,
    /// What is in it, if it was there at `start`.
    pub container: Option<Bundle>,
    /// Where the shim's own program is; the compiler lies beside it.
    pub program: PathBuf,
    /// Where compiled programs are kept.
    pub cache: CacheOptions,
    /// Whether to log in detail.
    pub debug: bool,
    /// How soon the kernel shall end the daemon for memory: after what containerd runs, before
    /// containerd (runc's shim does the same).
    pub oom_score_adj: io::Result<i32>,
    /// Whether it is put into a cgroup that was chosen for it.
    pub has_cgroup: bool,
    /// How containerd called, for a shim of Linux containers that may be needed.
    pub linux: Origin,
    /// The runtime's options that mean nothing here.
    pub ignored: Vec<String>,
    /// Says a byte when `start` has answered; ends without one when that died before.
    pub answered: PipeReader,
}

/// The signals that tell the daemon to go.
pub(crate) fn end_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}

/// Where a process is after [`start`].
#[derive(Debug)]
pub enum Started {
    /// This is containerd's child: the answer is printed, it may exit.
    Answered,
    /// This is the daemon.
    Daemon(Box<Inheritance>),
}

/// Runs `start` in the bundle, which is the working directory.
///
/// # Errors
///
/// [`StartError`] names what stood in the way; nothing is left behind then.
#[allow(
    unsafe_code,
    reason = "no safe fork exists; a second exec costs a start-up"
)]
pub fn start(flags: &Flags) -> Result<Started, StartError> {
    let mut stdin = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut stdin)
        .map_err(StartError::io("read the parameters from stdin"))?;
    let dialect = Dialect::detect(&stdin, flags);
    let shim_cgroup = shim_cgroup(&stdin, &dialect);
    let ignored = ignored::options(&stdin, &dialect);
    let bundle = std::env::current_dir().map_err(StartError::io("find the working directory"))?;
    let container = container_in(&bundle)?;
    let group = container.as_ref().and_then(group_of).unwrap_or(&flags.id);
    let group = group.to_owned();
    let (chosen, debug) = match &dialect {
        Dialect::Options => (None, flags.debug),
        Dialect::Params { socket_dir, debug } => (socket_dir.as_deref(), flags.debug || *debug),
    };
    let linux = Origin {
        call: Call {
            debug,
            ..Call::from(flags)
        },
        group: group.clone(),
        bundle: bundle.clone(),
        params: match &dialect {
            Dialect::Options => None,
            Dialect::Params { .. } => Some(stdin.clone()),
        },
    };
    let socket = SocketPath::new(chosen, &bundle, &flags.address, &flags.namespace, &group);
    let address = socket.address();
    // All that can be wrong with the call is found out before there is anything to be left behind.
    let events_address = std::env::var("TTRPC_ADDRESS")
        .ok()
        .filter(|address| !address.is_empty())
        .ok_or(StartError::NoEventsAddress)?;
    let cache = CacheOptions::from_environment()?;
    let program = std::env::current_exe().map_err(StartError::io("find its own program"))?;
    if std::env::var_os("SCHED_CORE").is_some_and(|asked| !asked.is_empty()) {
        schedule_alone()?;
    }
    let (answered, mut answering) = io::pipe().map_err(StartError::io("make a pipe"))?;
    // containerd 1.6 and 1.7 read it to find the shim again after their own restart. Before there is a
    // socket, because `delete` finds the socket of a `start` that was killed by it.
    fs::write(bundle.join("address"), &address)
        .map_err(StartError::io("write the address file"))?;
    let bound = socket
        .bind()
        .map_err(StartError::io(format!("listen on {address}")))?;
    let Socket::Bound(listener, claim) = bound else {
        answer(&address, &dialect)?;
        return Ok(Started::Answered);
    };
    let oom_score_adj = oom_score_adj();
    // A daemon that is told to go before it can hear of it would leave its socket. `serve` unblocks.
    end_signals()
        .thread_block()
        .map_err(|error| StartError::io("block signals")(error.into()))?;
    // SAFETY: `fork` is unsafe because the child of a process with several threads may only call
    // async-signal-safe functions. This process has one thread: `main` got here without starting
    // any, and neither std nor the crates used above start threads of their own.
    match unsafe { nix::unistd::fork() }.map_err(|error| StartError::io("fork")(error.into()))? {
        ForkResult::Child => {
            drop(answering);
            detach().map_err(StartError::io("detach from containerd"))?;
            Ok(Started::Daemon(Box::new(Inheritance {
                listener,
                claim,
                namespace: flags.namespace.clone(),
                containerd: flags.address.clone().into(),
                events_address,
                bundle,
                container,
                program,
                cache,
                debug,
                oom_score_adj,
                has_cgroup: shim_cgroup.is_some(),
                linux,
                ignored,
                answered,
            })))
        }
        ForkResult::Parent { child } => {
            let told = record(child, &bundle)
                .and_then(|()| place(child, shim_cgroup.as_deref()))
                .and_then(|()| answer(&address, &dialect))
                .and_then(|()| {
                    let told = answering.write_all(b"!");
                    told.map_err(StartError::io("tell the daemon that it is known"))
                });
            if let Err(error) = told {
                // A child of this process, and not waited for: the id is its own.
                let _ = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
                drop(claim);
                cgroup::sweep(&bundle);
                return Err(error);
            }
            claim.pass_on();
            Ok(Started::Answered)
        }
    }
}

/// Lets no stranger run beside this process, and those that it starts, on the threads of one processor core
/// (kernel, core-scheduling.rst). containerd asks for it by `SCHED_CORE`, from 1.6.4 on, when its configuration
/// has `sched_core`.
fn schedule_alone() -> Result<(), StartError> {
    let own = rustix::process::getpid();
    create_core_scheduling_cookie(own, CoreSchedulingScope::ThreadGroup).map_err(|error| {
        StartError::io(
            "have processor cores without strangers (SCHED_CORE, containerd's sched_core), which takes a \
             kernel with CONFIG_SCHED_CORE and processors with SMT",
        )(error.into())
    })
}

/// Writes down who the daemon is, for `delete`.
fn record(daemon: Pid, bundle: &Path) -> Result<(), StartError> {
    ShimRecord::of(daemon.as_raw().cast_unsigned())
        .and_then(|record| record.write(bundle))
        .map_err(StartError::io("write the shim's record into the bundle"))
}

/// Puts the daemon into the cgroup that the options name. The answer waits for it, as runc's does.
fn place(daemon: Pid, cgroup: Option<&str>) -> Result<(), StartError> {
    let Some(cgroup) = cgroup else { return Ok(()) };
    cgroup::place(daemon.as_raw().cast_unsigned(), cgroup).map_err(StartError::io(format!(
        "put the shim into the ShimCgroup {cgroup} of the runtime's options"
    )))
}

/// Tells containerd where the shim listens.
fn answer(address: &str, dialect: &Dialect) -> Result<(), StartError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&dialect.reply(address))
        .and_then(|()| stdout.flush())
        .map_err(StartError::io("answer on stdout"))
}

/// containerd's own and one more; containerd is who runs `start`.
fn oom_score_adj() -> io::Result<i32> {
    let file = format!("/proc/{}/oom_score_adj", nix::unistd::getppid());
    let score: i32 = fs::read_to_string(file)?
        .trim()
        .parse()
        .map_err(io::Error::other)?;
    Ok(score.saturating_add(1).min(MAX_OOM_SCORE_ADJ))
}

/// The container in `bundle`. One of the sandbox API may have no `config.json` (containerd
/// `core/runtime/v2/bundle.go`): then it is a group of its own.
fn container_in(bundle: &Path) -> Result<Option<Bundle>, StartError> {
    if !bundle.join("config.json").exists() {
        return Ok(None);
    }
    Ok(Some(Bundle::open(bundle)?))
}

/// The pod or group that a bundle is of, if it is of one.
pub(crate) fn group_of(bundle: &Bundle) -> Option<&str> {
    GROUP_ANNOTATIONS
        .into_iter()
        .find_map(|key| bundle.annotation(key))
}

/// Leaves containerd's session and lets go of its pipe, which it reads to the end.
fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    nix::unistd::chdir("/")?;
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(null.as_fd())?;
    nix::unistd::dup2_stdout(null.as_fd())?;
    nix::unistd::dup2_stderr(null.as_fd())?;
    Ok(())
}
