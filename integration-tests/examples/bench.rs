//! How long `ctr run --rm` takes: a wasm hello with our shim, a native static hello with runc, and the shim that
//! does nothing. One interleaved run, so that what else the machine does hits all alike.
//!
//! `bench [--all] [--rounds N]`: the newest installed containerd, or each; 20 rounds.

#![allow(clippy::print_stdout, reason = "its output is a table")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use integration_tests::{
    FLOOR, RUNC, WASI, containerd::Containerd, guests, image::Image, leftovers::Leftovers, native,
    version::Version,
};

/// One runtime with something to run.
struct Contender {
    name: &'static str,
    runtime: &'static str,
    image: Image,
    /// The times of its runs, or why it has none.
    times: Result<Vec<Duration>>,
}

fn main() -> Result<()> {
    let (mut all, mut rounds) = (false, 20);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--all" => all = true,
            "--rounds" => {
                let number = args.next().context("--rounds N")?;
                rounds = number.parse().context("--rounds N")?;
            }
            other => bail!("{other}? bench [--all] [--rounds N]"),
        }
    }
    let before = Leftovers::snapshot();
    let versions = if all {
        Version::found()?
    } else {
        vec![Version::newest()?]
    };
    for version in versions {
        let containerd = Containerd::builder(&version).log_level("info").start()?;
        let contenders = race(&containerd, rounds)?;
        containerd.stop()?;
        report(&version, rounds, &contenders);
    }
    before.assert_none_since()
}

fn contenders() -> Result<Vec<Contender>> {
    let native = native::image()?;
    let wasm = Image::new("wasm-hello:1")
        .file("/hello.wasm", guests::named("hello")?)
        .entrypoint(["/hello.wasm"]);
    let contender = |name, runtime, image: &Image| Contender {
        name,
        runtime,
        image: image.clone(),
        times: Ok(vec![]),
    };
    Ok(vec![
        contender("floor", FLOOR, &native),
        contender("runc, native hello", RUNC, &native),
        contender("wasi, wasm hello", WASI, &wasm),
    ])
}

/// Runs each once to warm up, then all in turns; the order rotates, so that nobody always follows the same one.
fn race(containerd: &Containerd, rounds: usize) -> Result<Vec<Contender>> {
    let mut contenders = contenders()?;
    for contender in &contenders {
        containerd.import(&contender.image)?;
    }
    for round in 0..=rounds {
        contenders.rotate_left(1);
        for contender in &mut contenders {
            let Ok(times) = &mut contender.times else {
                continue;
            };
            let id = format!(
                "{}-{round}",
                contender.runtime.rsplit('.').nth(1).unwrap_or_default()
            );
            let run = containerd
                .run(&contender.image, &id)
                .runtime(contender.runtime);
            let start = Instant::now();
            let ended = run.output().and_then(|output| output.success());
            match ended {
                Ok(output) if output.stdout.is_empty() && contender.runtime != FLOOR => {
                    contender.times = Err(anyhow!("it said nothing: {output}"));
                }
                Ok(_) if round == 0 => {}
                Ok(_) => times.push(start.elapsed()),
                Err(error) => contender.times = Err(error),
            }
        }
    }
    contenders.sort_by_key(|contender| {
        [FLOOR, RUNC, WASI]
            .iter()
            .position(|runtime| *runtime == contender.runtime)
    });
    Ok(contenders)
}

fn report(version: &Version, rounds: usize, contenders: &[Contender]) {
    println!("containerd {version}, `ctr run --rm`, {rounds} rounds, ms");
    println!(
        "{:<20} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "", "median", "p90", "min", "to floor", "to runc"
    );
    let median = |runtime: &str| {
        let contender = contenders
            .iter()
            .find(|contender| contender.runtime == runtime)?;
        quantile(contender.times.as_ref().ok()?, 0.5)
    };
    let ratio = |own: f64, other: Option<f64>| {
        other.map_or("-".into(), |other| format!("{:.2}", own / other))
    };
    for contender in contenders {
        let figures = contender.times.as_ref().map(|times| {
            (
                quantile(times, 0.5),
                quantile(times, 0.9),
                quantile(times, 0.0),
            )
        });
        match figures {
            Ok((Some(middle), Some(p90), Some(min))) => println!(
                "{:<20} {middle:>8.1} {p90:>8.1} {min:>8.1} {:>9} {:>9}",
                contender.name,
                ratio(middle, median(FLOOR)),
                ratio(middle, median(RUNC)),
            ),
            Ok(_) => println!("{:<20} no rounds", contender.name),
            Err(error) => println!("{:<20} failed: {error:#}", contender.name),
        }
    }
    println!();
}

/// The value below which this share of the runs lies, in milliseconds.
fn quantile(times: &[Duration], share: f64) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let last = sorted.len().checked_sub(1)?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index between 0 and `last`"
    )]
    let at = (last as f64 * share).round() as usize;
    Some(sorted[at].as_secs_f64() * 1000.0)
}
