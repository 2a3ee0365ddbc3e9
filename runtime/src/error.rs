//! What can go wrong before a guest runs.
//!
//! Each variant says whose fault it is: the image's ([`Error::is_guest_fault`]), which a better image
//! mends, or the host's, which only the node's owner can mend. What goes wrong *while* a guest runs
//! is no error but an [`Outcome`](crate::Outcome).

use std::io;

/// Why a guest could not be loaded or prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The compiler refused the module; `reason` is its own words. The image's fault.
    #[error("cannot compile it: {reason}")]
    Compile {
        /// What the compiler wrote.
        reason: String,
    },
    /// The program imports what is not provided. The image's fault.
    #[error(
        "it imports {}, which this runtime does not provide (it provides: {})",
        .imports.join(", "), .provided.join(", ")
    )]
    Unresolved {
        /// The imports, as `module::name` or a component's interface.
        imports: Vec<String>,
        /// What could have been imported.
        provided: Vec<String>,
    },
    /// An import exists, but not as the program wants it. The image's fault.
    #[error("its imports do not fit: {reason}")]
    Import {
        /// What wasmtime says of it.
        reason: String,
    },
    /// Something that has to be asked for. The caller's fault.
    #[error("it {what}, which is off; the option {option} turns it on")]
    Off {
        /// What it does or is.
        what: String,
        /// What turns it on.
        option: &'static str,
    },
    /// Listening sockets for a component, which could not get at them. The caller's fault.
    #[error(
        "it is a component, which opens its own sockets, or HTTP middleware: listening ones are for modules that are called"
    )]
    Listeners,
    /// A program that serves HTTP, without a socket to do that. The caller's fault.
    #[error(
        "it serves HTTP, which only the container's own program can do; name another export to call"
    )]
    NoSocket,
    /// A socket for a program that does not serve HTTP. The caller's fault.
    #[error(
        "it serves no HTTP: it is no component that exports wasi:http/incoming-handler@0.2 (and no command beside), or another export was asked for"
    )]
    NoHandler,
    /// HTTP middleware that has nothing behind it. The caller's fault.
    #[error(
        "it is HTTP middleware (it imports http_handler), which needs an upstream to pass requests on to"
    )]
    NoUpstream,
    /// An upstream for a component. The caller's fault.
    #[error("it is a component that serves HTTP, and no middleware: it has no use for an upstream")]
    NoMiddleware,
    /// Nothing to call. The image's fault.
    #[error("it exports no {wanted}: it is a library, not a program{}", could_be_asked_for(.callable))]
    NoEntrypoint {
        /// The export that a program has.
        wanted: &'static str,
        /// Exports that [`Guest::export`](crate::Guest::export) could name.
        callable: Vec<String>,
    },
    /// The export that was asked for cannot be called. The caller's fault.
    #[error("its export {wanted} cannot be called: {reason}{}", could_be_asked_for(.callable))]
    NoExport {
        /// What was asked for.
        wanted: String,
        /// Why not.
        reason: String,
        /// Exports that [`Guest::export`](crate::Guest::export) could name.
        callable: Vec<String>,
    },
    /// An argument or variable that WASI cannot carry. The caller's fault.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// Which one.
        what: String,
    },
    /// The compile child could not be run. The host's fault.
    #[error("cannot run the compiler {program}")]
    Compiler {
        /// Its path.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread that limits guests could not be started. The host's fault.
    #[error("cannot start the thread that {what}")]
    Thread {
        /// What it is for.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The artifact cache does not work. The host's fault.
    #[error("the artifact cache: cannot {action}")]
    Cache {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The cache folder can be written by others, who could put native code into every pod.
    #[error(
        "the artifact cache belongs to uid {uid} with mode {mode:o}; it has to belong to uid \
         {wanted} and be closed to all others (mode 700)"
    )]
    CacheOpen {
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
        /// The owner it has to have.
        wanted: u32,
    },
    /// A descriptor that was handed in cannot be used. The host's fault.
    #[error("cannot hand {what} to the guest")]
    Descriptor {
        /// Which one.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// wasmtime itself failed. The host's fault.
    #[error("the engine: {reason}")]
    Engine {
        /// What wasmtime says, with its causes.
        reason: String,
    },
}

impl Error {
    /// Whether a better image or bundle mends it; else it is the host that fails.
    #[must_use]
    pub fn is_guest_fault(&self) -> bool {
        match self {
            Self::Compile { .. }
            | Self::Unresolved { .. }
            | Self::Import { .. }
            | Self::NoEntrypoint { .. }
            | Self::NoExport { .. }
            | Self::Off { .. }
            | Self::Listeners
            | Self::NoSocket
            | Self::NoHandler
            | Self::NoUpstream
            | Self::NoMiddleware
            | Self::Nul { .. } => true,
            Self::Compiler { .. }
            | Self::Thread { .. }
            | Self::Cache { .. }
            | Self::CacheOpen { .. }
            | Self::Descriptor { .. }
            | Self::Engine { .. } => false,
        }
    }

    pub(crate) fn engine(error: wasmtime::Error) -> Self {
        Self::Engine {
            reason: format!("{error:#}"),
        }
    }

    pub(crate) fn cache(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Cache { action, source }
    }
}

/// An error and its causes, in a line.
pub(crate) fn because(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// How many exports an error lists.
const LISTED: usize = 16;

fn could_be_asked_for(callable: &[String]) -> String {
    if callable.is_empty() {
        return String::new();
    }
    let listed = callable[..callable.len().min(LISTED)].join(", ");
    let more = if callable.len() > LISTED { ", ..." } else { "" };
    format!(" (exports that can be asked for: {listed}{more})")
}
