//! What a guest is given: plain values and descriptors.
//!
//! Everything is off until it is set: no arguments, no environment, no directory, closed stdin,
//! discarded output, no network, a budget without limits.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use crate::{Budget, Input, Limits, Network, Output, Service};

/// A program's surroundings. [`Artifact::prepare`](crate::Artifact::prepare) takes it.
#[derive(Debug, Default)]
pub struct Guest {
    /// The export to call instead of the program's start: a function that takes nothing. A component's
    /// may be in an interface: `wasi:cli/run@0.2.0#run`. What it returns is the exit code: nothing is
    /// 0, as is a `result` that is `ok`, `err` is 1, a number is itself.
    pub export: Option<String>,
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
    /// Whom it may talk to, in the network namespace of the thread that runs it.
    pub network: Network,
    /// Sockets that listen, the first being the descriptor after the preopens. They are for WASI 0.1,
    /// which can accept connections and not ask for them; 0.2 makes its own. Their number is handed over
    /// as `LISTEN_FDS`, unless `env` has one. They do not block at first, as is usual with other
    /// runtimes and as Go wants it: a program that accepts in a blocking way says so
    /// (`set_nonblocking(false)`).
    pub listeners: Vec<TcpListener>,
    /// How a component that [serves HTTP](crate::Artifact::serves_http) does it, which it needs. What it is
    /// given otherwise every request's instance is given.
    pub http: Option<Service>,
    /// What `wasi:config/store` has, names and values.
    pub config: Vec<(String, String)>,
    /// Whether a component may import `wasi:tls`, whose interface is a draft. wasmtime counts it as
    /// unstable.
    pub tls: bool,
    /// Whom `https` and `wasi:tls` trust.
    pub authorities: Authorities,
}

/// The certificate authorities that a guest trusts, and no others.
#[derive(Debug, Default)]
pub enum Authorities {
    /// Mozilla's, as of this build.
    #[default]
    BuiltIn,
    /// Those in a regular file of certificates in PEM, of at most 16 MiB, which is read when the first
    /// connection is made. One without a certificate is like nobody.
    File(File),
    /// No connection is made.
    Nobody,
}

/// A directory handed to a guest.
#[derive(Debug)]
pub struct Preopen {
    /// The directory. Its mounts, and who may do what in them, are the kernel's affair.
    pub directory: OwnedFd,
    /// Its name in the guest, such as `/`.
    pub name: String,
}
