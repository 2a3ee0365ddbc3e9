//! How fast guests compute here, beside the wasmtime command of the same version line, which cannot interrupt
//! them: processor time, each round one run of each, as ratios.
//!
//! `cargo bench -p wasi-benchmarks --bench speed [-- ROUNDS]`

#![allow(clippy::print_stdout, reason = "its output is a table")]

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasi_benchmarks::{Host, target};
use wasi_runtime::{Artifact, Engine, Guest, Outcome};

/// Loops and calls, where a check in the code costs the most.
const KERNELS: [&str; 4] = ["sieve", "fib", "matmul", "xorshift"];
/// Programs as people write them.
const PROGRAMS: [&str; 3] = ["regexes", "json", "deflate"];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    // cargo passes `--bench`; `--test` is criterion's word for seeing whether it works.
    let numbers = std::env::args().skip(1).find_map(|word| word.parse().ok());
    let rounds: usize = numbers.unwrap_or(if std::env::args().any(|word| word == "--test") {
        1
    } else {
        9
    });
    let fence = Host::new(Engine::new()?)?;
    let epoch = Host::new(Engine::with_epochs()?)?;
    let folder = tempfile::tempdir()?;
    let command = Wasmtime(target().join("tools/bin/wasmtime"));
    println!(
        "{} and wasmtime {}, {rounds} rounds",
        command.version()?,
        Engine::VERSION
    );
    println!(
        "| {:<8} | wasmtime, s | fence, s | ratio | least | epoch, s | ratio | least |\n|---{}",
        "",
        "|---".repeat(7) + "|"
    );
    let nothing = folder.path().join("nothing.wasm");
    std::fs::write(
        &nothing,
        wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "_start")))"#)?,
    )?;
    let nothing = command.compile(&nothing, folder.path())?;
    for name in KERNELS.into_iter().chain(PROGRAMS) {
        let wasm = wasm(name, folder.path())?;
        let compiled = command.compile(&wasm, folder.path())?;
        let fence = fence.load(&File::open(&wasm)?)?;
        let epoch = epoch.load(&File::open(&wasm)?)?;
        let mut times = Times::default();
        for _ in 0..rounds {
            // What the command itself takes is none of the program's.
            let own = command.run(&nothing)?;
            times
                .wasmtime
                .push(command.run(&compiled)?.saturating_sub(own));
            times.fence.push(run(&fence)?);
            times.epoch.push(run(&epoch)?);
        }
        times.row(name);
    }
    Ok(())
}

/// The file of a kernel or program.
fn wasm(name: &str, folder: &Path) -> Result<PathBuf> {
    if PROGRAMS.contains(&name) {
        let path = target().join(format!("guests/{name}.wasm"));
        return match path.exists() {
            true => Ok(path),
            false => Err(format!("there is no {}: run `make guests`", path.display()).into()),
        };
    }
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("kernels/{name}.wat"));
    let path = folder.join(format!("{name}.wasm"));
    std::fs::write(&path, wat::parse_file(text)?)?;
    Ok(path)
}

/// Runs a program in this process, and returns the processor time of its thread.
fn run(artifact: &Artifact) -> Result<Duration> {
    let prepared = artifact.prepare(Guest {
        args: vec!["work".to_owned()],
        ..Guest::default()
    })?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let begun = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?;
    let outcome = tokio.block_on(prepared.run());
    let ended = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?;
    if outcome != Outcome::Exited(0) {
        return Err(format!("it ended with {outcome:?}").into());
    }
    Ok(ended - begun)
}

/// The wasmtime command.
struct Wasmtime(PathBuf);

impl Wasmtime {
    fn version(&self) -> Result<String> {
        let output = Command::new(&self.0).arg("--version").output();
        let output = output
            .map_err(|error| format!("{}: {error}; `make setup` installs it", self.0.display()))?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Compiles a program, so that running it is only that.
    fn compile(&self, wasm: &Path, folder: &Path) -> Result<PathBuf> {
        let compiled = folder
            .join(wasm.file_name().unwrap_or_default())
            .with_extension("cwasm");
        let status = Command::new(&self.0)
            .arg("compile")
            .arg("-o")
            .arg(&compiled)
            .arg(wasm)
            .status()?;
        status
            .success()
            .then_some(compiled)
            .ok_or_else(|| format!("wasmtime compile: {status}").into())
    }

    /// Runs what [`Self::compile`] made, and returns the processor time of the process.
    fn run(&self, compiled: &Path) -> Result<Duration> {
        let before = children()?;
        let mut command = Command::new(&self.0);
        command
            .args(["run", "--allow-precompiled"])
            .arg(compiled)
            .stdout(Stdio::null());
        let status = command.status()?;
        if !status.success() {
            return Err(format!("wasmtime run: {status}").into());
        }
        Ok(children()?.saturating_sub(before))
    }
}

/// The processor time of all children that were waited for.
#[allow(unsafe_code, reason = "rustix has no getrusage")]
fn children() -> Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one `rusage` there, for which zeroes are valid, too.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        usage.assume_init()
    };
    let duration = |time: libc::timeval| -> Result<Duration> {
        let microseconds = time.tv_sec * 1_000_000 + time.tv_usec;
        Ok(Duration::from_micros(u64::try_from(microseconds)?))
    };
    Ok(duration(usage.ru_utime)? + duration(usage.ru_stime)?)
}

/// The runs of one program.
#[derive(Default)]
struct Times {
    wasmtime: Vec<Duration>,
    fence: Vec<Duration>,
    epoch: Vec<Duration>,
}

impl Times {
    /// Medians in seconds; the median of the rounds' ratios; the ratio of the least disturbed runs.
    fn row(&self, name: &str) {
        let seconds = |times: &[Duration]| median(times.iter().map(Duration::as_secs_f64));
        let ratio = |times: &[Duration]| {
            let rounds = times.iter().zip(&self.wasmtime);
            median(rounds.map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64()))
        };
        let minimum =
            |times: &[Duration]| times.iter().min().map_or(f64::NAN, Duration::as_secs_f64);
        let least = |times: &[Duration]| minimum(times) / minimum(&self.wasmtime);
        println!(
            "| {name:<8} | {:>11.3} | {:>8.3} | {:>5.3} | {:>5.3} | {:>8.3} | {:>5.3} | {:>5.3} |",
            seconds(&self.wasmtime),
            seconds(&self.fence),
            ratio(&self.fence),
            least(&self.fence),
            seconds(&self.epoch),
            ratio(&self.epoch),
            least(&self.epoch),
        );
    }
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
