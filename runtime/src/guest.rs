//! What a guest is given: plain values and descriptors.
//!
//! Everything is off until it is set: no arguments, no environment, no directory, closed stdin,
//! discarded output, no network, a budget without limits.

use std::os::fd::OwnedFd;

use crate::{Budget, Input, Limits, Output};

/// A program's surroundings. [`Artifact::prepare`](crate::Artifact::prepare) takes it.
#[derive(Debug, Default)]
pub struct Guest {
    /// `args[0]` is the program's own name.
    pub args: Vec<String>,
    /// Variables, in the order that the guest sees them.
    pub env: Vec<(String, String)>,
    /// The working directory. WASI 0.2 has a call for it. WASI 0.1 has none: there it is handed over
    /// as `PWD`, unless `env` has one, which is where Go's and other runtimes look.
    pub cwd: Option<String>,
    /// Directories the guest may open files in; the first is WASI 0.1's descriptor 3.
    pub preopens: Vec<Preopen>,
    /// Where stdin comes from.
    pub stdin: Input,
    /// Where stdout goes.
    pub stdout: Output,
    /// Where stderr goes, and the trace of a trap.
    pub stderr: Output,
    /// What it may have of the host.
    pub limits: Limits,
    /// What it may use, together with other guests that are given the same one.
    pub budget: Budget,
    /// Whether it may make sockets and look up names, in the network namespace of the thread that
    /// runs it.
    pub network: bool,
}

/// A directory handed to a guest.
#[derive(Debug)]
pub struct Preopen {
    /// The directory. Its mounts, and who may do what in them, are the kernel's affair.
    pub directory: OwnedFd,
    /// Its name in the guest, such as `/`.
    pub name: String,
}
