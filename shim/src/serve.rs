//! The daemon: serves its socket until it is not needed any more.
//!
//! One thread with an async runtime answers containerd. It stays in the host's namespaces and runs no
//! guest code; containers have threads of their own.
//!
//! The shim goes when containerd said Shutdown and no container is left, whichever comes last; when it
//! was started and no container was created for a minute; when the sandbox of its pod was shut down by the
//! Sandbox API, with all containers; when its `start` was killed before it had
//! answered; and on SIGTERM or SIGINT, with its containers. Other signals are for a process that there is not.
//! First it withdraws its socket, so that no new container is sent to it, last it drains its events. A
//! shim that was promised to another container (see [`crate::socket`]) waits for that one first.

use std::io::{self, PipeReader};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;
use wasi_runtime::come_first;

use crate::cgroup::Cgroups;
use crate::containers::Containers;
use crate::content::ContentStore;
use crate::daemon::{Inheritance, end_signals};
use crate::lifecycle::Signal;
use crate::oom_score::OomScore;
use crate::placement::Placement;
use crate::programs::Programs;
use crate::runc::LinuxContainers;
use crate::services::sandbox::SandboxService;
use crate::services::task::TaskService;
use crate::socket::{Claim, EXPECTED};
use crate::{events, logger};

/// How long a shim without any container waits for its first.
const ORPHAN: Duration = Duration::from_secs(60);
/// For the containers of a shim that is told to go by a signal.
const ENDS: Duration = Duration::from_secs(2);
/// For events at exit. With the answers less than `delete` waits for a shim that leaves (`recover.rs`).
const DRAIN: Duration = Duration::from_secs(2);
/// For answers that are being written at exit, and read by the other side; and for threads that end.
const ANSWERS: Duration = Duration::from_millis(250);

/// Serves what the `start` before the fork has bound.
///
/// # Errors
///
/// When the runtime or the server cannot be set up.
pub fn serve(inheritance: Inheritance) -> io::Result<()> {
    // A bundle without a log fifo (the sandbox API, a test) has a shim without a log.
    drop(logger::init(&inheritance.bundle, inheritance.debug));
    for option in &inheritance.ignored {
        log::warn!("the runtime's option {option} is not known here, and ignored");
    }
    if let Err(error) = raise_open_files() {
        log::warn!("cannot have more open files: {error}");
    }
    // Beside fifty guests that compute, an ordinary thread has its turn after a tenth of a second. This one does
    // little, and is what stops them.
    if let Err(error) = come_first() {
        log::warn!("answers wait for their turn beside guests that compute: {error}");
    }
    let cgroups = if inheritance.has_cgroup {
        Cgroups::settled()
    } else {
        Cgroups::foreseen(inheritance.container.as_ref())
    };
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Those who wait for a container's threads to be gone. The one that answers has said if it cannot.
        .thread_name("control")
        .on_thread_start(|| drop(come_first()))
        .build()
        .and_then(|runtime| {
            let served = runtime.block_on(run(inheritance, &cgroups));
            // A thread that still waits for a container's end shall not hold up the shim's for longer.
            runtime.shutdown_timeout(ANSWERS);
            served
        });
    cgroups.leave();
    if let Err(error) = &served {
        log::error!("cannot serve: {error}");
    }
    served
}

/// What its containers have open this process has. containerd passes on a soft limit of 1,024 even where
/// it has more itself.
fn raise_open_files() -> io::Result<()> {
    let own = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: own.maximum,
        ..own
    };
    Ok(setrlimit(Resource::Nofile, most)?)
}

async fn run(inheritance: Inheritance, cgroups: &Cgroups) -> io::Result<()> {
    // Whatever fails from here on drops the claim, and with it the socket's file.
    let claim = inheritance.claim;
    let (publisher, forwarder) = events::queue(&inheritance.events_address, &inheritance.namespace);
    let oom_score = inheritance.oom_score_adj.and_then(OomScore::new);
    let oom_score = oom_score.unwrap_or_else(|error| {
        log::warn!("cannot make itself likelier to be ended than containerd: {error}");
        OomScore::default()
    });
    let programs = Programs::new(&inheritance.program, inheritance.cache);
    let programs = programs.compiled_at(cgroups.origin());
    let placement = Placement::new(cgroups.clone(), oom_score);
    let store = ContentStore::new(
        inheritance.containerd,
        inheritance.namespace,
        tokio::runtime::Handle::current(),
    );
    let linux = LinuxContainers::new(inheritance.linux, publisher.clone());
    let containers = Containers::new(programs, store, publisher, placement, linux);
    let shutdown = Arc::new(Notify::new());
    let (pod, over) = (Arc::default(), Arc::<Notify>::default());
    let sandbox = SandboxService::new(&containers, Arc::clone(&pod), Arc::clone(&over));
    let service = TaskService::new(containers.clone(), pod, Arc::clone(&shutdown));
    let terminated = terminated()?;
    stray()?;
    let unanswered = unanswered(inheritance.answered)?;
    inheritance.listener.set_nonblocking(true)?;
    let mut server = Server::new()
        .add_listener(Listener::from(UnixListener::from_std(
            inheritance.listener,
        )?))
        .register_service(service.services())
        .register_service(sandbox.services());
    server.start().await.map_err(io::Error::other)?;

    tokio::select! {
        () = not_needed(&containers, &shutdown, claim) => {}
        // Its socket is withdrawn. As to the pause, see below.
        () = over.notified() => sleep(ANSWERS).await,
        () = terminated => log::warn!("terminated by a signal, with all containers"),
        () = unanswered => log::warn!("its start was killed: nobody knows that it is there"),
    }

    end_all(&containers).await;
    if timeout(ANSWERS, server.shutdown()).await.is_err() {
        log::warn!("a connection was still busy at exit");
    }
    forwarder.drain(DRAIN).await;
    Ok(())
}

