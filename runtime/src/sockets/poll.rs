//! `poll_oneoff` where some of what is waited for are sockets.
//!
//! The others are handed to wasmtime-wasi as a `poll_oneoff` of their own, in a scratch memory. Both are
//! polled, always in this order, so that neither keeps the other from being seen, and what is ready of
//! both is told. Layouts are those of the witx: a `subscription` is 48 bytes, an `event` 32.

use std::future::{pending, poll_fn};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::unix::AsyncFd;
use wasmtime_wasi::p1::{WasiP1Ctx, wasi_snapshot_preview1};
use wiggle::GuestMemory;

use super::calls::{Answer, get, put};
use super::errno::Code;
use super::{Socket, Sockets, Tcp};

/// The size of a `subscription`.
const SUBSCRIPTION: usize = 48;
/// The size of an `event`.
const EVENT: usize = 32;
/// `eventtype`; 0 is a clock.
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;
/// `eventrwflags`.
const HANGUP: u16 = 1;
/// How many may be waited for in one call: more than a guest has descriptors.
const MANY: usize = 1 << 14;

/// A socket that is waited for.
struct Wanted<'a> {
    socket: &'a Socket,
    userdata: [u8; 8],
    write: bool,
}

impl Sockets {
    /// Waits for the first of `count` subscriptions: how many events were written.
    ///
    /// `None` if none of them is a socket, which is none of our business.
    pub(super) async fn call_poll(
        &self,
        wasi: &mut WasiP1Ctx,
        memory: &mut [u8],
        (subscriptions, events, count): (i32, i32, i32),
    ) -> wasmtime::Result<Option<Answer<u32>>> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        let at = subscriptions.cast_unsigned() as usize;
        let count = count.cast_unsigned() as usize;
        if count > MANY {
            return Ok(None);
        }
        let Ok(list) = get(memory, at, count * SUBSCRIPTION) else {
            return Ok(None);
        };
        for subscription in list.chunks_exact(SUBSCRIPTION) {
            match self.wanted(subscription) {
                Some(wanted) => ours.push(wanted),
                None => others.extend_from_slice(subscription),
            }
        }
        if ours.is_empty() {
            return Ok(None);
        }
        let (code, mut told) = wait(&ours, others, wasi).await?;
        if code != 0 {
            return Ok(Some(Err(Code(code))));
        }
        for (wanted, ready) in ours.iter().zip(states(&ours)?) {
            if !ready.is_empty() {
                told.extend_from_slice(&wanted.event(ready));
            }
        }
        let written = put(memory, events, &told);
        let count = u32::try_from(told.len() / EVENT)?;
        Ok(Some(written.map(|()| count)))
    }

    fn wanted(&self, subscription: &[u8]) -> Option<Wanted<'_>> {
        let write = match subscription[8] {
            FD_READ => false,
            FD_WRITE => true,
            _ => return None,
        };
        let number = u32::from_le_bytes(subscription[16..20].try_into().ok()?);
        Some(Wanted {
            socket: self.get(number)?,
            userdata: subscription[..8].try_into().ok()?,
            write,
        })
    }
}

/// Until one of `ours` or `others` is ready: the error number of the others, and their events.
async fn wait(
    ours: &[Wanted<'_>],
    others: Vec<u8>,
    wasi: &mut WasiP1Ctx,
) -> wasmtime::Result<(i32, Vec<u8>)> {
    let count = others.len() / SUBSCRIPTION;
    // Subscriptions, then events, then how many events.
    let events = others.len();
    let out = events + count * EVENT;
    let mut scratch = others;
    scratch.resize(out + 4, 0);
    let code = {
        let mut memory = GuestMemory::Unshared(&mut scratch);
        let mut theirs = Box::pin(async {
            if count == 0 {
                return pending().await;
            }
            let (events, count, out) = (events.try_into()?, count.try_into()?, out.try_into()?);
            wasi_snapshot_preview1::poll_oneoff(wasi, &mut memory, 0, events, count, out).await
        });
        let first = poll_fn(|cx| {
            let theirs = theirs.as_mut().poll(cx);
            // All of them are asked, so that each wakes us.
            let awake = ours
                .iter()
                .filter(|wanted| wanted.poll(cx).is_ready())
                .count();
            match theirs {
                Poll::Ready(code) => Poll::Ready(Some(code)),
                Poll::Pending if awake > 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        first.await.transpose()?
    };
    let happened = match code {
        Some(0) => scratch[out..].try_into().map(u32::from_le_bytes)? as usize,
        _ => 0,
    };
    let told = scratch[events..events + happened * EVENT].to_vec();
    Ok((code.unwrap_or(0), told))
}

/// What the kernel says of each, now.
fn states(wanted: &[Wanted<'_>]) -> wasmtime::Result<Vec<PollFlags>> {
    let mut fds: Vec<_> = wanted.iter().map(Wanted::poll_fd).collect();
    rustix::event::poll(&mut fds, Some(&Timespec::default()))?;
    Ok(fds.iter().map(PollFd::revents).collect())
}

impl Wanted<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket.tcp {
            Tcp::Listener(listener) => listener.get_ref().as_fd(),
            Tcp::Connection(connection) => connection.get_ref().as_fd(),
        }
    }

    fn poll_fd(&self) -> PollFd<'_> {
        let flags = if self.write {
            PollFlags::OUT
        } else {
            PollFlags::IN | PollFlags::RDHUP
        };
        PollFd::from_borrowed_fd(self.fd(), flags)
    }

    /// Whether the kernel says it is ready; if not, `cx` is woken when that may have changed.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.socket.tcp {
            Tcp::Listener(listener) => self.poll_with(listener, cx),
            Tcp::Connection(connection) => self.poll_with(connection, cx),
        }
    }

    fn poll_with<T: AsFd + std::os::fd::AsRawFd>(
        &self,
        fd: &AsyncFd<T>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let remembered = if self.write {
                fd.poll_write_ready(cx)
            } else {
                fd.poll_read_ready(cx)
            };
            let Poll::Ready(remembered) = remembered else {
                return Poll::Pending;
            };
            // An error is told by the call that the guest makes next.
            let Ok(mut remembered) = remembered else {
                return Poll::Ready(());
            };
            let mut now = [self.poll_fd()];
            match rustix::event::poll(&mut now, Some(&Timespec::default())) {
                Ok(0) => remembered.clear_ready(),
                _ => return Poll::Ready(()),
            }
        }
    }

    fn event(&self, ready: PollFlags) -> [u8; EVENT] {
        // How much can be read; to a listener and a writer, one will do.
        let bytes = match &self.socket.tcp {
            Tcp::Connection(connection) if !self.write => {
                rustix::io::ioctl_fionread(connection.get_ref()).unwrap_or(0)
            }
            Tcp::Connection(_) | Tcp::Listener(_) => 1,
        };
        let hung_up = ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP);
        let flags = if hung_up { HANGUP } else { 0 };
        let mut event = [0; EVENT];
        event[..8].copy_from_slice(&self.userdata);
        event[10] = if self.write { FD_WRITE } else { FD_READ };
        event[16..24].copy_from_slice(&bytes.to_le_bytes());
        event[24..26].copy_from_slice(&flags.to_le_bytes());
        event
    }
}
