//! What is decided about a life before it begins.

use fastrand::Rng;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Shim,
    Start,
    Compiler,
    /// The shim first, then the `delete` that cleans up after it.
    Delete,
}

/// What was decided about one life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) victim: Victim,
    /// Whether its program is not in the cache.
    pub(crate) fresh: bool,
    /// Whether it runs until it is killed.
    pub(crate) spins: bool,
    pub(crate) pauses: bool,
    /// Whether it has one more process, if it spins.
    pub(crate) execs: bool,
    pub(crate) hooks: bool,
    /// Of the time that such a life takes, when it is hit.
    pub(crate) moment: f64,
}

impl Choice {
    /// Any.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let victim = match rng.u32(..10) {
            0 => Victim::Start,
            1 => Victim::Compiler,
            2 => Victim::Delete,
            _ => Victim::Shim,
        };
        Self {
            victim,
            fresh: victim == Victim::Compiler || rng.u32(..4) == 0,
            // The program that takes long to compile ends at once.
            spins: victim != Victim::Compiler && rng.bool(),
            pauses: rng.bool(),
            execs: rng.bool(),
            hooks: rng.bool(),
            moment: rng.f64(),
        }
    }
}