/// Returns when the shim may go and its socket is withdrawn.
async fn not_needed(containers: &Containers, shutdown: &Notify, mut claim: Claim) {
    let mut count = containers.count();
    let mut told = false;
    loop {
        told = told || told_to_go(&count, shutdown).await;
        let early = *count.borrow() > 0;
        // containerd 2.0 to 2.3 sends Shutdown once, when the group's first container is deleted, even
        // while others remain: the word is kept until the last one is gone.
        drop(count.wait_for(|count| *count == 0).await);
        claim = match claim.give_up() {
            // The Delete of the last container is just being answered. containerd's client, when it finds an
            // answer and a closed connection at once, takes either (ttrpc 1.2, `Client.dispatch`).
            Ok(()) if early => return sleep(ANSWERS).await,
            Ok(()) => return,
            Err(claim) => claim,
        };
        log::info!("another container is expected");
        sleep(EXPECTED).await;
    }
}

/// Returns whether containerd has said Shutdown; if not, it has died between `start` and Create.
async fn told_to_go(count: &watch::Receiver<usize>, shutdown: &Notify) -> bool {
    // No timer is left behind by the first container: it would wake the shim for nothing.
    let mut first = count.clone();
    tokio::select! {
        none = timeout(ORPHAN, first.changed()) => {
            if none.is_err() {
                log::warn!("no container was created for {ORPHAN:?}");
                return false;
            }
            shutdown.notified().await;
        }
        () = shutdown.notified() => {}
    }
    true
}

/// Kills what runs, and waits until each has its exit, on disk and in the queue of events.
async fn end_all(containers: &Containers) {
    let mut ends = JoinSet::new();
    for container in containers.all() {
        ends.spawn(async move {
            // One that has ended already needs no signal, and waits for nothing.
            drop(container.kill(None, Signal::KILL).await);
            drop(container.init().exited().await);
        });
    }
    let ended = async { tokio::join!(ends.join_all(), containers.end_linux()) };
    if timeout(ENDS, ended).await.is_err() {
        log::error!("a container does not end; it ends with the shim, and its exit is lost");
    }
}

/// Returns when `start` has died before it could answer, and never otherwise.
fn unanswered(answered: PipeReader) -> io::Result<impl Future<Output = ()>> {
    let answered = pipe::Receiver::from_owned_fd(answered.into())?;
    Ok(async move {
        loop {
            match answered
                .readable()
                .await
                .map(|()| answered.try_read(&mut [0]))
            {
                Ok(Ok(0)) => return,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Ok(_) | Err(_)) | Err(_) => return std::future::pending().await,
            }
        }
    })
}

/// A task's pid is the id of a thread of the shim, and who signals that by kill(2) signals the shim. What would end
/// a process by default would end the whole pod. Ignored they would be so in whatever the shim runs, too.
fn stray() -> io::Result<()> {
    for (name, kind) in [
        ("HUP", SignalKind::hangup()),
        ("QUIT", SignalKind::quit()),
        ("USR1", SignalKind::user_defined1()),
        ("USR2", SignalKind::user_defined2()),
        ("ALRM", SignalKind::alarm()),
    ] {
        let mut stray = signal(kind)?;
        tokio::spawn(async move {
            while stray.recv().await.is_some() {
                log::warn!(
                    "somebody sent {name} to the shim's process, which means nothing; a container is sent \
                     signals by containerd, such as `ctr task kill --signal {name}`"
                );
            }
        });
    }
    Ok(())
}

fn terminated() -> io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // One that came since the fork is delivered here. Threads made from now on inherit the mask.
    end_signals().thread_unblock()?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
