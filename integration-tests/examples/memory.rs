//! What sleeping containers cost in memory: many in one shim, and one in each of many shims. From the kernel's
//! `smaps`, after the last one said that it sleeps.
//!
//! `memory [--env NAME=VALUE]... [GUEST]...`: guests of target/guests, `sleep` and `sleep.component` by default; the
//! environment is the shim's, to compare settings.

#![allow(clippy::print_stdout, reason = "its output is a table")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::bundle::Bundle;
use integration_tests::fake::FakeContainerd;
use integration_tests::processes::Process;
use integration_tests::tasks::Tasks;
use integration_tests::{guests, poll};

/// Puts containers into one shim.
const GROUP: &str = "io.containerd.runc.v2.group";
/// How many containers one shim has.
const CONTAINERS: [usize; 3] = [1, 10, 100];
/// How many shims there are.
const SHIMS: [usize; 3] = [1, 10, 50];

fn main() -> Result<()> {
    let (mut environment, mut names) = (vec![], vec![]);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--env" {
            let variable = args.next().context("--env NAME=VALUE")?;
            let (name, value) = variable.split_once('=').context("--env NAME=VALUE")?;
            environment.push((name.to_owned(), value.to_owned()));
        } else {
            names.push(arg);
        }
    }
    if names.is_empty() {
        names = vec!["sleep".to_owned(), "sleep.component".to_owned()];
    }
    for name in names {
        println!(
            "{name} {}",
            environment
                .iter()
                .map(|(name, value)| format!("{name}={value} "))
                .collect::<String>()
        );
        println!(
            "{:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>10}",
            "KiB a shim", "rss", "pss", "private", "tables", "threads", "code rss", "code pss"
        );
        for count in CONTAINERS {
            let shims = Running::start(&name, &environment, count, |_| "all".to_owned())?;
            shims.row(&format!("1 shim, {count} containers"))?;
        }
        for count in SHIMS {
            let shims = Running::start(&name, &environment, count, |index| index.to_string())?;
            shims.row(&format!("{count} shims of 1 container"))?;
        }
        println!();
    }
    Ok(())
}

/// Containers that sleep.
struct Running {
    fake: FakeContainerd,
    tasks: Vec<(Tasks, Bundle)>,
}

impl Running {
    fn start(
        guest: &str,
        environment: &[(String, String)],
        count: usize,
        group: impl Fn(usize) -> String,
    ) -> Result<Self> {
        let mut fake = FakeContainerd::new()?;
        fake.environment.extend_from_slice(environment);
        let mut running = Self {
            fake,
            tasks: vec![],
        };
        for index in 0..count {
            let id = format!("sleeper-{index}");
            let bundle = running
                .fake
                .bundle(&id)
                .file("/app.wasm", guests::named(guest)?)
                .args(["/app.wasm"])
                .annotation(GROUP, &group(index))
                .write()?;
            let stdout = bundle.path().join("stdout");
            let tasks = running.fake.serve(&bundle)?;
            tasks.create_with(&bundle, |request| {
                request.stdout = format!("file://{}", stdout.display());
            })?;
            tasks.start(&id)?;
            poll::until("it sleeps", Duration::from_secs(60), || {
                let said = std::fs::read_to_string(&stdout).unwrap_or_default();
                if said.contains("sleeping") {
                    Ok(())
                } else {
                    Err(said)
                }
            })?;
            running.tasks.push((tasks, bundle));
        }
        Ok(running)
    }

    /// The mean of all shims.
    fn row(self, name: &str) -> Result<()> {
        let shims = self.fake.shims();
        ensure!(!shims.is_empty(), "no shim lives");
        let mut sums = BTreeMap::new();
        for shim in &shims {
            for (what, number) in memory(shim)? {
                *sums.entry(what).or_insert(0) += number;
            }
        }
        let mean = |what: &str| sums.get(what).copied().unwrap_or_default() / shims.len() as u64;
        println!(
            "{name:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10} {:>10}",
            mean("Rss"),
            mean("Pss"),
            mean("Private_Dirty"),
            mean("VmPTE"),
            mean("Threads"),
            mean("code Rss"),
            mean("code Pss"),
        );
        for (tasks, bundle) in &self.tasks {
            tasks.kill(bundle.id(), 9)?;
            tasks.wait(bundle.id())?;
            tasks.delete(bundle.id())?;
        }
        for (tasks, bundle) in &self.tasks {
            // All but the last say that others are left; then the shim is gone.
            drop(tasks.shutdown(bundle.id()));
        }
        self.fake.shims_end()
    }
}

/// What the kernel counts for a process, in KiB; `code` is what is mapped from the artifact cache.
fn memory(process: &Process) -> Result<Vec<(String, u64)>> {
    let read = |file: &str| {
        let path = format!("/proc/{}/{file}", process.pid);
        std::fs::read_to_string(&path).context(path)
    };
    let number = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let number = rest.split_whitespace().next()?.parse().ok()?;
        Some((name.to_owned(), number))
    };
    let mut numbers: Vec<(String, u64)> = read("smaps_rollup")?
        .lines()
        .chain(read("status")?.lines())
        .filter_map(number)
        .collect();
    let mut code = false;
    for line in read("smaps")?.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if first.ends_with(':') {
            if code && let Some((name, number)) = number(line) {
                numbers.push((format!("code {name}"), number));
            }
        } else {
            code = line.contains(".cwasm");
        }
    }
    Ok(numbers)
}
