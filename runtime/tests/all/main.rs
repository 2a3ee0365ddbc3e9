//! What the crate promises, from outside: real artifacts of the real compile child, run on a tokio
//! runtime of one thread, as in the shim.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

mod asynchronous;
mod cache;
mod cache_folder;
mod command;
mod compile_child;
mod compiling;
mod composed;
mod connections;
mod eviction;
mod exports;
mod files;
mod filesystem;
mod filter;
mod fixture;
mod hostile;
mod http;
mod http_asynchronous;
mod http_control;
mod imports;
mod interrupt;
mod limits;
mod locate;
mod middleware;
mod middleware_abi;
mod middleware_trailers;
mod middleware_upstream;
mod network;
mod pool;
mod preempt;
mod serve;
mod sharing;
mod stdio;
mod streams;
mod telemetry;
mod telemetry_failures;
mod tls;
mod urgency;
mod wasm;
