//! What fuzz targets want to see of this crate and nobody else does. No promises; behind the feature
//! `internals`.

use std::fs::File;
use std::io;

use wasmtime::ResourceLimiter;

use crate::limits::Limiter;
use crate::{Budget, Limits, Usage, entry};

/// Appends the trailer of a cache entry.
///
/// # Errors
///
/// What reading or writing `file` fails with.
pub fn seal(file: &mut File) -> io::Result<()> {
    entry::seal(file)
}

/// Whether `file` is what was sealed; if not, what is wrong with it.
///
/// # Errors
///
/// What reading `file` fails with.
pub fn check(file: &File) -> io::Result<Result<(), &'static str>> {
    entry::check(file)
}

/// The limiter of a guest that may have `memory` bytes, and what it counts.
#[must_use]
pub fn limiter(memory: Option<u64>) -> (impl ResourceLimiter, Usage) {
    let budget = Budget::default();
    budget.set_memory(memory);
    let usage = budget.usage();
    (Limiter::new(budget, Limits::default()), usage)
}
