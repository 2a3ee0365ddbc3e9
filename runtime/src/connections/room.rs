//! Room for the TCP sockets of a guest of WASI 0.3.
//!
//! There the host accepts by itself: what a listener gets is pushed to the guest, and what the guest's tables
//! have no entry for ends it. So that who connects often enough cannot do that, a listener accepts only while
//! there is room, and clients wait in the kernel's backlog until then, as those of a process do that has no
//! descriptor left.
//!
//! The sockets in the guest's table are the truth. What is counted between can be wrong by those that a listener
//! accepted and the guest never saw, and by those that were broken when they came; so it is counted anew after as many
//! closed sockets as there is room for, and before one is refused.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::sockets::TcpSocket;

/// A socket has two streams, two futures and whoever waits for them, and a server a file or two for each: all of
/// them in tables of [`Limits::handles`](crate::Limits::handles).
const SHARE: usize = 8;

/// How many more sockets there may be.
#[derive(Debug)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    of: usize,
    /// Closed since it was counted.
    closed: usize,
}

/// Where those wait who come from outside.
#[derive(Debug, Clone)]
pub(crate) struct Door(Arc<Semaphore>);

impl Door {
    /// Ends when there is room for one more, which it takes.
    pub(crate) async fn pass(self) {
        // Nobody closes the semaphore.
        if let Ok(place) = self.0.acquire().await {
            place.forget();
        }
    }
}

impl Room {
    /// For who may have so many `handles`. At least a listener and a connection have room.
    pub(crate) fn new(handles: usize) -> Self {
        let of = (handles / SHARE).clamp(2, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(of)),
            of,
            closed: 0,
        }
    }

    /// For those who come from outside.
    pub(crate) fn door(&self) -> Door {
        Door(Arc::clone(&self.places))
    }

    /// Takes room for one more than are in the `table`, if there is.
    pub(crate) fn take(&mut self, table: &mut ResourceTable) -> bool {
        if self.places.available_permits() == 0 {
            self.count(table);
        }
        self.places
            .try_acquire()
            .map(|place| place.forget())
            .is_ok()
    }

    /// One is closed, and no longer in the `table`.
    pub(crate) fn close(&mut self, table: &mut ResourceTable) {
        self.closed += 1;
        if self.closed < self.of {
            self.give_back();
        } else {
            self.count(table);
        }
    }

    /// One that was taken is not needed.
    pub(crate) fn give_back(&self) {
        self.places.add_permits(1);
    }

    fn count(&mut self, table: &mut ResourceTable) {
        self.closed = 0;
        let there = table.iter_mut().filter(|entry| entry.is::<TcpSocket>());
        let free = self.of.saturating_sub(there.count());
        let counted = self.places.available_permits();
        self.places.add_permits(free.saturating_sub(counted));
        self.places.forget_permits(counted.saturating_sub(free));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_comes_waits_until_one_is_closed() {
        let mut table = ResourceTable::new();
        let mut room = Room::new(2 * SHARE);
        let door = room.door();
        let wait = || door.clone().pass();
        assert!(wait().now_or_never().is_some() && room.take(&mut table));
        let mut third = pin!(wait());
        assert!(third.as_mut().now_or_never().is_none());
        room.close(&mut table);
        assert!(third.now_or_never().is_some());
        assert!(wait().now_or_never().is_none());
    }

    #[test]
    fn what_the_guest_never_had_is_found_to_be_free() {
        let mut table = ResourceTable::new();
        let mut room = Room::new(3 * SHARE);
        let door = room.door();
        let wait = || door.clone().pass();
        for _ in 0..3 {
            assert!(wait().now_or_never().is_some());
        }
        assert!(wait().now_or_never().is_none(), "none is left");
        assert!(room.take(&mut table), "and none is there");
        // What came without having taken room is no more room when it is closed.
        for _ in 0..3 * 10 {
            room.close(&mut table);
        }
        let free = (0..).take_while(|_| wait().now_or_never().is_some());
        assert_eq!(free.count(), 3);
    }

    #[test]
    fn there_is_room_for_a_listener_and_a_connection() {
        assert_eq!(Room::new(0).of, 2);
        assert_eq!(Room::new(usize::MAX).of, Semaphore::MAX_PERMITS);
    }
}
