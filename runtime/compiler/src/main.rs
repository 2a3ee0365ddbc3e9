//! `containerd-shim-wasi-compile SHA256 SETTINGS`: wasm on stdin, a wasmtime artifact and its [`Positions`] on stdout. With
//! `SHA256:SIZE:NAME` for each of several components, that are on stdin one after the other, instead of one
//! digest: they are composed into one first.
//!
//! Compiling a stranger's module is the riskiest work there is for the shim: it takes gigabytes, may
//! take minutes, and upstream does not count a crash of the compiler as a vulnerability. So it runs
//! here, in a child that has two descriptors, no privileges, few system calls and hard limits, and that
//! dies with the thread that asked for it. What is wrong with the module is said on stderr, in one line.

mod composition;
mod filter;
mod strides;

use std::io::{Read, Write};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid};
use sha2::{Digest, Sha256};
use wasi_settings::{EXIT_ASYNCHRONOUS, MAX_WASM, Positions, Settings};
use wasmtime::Engine;

/// Address space, in bytes. Cranelift took 0.85 GiB for a 16 MB Ruby; more than this is an attack.
const MAX_ADDRESS_SPACE: u64 = 8 << 30;
/// CPU seconds over all threads. Ruby took 61.
const MAX_CPU: u64 = 900;
/// The largest artifact, in bytes: eight times the largest module, where three times is usual.
const MAX_ARTIFACT: u64 = 2 << 30;
/// Threads of the pool. The allocator reserves 64 MiB of address space for each, so that as many as a
/// large node has processors would alone go beyond [`MAX_ADDRESS_SPACE`].
const MAX_THREADS: usize = 16;
/// wasmparser's words, of each of the component model's features that WASI 0.3 is made of.
const ASYNCHRONOUS: &str = "requires the component model async";
/// The uid and gid of `nobody`, who owns nothing.
const NOBODY: u32 = 65534;

