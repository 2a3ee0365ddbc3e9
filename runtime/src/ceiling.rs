//! What bounds the process that guests live in, all of them and the host's own memory together: a limit of
//! its cgroup, for example. Beyond it the kernel ends the process. A guest whose growth would lead there is
//! ended before that, alone.

use std::fmt;

/// A bound of the process, which the embedder knows and a [`Budget`](crate::Budget) asks.
pub trait Ceiling: fmt::Debug + Send + Sync {
    /// Asked, on the guest's thread, before it gets `more` bytes: the limit, in bytes, that would be passed
    /// by that, if there is one. To be answered within microseconds.
    fn passed_by(&self, more: u64) -> Option<u64>;
}
