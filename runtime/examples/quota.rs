//! How exactly CPU quotas are kept: processor time that was used, as a share of what was asked for.
//!
//! ```console
//! $ cargo run --release -p wasi-runtime --example quota
//! ```
//!
//! For one guest, for four that share a budget, and for four with a budget each. What a machine that does other
//! work has to give is measured, too: what the same guests use without a quota, before and after. So `wanted`
//! is the quota, or what there was if that is less, and the last column is how much of it was used: near 1 is
//! exact. Where there was not enough it says nothing of the quota.

#![allow(clippy::print_stdout, reason = "it is its purpose")]

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasi_runtime::{
    Artifact, Budget, Cache, Compiler, CpuQuota, Engine, Guest, Interrupter, Outcome,
};

type Any = Box<dyn std::error::Error>;

const PERIOD: Duration = Duration::from_millis(100);
const TIME: Duration = Duration::from_secs(5);
/// For what the machine has to give.
const SAMPLE: Duration = Duration::from_secs(1);

fn main() -> Result<(), Any> {
    let folder = std::env::temp_dir().join("wasi-quota-example");
    if !folder.is_dir() {
        DirBuilder::new().mode(0o700).create(&folder)?;
    }
    let program = std::env::current_exe()?.with_file_name("../containerd-shim-wasi-compile");
    let cache = Cache::new(File::open(&folder)?.into(), Compiler::new(program))?;
    let path = folder.join("spin.wasm");
    // (module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))
    let spin = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\
        \x07\x13\x02\x06memory\x02\0\x06_start\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";
    std::fs::write(&path, spin)?;
    let artifact = cache.load(&Engine::new()?, &File::open(path)?)?.artifact;
    println!("  quota  guests          given    wanted      used  of wanted");
    for percent in [10, 50, 150] {
        for (guests, budgets) in [(1, 1), (4, 1), (4, 4)] {
            let quota = CpuQuota::new(PERIOD * percent / 100, PERIOD);
            let before = measure(&artifact, None, guests, budgets, SAMPLE)?;
            let used = measure(&artifact, quota, guests, budgets, TIME)?;
            let after = measure(&artifact, None, guests, budgets, SAMPLE)?;
            let given = f64::midpoint(before, after);
            let asked = f64::from(percent * budgets) / 100.0;
            let wanted = asked.min(given);
            let enough = if given > asked { "" } else { "  (not enough)" };
            println!(
                "{percent:>5} %  {guests} of {budgets} budget  {:>7.1} % {:>7.1} % {:>7.1} % {:>10.3}{enough}",
                given * 100.0,
                wanted * 100.0,
                used * 100.0,
                used / wanted,
            );
        }
    }
    Ok(())
}

/// Leaves the processors to the guests.
#[allow(
    clippy::disallowed_methods,
    reason = "what is used in a time is what is measured"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Cores used.
fn measure(
    artifact: &Artifact,
    quota: Option<CpuQuota>,
    guests: u32,
    budgets: u32,
    time: Duration,
) -> Result<f64, Any> {
    let budgets: Vec<Budget> = (0..budgets).map(|_| Budget::default()).collect();
    for budget in &budgets {
        budget.set_cpu(quota)?;
    }
    let running: Vec<_> = (0..guests)
        .zip(budgets.iter().cycle())
        .map(|(_, budget)| run(artifact, budget))
        .collect::<Result<_, Any>>()?;
    // Whole periods, after the first: a share of one would be an error of its own.
    rest(PERIOD * 5);
    let used = || -> Duration { budgets.iter().map(|budget| budget.usage().cpu()).sum() };
    let (begun, before) = (Instant::now(), used());
    rest(time);
    let cores = (used() - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    for (interrupter, thread) in running {
        interrupter.kill();
        assert_eq!(thread.join().expect("it does not panic"), Outcome::Killed);
    }
    Ok(cores)
}

fn run(artifact: &Artifact, budget: &Budget) -> Result<(Interrupter, JoinHandle<Outcome>), Any> {
    let prepared = artifact.prepare(Guest {
        budget: budget.clone(),
        ..Guest::default()
    })?;
    let interrupter = prepared.interrupter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::spawn(move || runtime.block_on(prepared.run()));
    Ok((interrupter, thread))
}
