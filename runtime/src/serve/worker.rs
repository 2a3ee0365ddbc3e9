//! One thread of a service: it accepts, and drives its connections and their guests.

use std::cell::RefCell;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinSet, LocalSet};

use super::instance::Kept;
use super::{Server, connection};
use crate::middleware::Connections;
use crate::{Interrupter, Outcome};

/// How long nobody accepts after the system had no descriptor for another connection.
const BREATHER: Duration = Duration::from_millis(50);

/// A thread's share of a service. Whoever gets it runs it on a thread of its own.
pub struct Worker {
    pub(super) index: usize,
    pub(super) server: Arc<Server>,
    pub(super) listener: StdListener,
    pub(super) hand: mpsc::UnboundedReceiver<Handed>,
    pub(super) interrupter: Interrupter,
    pub(super) leave: mpsc::UnboundedSender<Farewell>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("index", &self.index)
            .finish()
    }
}

/// A connection on its way to the worker that is to have it.
pub(super) struct Handed {
    pub(super) stream: std::net::TcpStream,
    pub(super) place: OwnedSemaphorePermit,
}

/// How a worker's thread went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Finished.
    Done,
    /// Killed.
    Killed,
    /// By a panic, or without having run.
    Panicked,
}

/// Says it, be it by a panic.
struct Leaving {
    leave: mpsc::UnboundedSender<Farewell>,
    farewell: Farewell,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        // Nobody listens when the first thread was lost.
        let _ = self.leave.send(self.farewell);
    }
}

/// What the connections of a worker share.
pub(super) struct Local {
    pub(super) server: Arc<Server>,
    pub(super) interrupter: Interrupter,
    pub(super) kept: Kept,
    /// Connections to the upstream of middleware.
    pub(super) upstream: Rc<Connections>,
    /// Guests that run: they may outlast their connections.
    guests: RefCell<JoinSet<()>>,
}

impl Local {
    /// Runs a guest beside the connections, to its end.
    pub(super) fn spawn(&self, guest: impl Future<Output = ()> + 'static) {
        let mut guests = self.guests.borrow_mut();
        // Those that are done.
        while guests.try_join_next().is_some() {}
        guests.spawn_local(guest);
    }
}

impl Worker {
    /// Serves until the service has finished or is killed. On the thread that polls, within a tokio runtime
    /// of one thread, from the first poll to the last. The outcome is one of these two.
    pub async fn run(self) -> Outcome {
        let mut leaving = Leaving {
            leave: self.leave.clone(),
            farewell: Farewell::Panicked,
        };
        let finished = self.work().await;
        let (farewell, outcome) = match finished {
            Some(()) => (Farewell::Done, Outcome::Exited(0)),
            None => (Farewell::Killed, Outcome::Killed),
        };
        leaving.farewell = farewell;
        outcome
    }

    /// `None` when it was killed.
    pub(super) async fn work(self) -> Option<()> {
        let interrupter = self.interrupter.clone();
        let budget = self.server.guest().budget.clone();
        let serving = async move {
            let tasks = LocalSet::new();
            tasks.run_until(self.serve()).await;
        };
        budget.run(serving, &interrupter).await
    }

    async fn serve(mut self) {
        let listener = TcpListener::from_std(self.listener)
            .expect("the runtime of a worker takes a socket that does not block");
        let local = Rc::new(Local {
            server: Arc::clone(&self.server),
            interrupter: self.interrupter,
            kept: Kept::default(),
            upstream: Rc::default(),
            guests: RefCell::default(),
        });
        let server = &self.server;
        let mut drain = server.drain.clone();
        let mut connections = JoinSet::new();
        let mut drive = |stream: std::net::TcpStream, place| {
            server.desks[self.index].load.fetch_add(1, Relaxed);
            // A socket that cannot be polled is one that the client is told of by its end.
            if let Ok(stream) = TcpStream::from_std(stream) {
                let driven = Driven(Arc::clone(server), self.index);
                let connection = connection::serve(Rc::clone(&local), stream, place);
                connections.spawn_local(async move {
                    connection.await;
                    drop(driven);
                });
            }
        };
        loop {
            tokio::select! {
                biased;
                _ = drain.wait_for(|drain| *drain) => break,
                Some(Handed { stream, place }) = self.hand.recv() => drive(stream, place),
                (stream, place) = accept(server, &listener) => {
                    let to = server.least_loaded(self.index);
                    let handed = Handed { stream, place };
                    if to == self.index {
                        drive(handed.stream, handed.place);
                    } else if let Err(back) = server.desks[to].sender.send(handed) {
                        // It has stopped accepting already.
                        drive(back.0.stream, back.0.place);
                    }
                }
            }
        }
        // Who was connected before has been promised an answer. After that nobody is, not even by a
        // thread whose guest keeps it from hearing of it.
        while let Some((stream, place)) = accept(server, &listener).now_or_never() {
            drive(stream, place);
        }
        // An error is another thread having done it.
        let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        drop(listener);
        self.hand.close();
        while let Some(Handed { stream, place }) = self.hand.recv().await {
            drive(stream, place);
        }
        while connections.join_next().await.is_some() {}
        // Nobody is left to ask for more.
        let mut guests = local.guests.take();
        while guests.join_next().await.is_some() {}
    }
}

/// While it lives, a worker has one connection more.
struct Driven(Arc<Server>, usize);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.desks[self.1].load.fetch_sub(1, Relaxed);
    }
}

/// The next client, when there is a place for it. Loses none when it is dropped.
async fn accept(
    server: &Server,
    listener: &TcpListener,
) -> (std::net::TcpStream, OwnedSemaphorePermit) {
    let places = Arc::clone(&server.connections);
    let place = places.acquire_owned().await.expect("it is never closed");
    loop {
        match listener.accept().await {
            Ok((_, client)) if !server.hears(client) => {}
            Ok((stream, _)) => {
                // An answer may be written in pieces; waiting for more of them would slow it down.
                drop(stream.set_nodelay(true));
                if let Ok(stream) = stream.into_std() {
                    return (stream, place);
                }
            }
            // One that is gone again is nobody's concern; all else is a lack of something.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(BREATHER).await,
        }
    }
}
