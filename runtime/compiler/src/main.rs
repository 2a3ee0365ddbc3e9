//! `containerd-shim-wasi-compile SHA256`: wasm on stdin, a wasmtime artifact on stdout.
//!
//! Compiling a stranger's module is the riskiest work there is for the shim: it takes gigabytes, may
//! take minutes, and upstream does not count a crash of the compiler as a vulnerability. So it runs
//! here, in a child that has two descriptors, no privileges and hard limits, and that dies with the
//! thread that asked for it. What is wrong with the module is said on stderr, in one line.

use std::io::{Read, Write};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid};
use sha2::{Digest, Sha256};
use wasmtime::Engine;

/// The largest module read, in bytes: ten times the largest in the wild (a CPython is 18 MB).
const MAX_WASM: u64 = 256 << 20;
/// Address space, in bytes. Cranelift took 0.85 GiB for a 16 MB Ruby; more than this is an attack.
const MAX_ADDRESS_SPACE: u64 = 8 << 30;
/// CPU seconds over all threads. Ruby took 61.
const MAX_CPU: u64 = 900;
/// The uid and gid of `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    match confine().and_then(|()| compile()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Nobody is left to tell if stderr is gone; the exit code still says it failed.
            drop(writeln!(std::io::stderr(), "{reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Gives up everything but stdin, stdout and stderr. Before the first byte of the module is read.
fn confine() -> Result<(), String> {
    for (resource, limit) in [
        (Resource::As, MAX_ADDRESS_SPACE),
        (Resource::Cpu, MAX_CPU),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        rustix::process::setrlimit(resource, limit)
            .map_err(|error| format!("cannot limit {resource:?}: {error}"))?;
    }
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        rustix::thread::set_thread_groups(&[])
            .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
            .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
            .map_err(|error| format!("cannot become uid {NOBODY}: {error}"))?;
    }
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| format!("cannot set no_new_privs: {error}"))?;
    // After the change of uid, which clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot tie itself to the shim: {error}"))
}

fn compile() -> Result<(), String> {
    let expected = std::env::args()
        .nth(1)
        .ok_or("usage: containerd-shim-wasi-compile SHA256 < wasm > artifact")?;
    let mut wasm = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_WASM + 1)
        .read_to_end(&mut wasm)
        .map_err(|error| format!("cannot read the module: {error}"))?;
    if wasm.len() as u64 > MAX_WASM {
        return Err(format!("the module is larger than {} MiB", MAX_WASM >> 20));
    }
    let digest = hex(&Sha256::digest(&wasm));
    if digest != expected {
        return Err(format!(
            "the module changed while it was read: sha256 {digest} where {expected} was expected"
        ));
    }
    let engine = Engine::new(&wasi_settings::config())
        .map_err(|error| format!("cannot make an engine: {error:#}"))?;
    let artifact = if is_component(&wasm) {
        engine.precompile_component(&wasm)
    } else {
        engine.precompile_module(&wasm)
    }
    .map_err(|error| format!("{error:#}"))?;
    std::io::stdout()
        .write_all(&artifact)
        .map_err(|error| format!("cannot write the artifact: {error}"))
}

/// The layer field of the preamble: 1 is a component, 0 a core module (component model, Binary.md).
fn is_component(wasm: &[u8]) -> bool {
    wasm.get(6..8) == Some(&[1, 0])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