fn main() -> ExitCode {
    let done = order().and_then(|(order, settings)| {
        confine()?;
        let engine = prepare(settings)?;
        filter::install()?;
        compile(&engine, &order)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Nobody is left to tell if stderr is gone; the exit code still says it failed.
            drop(writeln!(std::io::stderr(), "{reason}"));
            if reason.contains(ASYNCHRONOUS) {
                ExitCode::from(EXIT_ASYNCHRONOUS)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// What is on stdin.
#[derive(Debug)]
enum Order {
    /// Wasm with this digest.
    One(String),
    /// Components to be composed.
    Several(Vec<Part>),
}

/// One of several components.
#[derive(Debug)]
struct Part {
    digest: String,
    size: usize,
    /// What people know it by.
    name: String,
}

/// What is on stdin, and what its machine code is to be made for.
fn order() -> Result<(Order, Settings), String> {
    let mut args = std::env::args().skip(1).collect::<Vec<_>>();
    let settings = args.pop().as_deref().and_then(Settings::from_name);
    let order = match args.as_slice() {
        [digest] if !digest.contains(':') => Some(Order::One(digest.clone())),
        parts => {
            let parts: Option<Vec<Part>> = parts.iter().map(|part| Part::parse(part)).collect();
            parts.filter(|parts| !parts.is_empty()).map(Order::Several)
        }
    };
    order.zip(settings).ok_or_else(|| {
        "usage: containerd-shim-wasi-compile SHA256 fence|epoch[-async] < wasm > artifact, or with \
         SHA256:SIZE:NAME for each of several components"
            .to_owned()
    })
}

impl Part {
    fn parse(argument: &str) -> Option<Self> {
        let mut parts = argument.splitn(3, ':');
        let (digest, size, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            digest: digest.to_owned(),
            size: size.parse().ok()?,
            name: match name {
                "" => format!("sha256:{digest}"),
                name => format!("{name} (sha256:{digest})"),
            },
        })
    }
}

/// Gives up everything but stdin, stdout and stderr. Before the first byte of the module is read.
fn confine() -> Result<(), String> {
    // No cgroup of a pod bounds what it takes, so it is the first that the kernel ends when the host has no
    // more memory (proc(5)). Without /proc it is as likely as its shim.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    for (resource, limit) in [
        (Resource::As, MAX_ADDRESS_SPACE),
        (Resource::Cpu, MAX_CPU),
        (Resource::Fsize, MAX_ARTIFACT),
        (Resource::Core, 0),
    ] {
        // A limit that whoever started this has set lower stays.
        let limit = rustix::process::getrlimit(resource)
            .maximum
            .map_or(limit, |inherited| inherited.min(limit));
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
        .map_err(|error| format!("cannot tie itself to the shim: {error}"))?;
    // A shim that was gone by then signals nothing, and reads nothing either.
    let stderr = std::io::stderr();
    let mut reader = [PollFd::new(&stderr, PollFlags::empty())];
    rustix::event::poll(&mut reader, Some(&Timespec::default()))
        .map_err(|error| format!("cannot look for the shim: {error}"))?;
    if reader[0].revents().contains(PollFlags::ERR) {
        return Err("the shim is gone".to_owned());
    }
    Ok(())
}

/// Makes what the filter would not let it make: the pool's threads, which count the processors in
/// `/proc` and `/sys`, and the engine, which looks at the processor. The threads inherit the uid.
fn prepare(settings: Settings) -> Result<Engine, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Returns when all of them run.
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.min(MAX_THREADS))
        .build_global()
        .map_err(|error| format!("cannot start its threads: {error}"))?;
    Engine::new(&wasi_settings::config(settings))
        .map_err(|error| format!("cannot make an engine: {error:#}"))
}

fn compile(engine: &Engine, order: &Order) -> Result<(), String> {
    let mut wasm = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_WASM + 1)
        .read_to_end(&mut wasm)
        .map_err(|error| format!("cannot read the module: {error}"))?;
    if wasm.len() as u64 > MAX_WASM {
        return Err(format!("the module is larger than {} MiB", MAX_WASM >> 20));
    }
    let wasm = match order {
        Order::One(digest) => {
            check(&wasm, digest)?;
            wasm
        }
        Order::Several(parts) => composed(&wasm, parts)?,
    };
    // What is refused then, if the module itself is not, has become larger than a module may be.
    let strided = strides::strided(&wasm)
        .and_then(|strided| Some((precompile(engine, &strided.wasm).ok()?, strided.positions)));
    let (mut artifact, positions) = match strided {
        Some(compiled) => compiled,
        None => (precompile(engine, &wasm)?, Positions::default()),
    };
    if artifact.len() as u64 > MAX_ARTIFACT {
        return Err(format!(
            "its machine code is larger than {} MiB",
            MAX_ARTIFACT >> 20
        ));
    }
    artifact.extend(positions.to_bytes());
    std::io::stdout()
        .write_all(&artifact)
        .map_err(|error| format!("cannot write the artifact: {error}"))
}

fn precompile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, String> {
    if is_component(wasm) {
        engine.precompile_component(wasm)
    } else {
        engine.precompile_module(wasm)
    }
    .map_err(|error| reason(&format!("{error:#}")))
}

fn check(wasm: &[u8], expected: &str) -> Result<(), String> {
    let digest = hex(&Sha256::digest(wasm));
    if digest == expected {
        return Ok(());
    }
    Err(format!(
        "the module changed while it was read: sha256 {digest} where {expected} was expected"
    ))
}

/// The one component that `parts`, whose bytes are `wasm`, are together.
fn composed(mut wasm: &[u8], parts: &[Part]) -> Result<Vec<u8>, String> {
    let mut layers = Vec::new();
    for Part { digest, size, name } in parts {
        let (layer, rest) = wasm
            .split_at_checked(*size)
            .ok_or_else(|| format!("layer {name} is shorter than {size} bytes"))?;
        check(layer, digest)?;
        layers.push(composition::Layer { name, wasm: layer });
        wasm = rest;
    }
    if !wasm.is_empty() {
        return Err(format!("{} bytes follow the last layer", wasm.len()));
    }
    composition::compose(&layers)
}

/// What the compiler says, and in words of ours where its own do not tell what to do.
fn reason(said: &str) -> String {
    if said.contains("threads must be enabled") {
        return format!(
            "{said}: it is a program with threads (wasi-threads), which this runtime does not run; \
             build it without them"
        );
    }
    said.to_owned()
}

/// The layer field of the preamble: 1 is a component, 0 a core module (component model, Binary.md).
fn is_component(wasm: &[u8]) -> bool {
    wasm.get(6..8) == Some(&[1, 0])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
