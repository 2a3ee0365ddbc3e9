//! How long it takes to end a guest: from the Kill request to the answer of Wait, on the real shim, over its
//! own socket. In the same run the round trip of a request that does nothing, as the floor.

#![allow(clippy::print_stdout, reason = "its output is a table")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::fake::FakeContainerd;
use integration_tests::guests;
use integration_tests::poll;
use rustix::fs::{CWD, FileType, Mode};

/// Kills of each guest with each signal.
const ROUNDS: usize = 20;

fn main() -> Result<()> {
    println!(
        "{:<34} {:>10} {:>10} {:>10}",
        "from Kill to the exit, ms", "median", "p90", "max"
    );
    for (guest, says) in [
        ("spin", "spinning"),
        ("spin.component", "spinning"),
        ("sleep", "sleeping"),
        ("sleep.component", "sleeping"),
        ("stdin_block", "reading"),
        ("accept", "listening"),
    ] {
        for (name, signal, status) in [("KILL", 9, 137), ("TERM", 15, 143)] {
            let (mut times, mut floor) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let (end, nothing) = end(guest, says, signal, status)?;
                times.push(end);
                floor.push(nothing);
            }
            row(&format!("{guest} {name}"), times);
            if guest == "spin" && name == "KILL" {
                row("(a State request, the floor)", floor);
            }
        }
    }
    Ok(())
}

/// Starts the guest in a shim of its own, waits until it says what it is at, and ends it.
fn end(guest: &str, says: &str, signal: u32, status: u32) -> Result<(Duration, Duration)> {
    let fake = FakeContainerd::new()?;
    let bundle = fake
        .bundle("ends")
        .file("/app.wasm", guests::named(guest)?)
        .args(["/app.wasm"])
        .write()?;
    let stdin = bundle.path().join("stdin");
    rustix::fs::mknodat(CWD, &stdin, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let stdout = bundle.path().join("stdout");
    let tasks = fake.serve(&bundle)?;
    tasks.create_with(&bundle, |request| {
        request.stdin = stdin.display().to_string();
        request.stdout = format!("file://{}", stdout.display());
    })?;
    tasks.start(bundle.id())?;
    poll::until(
        "the guest is where it is wanted",
        Duration::from_secs(20),
        || {
            let said = std::fs::read_to_string(&stdout).unwrap_or_default();
            if said.contains(says) {
                Ok(())
            } else {
                Err(said)
            }
        },
    )?;
    let begun = Instant::now();
    tasks.state(bundle.id())?;
    let nothing = begun.elapsed();
    let begun = Instant::now();
    tasks.kill(bundle.id(), signal)?;
    let exit = tasks.wait(bundle.id())?;
    let ended = begun.elapsed();
    ensure!(exit.exit_status == status, "{exit:?}");
    tasks.delete(bundle.id())?;
    tasks.shutdown(bundle.id())?;
    Ok((ended, nothing))
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
