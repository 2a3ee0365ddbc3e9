//! How long it takes to end a guest: from the Kill request to the answer of Wait, on the real shim, over its
//! own socket, alone and beside busy neighbours in the same shim. In the same run the round trip of a
//! request that does nothing, as the floor.

#![allow(clippy::print_stdout, reason = "its output is a table")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::bundle::Bundle;
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::guests;
use integration_tests::poll;
use integration_tests::tasks::Tasks;
use rustix::fs::{CWD, FileType, Mode};

/// Kills of each guest with each signal.
const ROUNDS: usize = 20;
/// Guests that compute meanwhile, in the second table.
const NEIGHBOURS: usize = 50;
const KILL: u32 = 9;

fn main() -> Result<()> {
    for neighbours in [0, NEIGHBOURS] {
        println!(
            "{:<34} {:>10} {:>10} {:>10}",
            format!("Kill to exit, ms, {neighbours} neighbours"),
            "median",
            "p90",
            "max"
        );
        for (name, guest, says) in [
            ("loop", guests::named("spin")?, "spinning"),
            (
                "loop, component",
                guests::named("spin.component")?,
                "spinning",
            ),
            ("memory.copy", guests::copies()?, "copying"),
            ("sleep", guests::named("sleep")?, "sleeping"),
            (
                "sleep, component",
                guests::named("sleep.component")?,
                "sleeping",
            ),
            ("stdin", guests::named("stdin_block")?, "reading"),
            ("accept", guests::named("accept")?, "listening"),
        ] {
            let shim = Shim::new(neighbours)?;
            for (signal, status) in [(KILL, 137), (15, 143)] {
                let mut times = Vec::new();
                for _ in 0..ROUNDS {
                    times.push(shim.end(&guest, says, signal, status)?);
                }
                row(&format!("{name}, signal {signal}"), times);
            }
            if name == "loop" {
                row("(a State request, the floor)", shim.floor()?);
            }
            shim.leave()?;
        }
    }
    Ok(())
}

/// One shim, with its neighbours running.
struct Shim {
    fake: FakeContainerd,
    neighbours: Vec<Bundle>,
    tasks: Tasks,
}

impl Shim {
    fn new(neighbours: usize) -> Result<Self> {
        let fake = FakeContainerd::new()?;
        // The first one is never started: the shim is there as long as it is.
        let neighbours = (0..=neighbours)
            .map(|n| member(&fake, &format!("neighbour-{n}"), guests::named("spin")?))
            .collect::<Result<Vec<_>>>()?;
        let tasks = fake.serve(&neighbours[0])?;
        tasks.create(&neighbours[0])?;
        for neighbour in &neighbours[1..] {
            fake.start(neighbour, Dialect::Options)?;
            tasks.create(neighbour)?;
            tasks.start(neighbour.id())?;
        }
        Ok(Self {
            fake,
            neighbours,
            tasks,
        })
    }

    /// Starts the guest, waits until it says what it is at, and ends it.
    fn end(&self, guest: &[u8], says: &str, signal: u32, status: u32) -> Result<Duration> {
        let tasks = &self.tasks;
        let bundle = member(&self.fake, "ends", guest.to_vec())?;
        let stdin = bundle.path().join("stdin");
        rustix::fs::mknodat(CWD, &stdin, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        let stdout = bundle.path().join("stdout");
        self.fake.start(&bundle, Dialect::Options)?;
        tasks.create_with(&bundle, |request| {
            request.stdin = stdin.display().to_string();
            request.stdout = format!("file://{}", stdout.display());
        })?;
        tasks.start(bundle.id())?;
        let patience = Duration::from_secs(60);
        poll::until("the guest is where it is wanted", patience, || {
            let said = std::fs::read_to_string(&stdout).unwrap_or_default();
            if said.contains(says) {
                Ok(())
            } else {
                Err(said)
            }
        })?;
        let begun = Instant::now();
        tasks.kill(bundle.id(), signal)?;
        let exit = tasks.wait(bundle.id())?;
        let ended = begun.elapsed();
        ensure!(exit.exit_status == status, "{exit:?}");
        tasks.delete(bundle.id())?;
        self.fake.delete(&bundle)?;
        std::fs::remove_dir_all(bundle.path())?;
        Ok(ended)
    }

    fn floor(&self) -> Result<Vec<Duration>> {
        let times = (0..ROUNDS).map(|_| {
            let begun = Instant::now();
            self.tasks.state(self.neighbours[0].id())?;
            Ok(begun.elapsed())
        });
        times.collect()
    }

    fn leave(self) -> Result<()> {
        for neighbour in &self.neighbours {
            self.tasks.kill(neighbour.id(), KILL)?;
            self.tasks.wait(neighbour.id())?;
            self.tasks.delete(neighbour.id())?;
        }
        self.tasks.shutdown(self.neighbours[0].id())?;
        self.fake.shims_end()
    }
}

/// A bundle of the one group of this benchmark.
fn member(fake: &FakeContainerd, id: &str, module: Vec<u8>) -> Result<Bundle> {
    fake.bundle(id)
        .annotation("io.containerd.runc.v2.group", "together")
        .file("/app.wasm", module)
        .args(["/app.wasm"])
        .write()
}

fn row(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1000.0;
    println!(
        "{name:<34} {:>10.2} {:>10.2} {:>10.2}",
        at(50),
        at(90),
        at(100)
    );
}
