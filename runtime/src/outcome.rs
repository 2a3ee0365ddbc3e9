//! How a guest ended, without numbers of any protocol.

use std::fmt;
use std::time::Duration;

use wasmtime::Trap;
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::limits::MemoryLimitHit;
use crate::mapped::Mapped;
use crate::{Limits, trace};

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It returned or called `proc_exit`; the code is its own. To return is 0, or what an export that
    /// was asked for returned; a component's `err` is 1.
    Exited(u32),
    /// It trapped: `trace` is the trap with the wasm backtrace, already written to its stderr.
    Trapped {
        /// What happened, then a line for each frame.
        trace: String,
    },
    /// It wanted more memory than its budget had, in bytes.
    OutOfMemory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// It wanted more memory than the process had left, by the [`Ceiling`](crate::Ceiling) of its budget.
    NoMemoryLeft {
        /// The limit, in bytes, of all that it shares.
        limit: u64,
    },
    /// It called deeper than its stack: `trace` as for a trap.
    StackOverflow {
        /// What happened, then a line for each frame.
        trace: String,
    },
    /// It wanted more of something than its [`Limits`](crate::Limits) allow.
    TooMany {
        /// Of what.
        what: Countable,
        /// The limit.
        limit: usize,
    },
    /// Its [`Limits::deadline`](crate::Limits::deadline) has passed.
    DeadlineExceeded {
        /// The deadline.
        after: Duration,
    },
    /// Its [`Interrupter`](crate::Interrupter) killed it.
    Killed,
}

/// What a guest may have only so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Countable {
    /// [`Limits::handles`](crate::Limits::handles).
    Handles,
    /// Core instances: [`Limits::instances`](crate::Limits::instances).
    Instances,
    /// Memories, which the same limit is for.
    Memories,
    /// Tables, which the same limit is for.
    Tables,
}

impl fmt::Display for Countable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handles => "open files, sockets and streams",
            Self::Instances => "instances",
            Self::Memories => "memories",
            Self::Tables => "tables",
        })
    }
}

impl Outcome {
    /// Reads the outcome of a call into the guest.
    pub(crate) fn of(result: wasmtime::Result<u32>, limits: &Limits, mapped: &Mapped) -> Self {
        let error = match result {
            Ok(code) => return Self::Exited(code),
            Err(error) => error,
        };
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Self::Exited(exit.0.cast_unsigned());
        }
        if let Some(hit) = error.downcast_ref::<MemoryLimitHit>() {
            return match *hit {
                MemoryLimitHit::Budget { limit, .. } => Self::OutOfMemory { limit },
                MemoryLimitHit::Ceiling { limit, .. } => Self::NoMemoryLeft { limit },
            };
        }
        if let Some((what, limit)) = too_many(&error, limits) {
            return Self::TooMany { what, limit };
        }
        let trace = trace::of(&error, mapped);
        if error.downcast_ref::<Trap>() == Some(&Trap::StackOverflow) {
            return Self::StackOverflow { trace };
        }
        Self::Trapped { trace }
    }

    /// How the host ended it, in a line: none for what the guest did itself (that has a trace), and for
    /// what somebody ordered.
    #[must_use]
    pub fn limit(&self) -> Option<String> {
        match self {
            Self::OutOfMemory { limit } => Some(format!(
                "the guest reached its memory limit of {limit} bytes"
            )),
            Self::NoMemoryLeft { limit } => Some(format!(
                "no memory is left for the guest: all that share the limit of {limit} bytes have reached it"
            )),
            Self::TooMany { what, limit } => {
                Some(format!("the guest reached its limit of {limit} {what}"))
            }
            Self::DeadlineExceeded { after } => {
                Some(format!("the guest reached its deadline of {after:?}"))
            }
            Self::StackOverflow { .. } => Some("the guest used up its stack".to_owned()),
            Self::Exited(_) | Self::Trapped { .. } | Self::Killed => None,
        }
    }

    /// What the guest's stderr ends with.
    pub(crate) fn last_words(&self) -> String {
        match self {
            Self::Trapped { trace } | Self::StackOverflow { trace } => trace.clone(),
            Self::OutOfMemory { .. }
            | Self::NoMemoryLeft { .. }
            | Self::TooMany { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Exited(_)
            | Self::Killed => self.limit().map(|limit| limit + "\n").unwrap_or_default(),
        }
    }
}

/// wasmtime has no type for most of them, only words (`StoreOpaque::bump_resource_counts`,
/// `HandleTable::insert` and `resource_lend`); `runtime/tests/all/limits.rs` reaches each, so that other words are
/// found out.
fn too_many(error: &wasmtime::Error, limits: &Limits) -> Option<(Countable, usize)> {
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return Some((Countable::Handles, limits.handles));
    }
    let cause = error.root_cause().to_string();
    if cause.ends_with("resource: store handle limit exceeded")
        || cause.ends_with("handle: store handle limit exceeded")
    {
        return Some((Countable::Handles, limits.handles));
    }
    let what = cause.strip_prefix("resource limit exceeded: ")?;
    let (what, _) = what.split_once(" count too high")?;
    let what = match what {
        "instance" => Countable::Instances,
        "memory" => Countable::Memories,
        "table" => Countable::Tables,
        _ => return None,
    };
    Some((what, limits.instances))
}
