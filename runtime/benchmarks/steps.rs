//! What each step from a file to an outcome takes.
//!
//! `cargo bench -p wasi-benchmarks --bench steps`; `-- --test` only sees whether they work. At the end it prints
//! the medians as tables for docs/performance.md.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot run has no figures"
)]
#![allow(clippy::print_stdout, reason = "its output are tables")]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use criterion::{BatchSize, BenchmarkId, Criterion};
use tokio::runtime::{Builder, Runtime};
use wasi_benchmarks::{Host, file, target};
use wasi_runtime::{Engine, Guest, Outcome, Output};
use wasi_settings::Interruption;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::WasiP1Ctx;

/// Its first instructions ask for the time, its last ones say it.
const STAMP: &str = r#"(module
    (import "wasi_snapshot_preview1" "clock_time_get"
        (func $time (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\08\00\00\00")
    (func (export "_start")
        (drop (call $time (i32.const 0) (i64.const 1) (i32.const 16)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// What is done with each program.
const STEPS: [&str; 4] = [
    "load",
    "load, in use already",
    "pre-instantiate",
    "run to its end",
];

/// What is measured of one program only, by its folder.
const PARTS: [&str; 3] = [
    "instantiate_a module (wasmtime alone)",
    "a module/run to first instruction",
    "a module/write 8 bytes, exit, free",
];

fn programs() -> Vec<(&'static str, File)> {
    let guest = |name: &str| File::open(target().join("guests").join(name));
    let made =
        |name| guest(name).unwrap_or_else(|_| panic!("there is no {name}: run `make guests`"));
    vec![
        ("hello, module", made("hello.wasm")),
        ("hello, component", made("hello.component.wasm")),
        ("hello, Go", made("hello-go.wasm")),
    ]
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn steps(criterion: &mut Criterion) {
    let host = Host::new(Engine::new().unwrap()).unwrap();
    let tokio = runtime();
    for (name, wasm) in programs() {
        // Compiled, and not in use.
        drop(host.load(&wasm).unwrap());
        criterion.bench_function(format!("load/{name}").as_str(), |bencher| {
            // One at a time: while one lives, the next is not mapped.
            bencher.iter_batched(
                || (),
                |()| host.load(&wasm).unwrap(),
                BatchSize::PerIteration,
            );
        });
        let artifact = host.load(&wasm).unwrap();
        criterion.bench_function(format!("load, in use already/{name}").as_str(), |bencher| {
            bencher.iter_with_large_drop(|| host.load(&wasm).unwrap());
        });
        criterion.bench_function(format!("pre-instantiate/{name}").as_str(), |bencher| {
            bencher.iter_with_large_drop(|| artifact.prepare(Guest::default()).unwrap());
        });
        criterion.bench_function(format!("run to its end/{name}").as_str(), |bencher| {
            bencher.iter_batched(
                || artifact.prepare(Guest::default()).unwrap(),
                |prepared| assert_eq!(tokio.block_on(prepared.run()), Outcome::Exited(0)),
                BatchSize::SmallInput,
            );
        });
    }
}

/// The part of the first instruction that is wasmtime's own.
fn instantiate(criterion: &mut Criterion) {
    let host = Host::new(Engine::new().unwrap()).unwrap();
    let tokio = runtime();
    let wasm = file(&wat::parse_str(STAMP).unwrap()).unwrap();
    drop(host.load(&wasm).unwrap());
    let engine = wasmtime::Engine::new(&wasi_settings::config(Interruption::BEST)).unwrap();
    let entries = std::fs::read_dir(host.folder()).unwrap();
    let modules = entries.map(|entry| {
        #[allow(unsafe_code, reason = "loading machine code cannot be safe in general")]
        // SAFETY: the cache's entries are what wasmtime's compiler wrote, and nobody else has the folder.
        unsafe {
            wasmtime::Module::deserialize_file(&engine, entry.unwrap().path()).unwrap()
        }
    });
    // Not what the engine itself has there.
    let module = modules.max_by_key(|module| module.imports().len()).unwrap();
    let mut linker: wasmtime::Linker<WasiP1Ctx> = wasmtime::Linker::new(&engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |context| context).unwrap();
    let instance = linker.instantiate_pre(&module).unwrap();
    criterion.bench_function("instantiate/a module (wasmtime alone)", |bencher| {
        bencher.iter_batched(
            || {
                let context = WasiCtxBuilder::new().build_p1();
                wasmtime::Store::new(&engine, context)
            },
            |mut store| {
                tokio
                    .block_on(instance.instantiate_async(&mut store))
                    .unwrap();
                store
            },
            BatchSize::SmallInput,
        );
    });
}

/// By the guest's own clock: from `run` to what it does first, and from there to the outcome.
fn first_and_last(criterion: &mut Criterion) {
    let host = Host::new(Engine::new().unwrap()).unwrap();
    let tokio = runtime();
    let wasm = file(&wat::parse_str(STAMP).unwrap()).unwrap();
    let artifact = host.load(&wasm).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdout = Output::from_fd(writer.into()).unwrap();
    let mut run = || {
        let prepared = artifact.prepare(Guest {
            stdout: stdout.clone(),
            ..Guest::default()
        });
        let prepared = prepared.unwrap();
        let begun = SystemTime::now();
        assert_eq!(tokio.block_on(prepared.run()), Outcome::Exited(0));
        let ended = SystemTime::now();
        let mut stamp = [0; 8];
        reader.read_exact(&mut stamp).unwrap();
        let first = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::from_le_bytes(stamp));
        // The clock may have been set meanwhile.
        let between =
            |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        (between(begun, first), between(first, ended))
    };
    let mut group = criterion.benchmark_group("a module");
    group.bench_function(
        BenchmarkId::from_parameter("run to first instruction"),
        |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| run().0).sum());
        },
    );
    group.bench_function(
        BenchmarkId::from_parameter("write 8 bytes, exit, free"),
        |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| run().1).sum());
        },
    );
    group.finish();
}

/// Where criterion keeps what it measured.
fn results() -> PathBuf {
    target().join("criterion")
}

/// The median of a benchmark, if it has run.
fn median(folder: &Path) -> Option<String> {
    let estimates = std::fs::read(folder.join("new/estimates.json")).ok()?;
    let estimates: serde_json::Value = serde_json::from_slice(&estimates).unwrap();
    let microseconds = estimates["median"]["point_estimate"].as_f64()? / 1000.0;
    Some(if microseconds < 1000.0 {
        format!("{microseconds:.0} us")
    } else {
        format!("{:.1} ms", microseconds / 1000.0)
    })
}

fn tables() {
    let told = |folder: &Path| median(folder).unwrap_or_default();
    let programs: Vec<_> = programs().into_iter().map(|(name, _)| name).collect();
    println!("| | {} |", programs.join(" | "));
    println!("|---|{}", "---|".repeat(programs.len()));
    for step in STEPS {
        let medians = programs
            .iter()
            .map(|name| told(&results().join(format!("{step}_{name}"))));
        println!("| {step} | {} |", medians.collect::<Vec<_>>().join(" | "));
    }
    println!("\n| of a module that says the time | |\n|---|---|");
    for part in PARTS {
        let name = part.replacen("a module/", "", 1).replace('_', ", ");
        println!("| {name} | {} |", told(&results().join(part)));
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .output_directory(&results())
        .configure_from_args();
    steps(&mut criterion);
    instantiate(&mut criterion);
    first_and_last(&mut criterion);
    criterion.final_summary();
    // `--test` measures nothing.
    if !std::env::args().any(|word| word == "--test") {
        tables();
    }
}
