//! The sockets of a WASI 0.1 program: those that listen, which it was given, and those it accepts.
//!
//! wasmtime-wasi has a table of descriptors for WASI 0.1 and no sockets in it. So this is a second
//! table, laid over that one: a number that is here is a socket, whatever is below. No number may mean
//! two things, so:
//!
//! - A listening socket has a directory below (see [`Host`](crate::host::Host)), which keeps its number
//!   from being given to a file, and goes when the socket is closed.
//! - An accepted socket has a number from [`FIRST`] on, which the table below does not get to: it gives
//!   out numbers again that were closed, and only without any the next.
//!
//! Readiness is the kernel's answer at the moment of the question. What tokio remembers of it only decides
//! when to ask again.

mod calls;
mod errno;
mod link;
mod poll;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Error, Network};

pub(crate) use link::lay_over;

/// The first number of an accepted socket: no process has so many descriptors.
const FIRST: u32 = 1 << 30;
/// The first number after stdin, stdout and stderr.
const FIRST_PREOPEN: u32 = 3;

/// The table.
pub(crate) struct Sockets {
    /// Those that tokio does not know yet: it has to be asked where it runs.
    given: Vec<TcpListener>,
    /// The number of the first of them.
    first: u32,
    open: BTreeMap<u32, Socket>,
    /// How many may be open at once; files are counted apart.
    limit: usize,
    network: Arc<Network>,
}

struct Socket {
    tcp: Tcp,
    /// Whether calls that would block fail instead. The descriptor itself never blocks.
    nonblocking: bool,
}

enum Tcp {
    Listener(AsyncFd<TcpListener>),
    Connection(AsyncFd<TcpStream>),
}

/// A socket of the standard library.
trait Socketed: AsRawFd {}
impl Socketed for TcpListener {}
impl Socketed for TcpStream {}

/// Has the runtime watch a socket. To be called where it runs.
#[allow(unsafe_code, reason = "AsyncFd has no safe constructor")]
fn watch<T: Socketed>(socket: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor has to stay open and the same for as long as the `AsyncFd` has it. The two
    // types that are `Socketed` own theirs, close it when they are dropped and cannot change it.
    let watched = unsafe { AsyncFd::register(socket) };
    Ok(watched?)
}

/// A connection that has been used as a listener, or the other way round.
fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl Sockets {
    /// The sockets after `preopens` directories.
    pub(crate) fn new(
        preopens: usize,
        given: Vec<TcpListener>,
        limit: usize,
        network: Arc<Network>,
    ) -> Result<Self, Error> {
        for listener in &given {
            listener
                .set_nonblocking(true)
                .map_err(|source| Error::Descriptor {
                    what: "a listening socket".to_owned(),
                    source,
                })?;
        }
        let preopens = u32::try_from(preopens).unwrap_or(u32::MAX);
        Ok(Self {
            given,
            first: FIRST_PREOPEN.saturating_add(preopens),
            open: BTreeMap::new(),
            limit,
            network,
        })
    }

    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.given.is_empty() && self.open.is_empty()
    }

    /// Puts the listening sockets into the table. Once, on the runtime that runs the guest.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        for (number, listener) in (self.first..).zip(self.given.drain(..)) {
            let socket = Socket {
                tcp: Tcp::Listener(watch(listener)?),
                nonblocking: true,
            };
            self.open.insert(number, socket);
        }
        Ok(())
    }

    fn get(&self, number: u32) -> Option<&Socket> {
        self.open.get(&number)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Socket> {
        self.open.get_mut(&number)
    }

    /// Closes a socket; whether there was one. The number may have something below.
    fn close(&mut self, number: u32) -> bool {
        self.open.remove(&number).is_some()
    }

    /// Gives a socket another number, closing what has it.
    fn renumber(&mut self, from: u32, to: u32) {
        if let Some(socket) = self.open.remove(&from) {
            drop(self.open.insert(to, socket));
        }
    }

    /// Waits for a connection, unless `number` does not block, and gives it a number.
    async fn accept(&mut self, number: u32, nonblocking: bool) -> io::Result<u32> {
        let socket = self.open.get(&number).ok_or_else(not_connected)?;
        let Tcp::Listener(listener) = &socket.tcp else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if self.open.len() >= self.limit {
            return Err(rustix::io::Errno::MFILE.into());
        }
        let stream = loop {
            let (stream, peer) = attempt(listener, Interest::READABLE, socket.nonblocking, |it| {
                it.accept()
            })
            .await?;
            // Who may not come is hung up on, and nobody is told.
            if self.network.hears(peer) {
                break stream;
            }
        };
        stream.set_nonblocking(true)?;
        let socket = Socket {
            tcp: Tcp::Connection(watch(stream)?),
            nonblocking,
        };
        let number = self.free();
        self.open.insert(number, socket);
        Ok(number)
    }

    /// The lowest free number of an accepted socket.
    fn free(&self) -> u32 {
        let taken = self.open.range(FIRST..).map(|(number, _)| *number);
        let mut free = FIRST;
        for number in taken {
            if number != free {
                break;
            }
            free += 1;
        }
        free
    }
}

impl Socket {
    fn connection(&self) -> io::Result<&AsyncFd<TcpStream>> {
        match &self.tcp {
            Tcp::Connection(connection) => Ok(connection),
            Tcp::Listener(_) => Err(not_connected()),
        }
    }

    /// Receives into `buffer`: how much, which is 0 when the peer has closed.
    async fn receive(&self, buffer: &mut [u8], peek: bool) -> io::Result<usize> {
        let connection = self.connection()?;
        attempt(
            connection,
            Interest::READABLE,
            self.nonblocking,
            |mut it| {
                if peek {
                    let (count, _) = rustix::net::recv(it, &mut *buffer, RecvFlags::PEEK)?;
                    return Ok(count);
                }
                it.read(buffer)
            },
        )
        .await
    }

    /// Sends some of `bytes`: how much.
    async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let connection = self.connection()?;
        attempt(
            connection,
            Interest::WRITABLE,
            self.nonblocking,
            |mut it| it.write(bytes),
        )
        .await
    }

    fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        self.connection()?.get_ref().shutdown(how)
    }
}

/// Does `operation`, again and again as soon as it may succeed, until it does not say that it would
/// block; once, if that is what the guest wants.
async fn attempt<'a, T: AsRawFd, R>(
    socket: &'a AsyncFd<T>,
    interest: Interest,
    once: bool,
    mut operation: impl FnMut(&'a T) -> io::Result<R>,
) -> io::Result<R> {
    let first = loop {
        match operation(socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => break done,
        }
    };
    match first {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && !once => {
            socket
                .async_io(interest, |_| operation(socket.get_ref()))
                .await
        }
        done => done,
    }
}
