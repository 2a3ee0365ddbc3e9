//! What can be asked of the driver of a container, by whom it answers.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::Error;
use crate::exec::{Newborn, Reservation};
use crate::lifecycle::{Request, Signal};
use crate::place::Place;
use crate::process::Snapshot;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What can be asked of the driver. `exec` is an exec's id, `None` for the init.
pub(crate) enum Ask {
    Lifecycle {
        exec: Option<String>,
        request: Request,
        reply: Reply<Snapshot>,
    },
    /// A signal to the init and to all execs.
    KillAll { signal: Signal, reply: Reply<()> },
    CloseStdin {
        exec: Option<String>,
        reply: Reply<()>,
    },
    /// Take an id for an exec to come.
    Reserve {
        id: String,
        reply: Reply<(Reservation, Arc<Place>)>,
    },
    /// Do what a bug would.
    #[cfg(test)]
    Panic,
    /// Take over an exec.
    Add {
        exec: Box<Newborn>,
        reply: Reply<()>,
    },
}
