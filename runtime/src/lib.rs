//! Runs one WASI program as a confined, interruptible future: a [`Guest`] goes in, an [`Outcome`]
//! comes out.
//!
//! ```text
//! Engine ── one per process: settings, code registry, the epoch that interrupts guests
//!   │ Cache::load(&engine, wasm)     compiled once per content, in a child process
//!   ▼
//! Artifact ── machine code mapped from the cache, shared by every guest that runs it
//!   │ prepare(guest)                 imports are checked here: a bad image fails before it starts
//!   ▼
//! Prepared ── a store with everything the guest may reach; nothing has run
//!   │ run().await                    polled on the thread that the guest is to be confined to
//!   ▼
//! Outcome ── how it ended
//! ```
//!
//! The crate opens no host path, reads no host environment and knows no container. What a guest can
//! reach was handed in as a value or a file descriptor; an absent one is absent for the guest.

mod artifact;
mod cache;
mod compiler;
mod engine;
mod entry;
mod error;
mod guest;
mod host;
mod interrupt;
mod limits;
mod outcome;
mod prepared;
mod stdio;

pub use artifact::Artifact;
pub use cache::{Cache, Loaded, Origin};
pub use compiler::Compiler;
pub use engine::Engine;
pub use error::Error;
pub use guest::{Guest, Preopen};
pub use interrupt::Interrupter;
pub use limits::Limits;
pub use outcome::Outcome;
pub use prepared::Prepared;
pub use stdio::{Input, Output};
