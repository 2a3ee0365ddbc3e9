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
//!
//! # From a file to an outcome
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/locate.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
//! # let folder = tempfile::Builder::new().permissions(mode).tempdir()?;
//! # let path = folder.path().join("app.wasm");
//! # std::fs::write(&path, wat::parse_str(r#"(module
//! #     (import "wasi_snapshot_preview1" "fd_write"
//! #         (func $write (param i32 i32 i32 i32) (result i32)))
//! #     (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
//! #     (memory (export "memory") 1)
//! #     (data (i32.const 0) "\10\00\00\00\06\00\00\00")
//! #     (data (i32.const 16) "hello\n")
//! #     (func (export "_start")
//! #         (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
//! #         (call $exit (i32.const 3))))"#)?)?;
//! use std::fs::File;
//! use std::io::Read;
//!
//! use wasi_runtime::{Cache, Compiler, Engine, Guest, Origin, Outcome, Output};
//!
//! // The folder belongs to us alone; `compiler()` is where `make build` put the compile child.
//! let cache = Cache::new(File::open(folder.path())?.into(), Compiler::new(compiler()))?;
//! let engine = Engine::new()?;
//! let loaded = cache.load(&engine, &File::open(&path)?)?;
//! assert!(matches!(loaded.origin, Origin::Compiled { .. }));
//! assert_eq!(cache.load(&engine, &File::open(&path)?)?.origin, Origin::Mapped);
//!
//! let (mut reader, writer) = std::io::pipe()?;
//! let prepared = loaded.artifact.prepare(Guest {
//!     args: vec!["app".to_owned()],
//!     stdout: Output::from_fd(writer.into())?,
//!     ..Guest::default()
//! })?;
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! assert_eq!(runtime.block_on(prepared.run()), Outcome::Exited(3));
//! let mut said = String::new();
//! reader.read_to_string(&mut said)?;
//! assert_eq!(said, "hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! # Ending a guest
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/locate.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
//! # let folder = tempfile::Builder::new().permissions(mode).tempdir()?;
//! # let path = folder.path().join("app.wasm");
//! # let wasm = wat::parse_str(r#"(module (memory (export "memory") 1)
//! #     (func (export "_start") (loop $forever (br $forever))))"#)?;
//! # use std::fs::File;
//! # use wasi_runtime::{Cache, Compiler, Engine, Guest, Outcome};
//! # std::fs::write(&path, wasm)?;
//! # let cache = Cache::new(File::open(folder.path())?.into(), Compiler::new(compiler()))?;
//! # let loaded = cache.load(&Engine::new()?, &File::open(&path)?)?;
//! // A program that loops forever.
//! let prepared = loaded.artifact.prepare(Guest::default())?;
//! let interrupter = prepared.interrupter();
//! let guest = std::thread::spawn(move || {
//!     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
//!     runtime.expect("an epoll").block_on(prepared.run())
//! });
//! interrupter.kill();
//! assert_eq!(guest.join().expect("it does not panic"), Outcome::Killed);
//! # Ok(())
//! # }
//! ```
//!
//! # A program that does not fit
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/locate.rs"));
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
//! # let folder = tempfile::Builder::new().permissions(mode).tempdir()?;
//! # let path = folder.path().join("app.wasm");
//! # let wasm = wat::parse_str(r#"(module (import "env" "launch" (func)) (func (export "_start")))"#)?;
//! # use std::fs::File;
//! # use wasi_runtime::{Cache, Compiler, Engine, Guest};
//! # std::fs::write(&path, wasm)?;
//! # let cache = Cache::new(File::open(folder.path())?.into(), Compiler::new(compiler()))?;
//! # let loaded = cache.load(&Engine::new()?, &File::open(&path)?)?;
//! let error = loaded.artifact.prepare(Guest::default()).unwrap_err();
//! assert!(error.is_guest_fault());
//! assert_eq!(
//!     error.to_string(),
//!     "it imports env::launch, which this runtime does not provide (it provides: \
//!      wasi_snapshot_preview1)"
//! );
//! # Ok(())
//! # }
//! ```

mod artifact;
mod budget;
mod cache;
mod call;
mod ceiling;
mod compiler;
mod component;
mod composition;
mod connections;
mod deadline;
mod divertible;
mod engine;
mod entry;
mod error;
mod faults;
mod fence;
mod filesystem;
mod folder;
mod guest;
mod host;
mod http;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod interrupt;
mod landing;
mod limits;
mod mapped;
mod meter;
mod middleware;
mod module;
mod network;
mod outcome;
mod pool;
mod prepared;
mod quota;
mod serve;
mod shared;
mod sockets;
mod stdio;
mod telemetry;
mod throttle;
mod tls;
mod trace;
mod urgency;

pub use artifact::Artifact;
pub use budget::{Budget, Usage};
pub use cache::{Cache, Loaded, Origin};
pub use ceiling::Ceiling;
pub use compiler::{Compiler, Progress};
pub use composition::{Composition, Part};
pub use deadline::Clock;
pub use engine::Engine;
pub use error::Error;
pub use guest::{Authorities, Guest, Preopen};
pub use interrupt::Interrupter;
pub use limits::Limits;
pub use middleware::Middleware;
pub use network::{Network, Peer};
pub use outcome::{Countable, Outcome};
pub use pool::Pool;
pub use prepared::Prepared;
pub use quota::{CpuQuota, Throttling};
pub use serve::{Service, Worker};
pub use stdio::{Input, Output};
pub use telemetry::{Collector, Metrics, Telemetry, Traces};
pub use urgency::come_first;
