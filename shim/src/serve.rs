//! The daemon: serves its socket until it is not needed any more.
//!
//! One thread with an async runtime answers containerd. It stays in the host's namespaces and runs no
//! guest code; containers have threads of their own.
//!
//! The shim goes when containerd said Shutdown and no container is left, whichever comes last; when it
//! was started and no container was created for a minute; and on SIGTERM or SIGINT, with its containers.
//! First it withdraws its socket, so that no new container is sent to it, last it drains its events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::containers::Containers;
use crate::daemon::Inheritance;
use crate::programs::Programs;
use crate::services::task::TaskService;
use crate::{events, logger};

/// How long a shim without any container waits for its first.
const ORPHAN: Duration = Duration::from_secs(60);
/// For events at exit. containerd gives a shim 3 s to answer Shutdown, and this comes after.
const DRAIN: Duration = Duration::from_secs(3);
/// For answers that are being written at exit.
const ANSWERS: Duration = Duration::from_secs(1);

/// Serves what the `start` before the fork has bound.
///
/// # Errors
///
/// When the runtime or the server cannot be set up.
pub fn serve(inheritance: Inheritance) -> io::Result<()> {
    // A bundle without a log fifo (the sandbox API, a test) has a shim without a log.
    drop(logger::init(&inheritance.bundle, inheritance.debug));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let served = run(inheritance).await;
            if let Err(error) = &served {
                log::error!("cannot serve: {error}");
            }
            served
        })
}

async fn run(inheritance: Inheritance) -> io::Result<()> {
    let (publisher, forwarder) = events::queue(&inheritance.events_address, &inheritance.namespace);
    let programs = Programs::new(&inheritance.program, inheritance.cache);
    let containers = Containers::new(programs, publisher);
    let shutdown = Arc::new(Notify::new());
    let service = TaskService::new(containers.clone(), Arc::clone(&shutdown));
    inheritance.listener.set_nonblocking(true)?;
    let mut server = Server::new()
        .add_listener(Listener::from(UnixListener::from_std(
            inheritance.listener,
        )?))
        .register_service(service.services());
    server.start().await.map_err(io::Error::other)?;

    tokio::select! {
        () = not_needed(&containers, &shutdown) => {}
        () = terminated()? => log::warn!("terminated by a signal, with all containers"),
    }

    if let Err(error) = inheritance.socket.withdraw() {
        log::error!("cannot remove the socket: {error}");
    }
    if timeout(ANSWERS, server.shutdown()).await.is_err() {
        log::warn!("a connection was still busy at exit");
    }
    // The server's, the service's and this are the last handles of the queue.
    drop((server, service, containers));
    forwarder.drain(DRAIN).await;
    Ok(())
}

/// Returns when the shim may go.
async fn not_needed(containers: &Containers, shutdown: &Notify) {
    let mut count = containers.count();
    tokio::select! {
        // Nothing changes only if containerd died between `start` and Create.
        () = sleep(ORPHAN) => {
            if *count.borrow() == 0 && !count.has_changed().unwrap_or(false) {
                return log::warn!("no container was created for {ORPHAN:?}");
            }
            shutdown.notified().await;
        }
        () = shutdown.notified() => {}
    }
    // containerd 2.0 to 2.3 sends Shutdown once, when the group's first container is deleted, even
    // while others remain: the word is kept until the last one is gone.
    let gone = count.wait_for(|count| *count == 0).await;
    drop(gone);
}

fn terminated() -> io::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
