//! An exec: one more process in a container that is there, with its own program, arguments, user and
//! streams, in the container's files and namespaces.
//!
//! containerd asks twice, first to add it and then to start it. All that can fail is done when it is
//! added: its thread is made, joins the container and parks with the guest linked. That takes its time
//! if the program has to be compiled, and the container's driver must not be held up, so it comes in
//! three steps: the driver reserves the id, the thread is delivered, the driver takes it over.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use wasi_bundles::{ConsoleSize, Process};

use crate::Error;
use crate::ask::Ask;
use crate::confine::{Joining, Parked};
use crate::container::Container;
use crate::process::View;
use crate::stdio::{GuestStdio, Holds, Owner, StdioPaths};

/// What an exec is asked for.
#[derive(Debug)]
pub struct Execution {
    /// Its id, of which the container has one at a time.
    pub id: String,
    /// What to run.
    pub process: Process,
    /// The streams.
    pub stdio: StdioPaths,
    /// Whether stdio is a terminal.
    pub terminal: bool,
}

/// An id that is taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation(Arc<()>);

/// An exec whose thread is parked.
pub(crate) struct Newborn {
    pub(crate) id: String,
    pub(crate) stdio: StdioPaths,
    pub(crate) holds: Holds,
    pub(crate) thread: Parked,
    pub(crate) reservation: Reservation,
}

/// The ids that are taken by execs to come.
#[derive(Debug, Default)]
pub(crate) struct Reservations(HashMap<String, Weak<()>>);

/// The execs of a container, to those who do not drive it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Execs {
    /// All that were added and not deleted.
    pub(crate) by_id: HashMap<String, Arc<View>>,
}

impl Reservations {
    /// Takes an id, if nobody has it.
    pub(crate) fn reserve(&mut self, id: &str) -> Option<Reservation> {
        self.0.retain(|_, token| token.strong_count() > 0);
        if self.0.contains_key(id) {
            return None;
        }
        let reservation = Reservation(Arc::default());
        self.0.insert(id.to_owned(), Arc::downgrade(&reservation.0));
        Some(reservation)
    }
}

impl Container {
    /// Adds an exec, and parks it before its first instruction. When this is dropped meanwhile, nothing
    /// is left of it: who asked did not wait, and will not ask for this id again.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`]; [`Error::Refused`] as
    /// [`may_exec`](crate::lifecycle::may_exec) has it; what stands in the way of the program, above all
    /// [`Error::Exec`].
    pub async fn exec(&self, execution: Execution) -> Result<(), Error> {
        let Execution {
            id,
            process,
            stdio,
            terminal,
        } = execution;
        let asked = id.clone();
        let (reservation, place) = self.ask(|reply| Ask::Reserve { id: asked, reply }).await?;
        let size = terminal.then_some(process.console_size);
        let (holds, guest) = self.open(&id, &stdio, size).await?;
        let joining = Joining {
            place,
            process,
            stdio: guest,
        };
        let thread = joining.deliver(&id).await?;
        let exec = Box::new(Newborn {
            id,
            stdio,
            holds,
            thread,
            reservation,
        });
        self.ask(|reply| Ask::Add { exec, reply }).await
    }

    /// Opens an exec's streams, in a task of its own: a logger that was started is waited for to its end,
    /// also when nobody wants the exec any more.
    async fn open(
        &self,
        id: &str,
        stdio: &StdioPaths,
        terminal: Option<ConsoleSize>,
    ) -> Result<(Holds, GuestStdio), Error> {
        let (namespace, id) = (self.about().namespace.clone(), id.to_owned());
        let stdio = stdio.clone();
        let opened = tokio::spawn(async move {
            let owner = Owner {
                namespace: &namespace,
                id: &id,
            };
            stdio.open(owner, terminal).await
        });
        opened.await.map_err(|_| Error::Panicked)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_until_its_reservation_is_gone() {
        let mut reservations = Reservations::default();
        let first = reservations.reserve("a").unwrap();
        assert!(reservations.reserve("a").is_none());
        assert!(reservations.reserve("b").is_some());
        drop(first);
        assert!(reservations.reserve("a").is_some());
        assert_eq!(reservations.0.len(), 1, "what is free is forgotten");
    }
}
