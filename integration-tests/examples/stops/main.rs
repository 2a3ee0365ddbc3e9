//! How soon a guest does what it was told, on the real shim, over its own socket, alone and beside busy neighbours in
//! the same shim; of whatever it is at. In the same run the round trip of a request that does nothing, as the floor.
//!
//! - kill: from the request to the answer of Wait
//! - pause: from the request until the guest's thread uses no more of a processor; of guests that compute
//! - resume: from the request until that thread has run; of those
//! - deadline: from the deadline, counted from the answer to Start, to the answer of Wait

#![allow(clippy::print_stdout, reason = "its output is a table")]

mod place;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration_tests::bundle::{Bundle, BundleBuilder};
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::guests;
use integration_tests::tasks::Tasks;
use rustix::fs::{CWD, FileType, Mode};

use place::Place;

/// Orders of each kind to each guest.
const ROUNDS: usize = 20;
/// Guests that compute meanwhile, in the second table.
const NEIGHBOURS: usize = 50;
const KILL: u32 = 9;
/// Of those that are to meet it: long enough for all of them to be there by then.
const DEADLINE: Duration = Duration::from_millis(500);
/// What going to sleep takes.
const NOTHING: Duration = Duration::from_micros(100);
/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    // What is measured is the shim: who asks is not to wait for its own turn. The shim's guests are ordinary.
    rustix::process::setpriority_process(None, -20)?;
    // Those whose name has this in it.
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let mut places = Place::all()?;
    places.retain(|place| place.name.contains(&wanted));
    for neighbours in [0, NEIGHBOURS] {
        println!("{neighbours} neighbours; ms, median / 90 % / most");
        println!(
            "| {:<26} | {:<19} | {:<19} | {:<19} | {:<19} |\n|---|---|---|---|---|",
            "", "kill", "pause", "resume", "deadline"
        );
        let shim = Shim::new(neighbours)?;
        println!(
            "| {:<26} | {:<19} |",
            "(a State, the floor)",
            told(shim.floor()?)
        );
        for place in &places {
            let mut times: [Vec<Duration>; 4] = Default::default();
            for _ in 0..ROUNDS {
                shim.orders(place, &mut times)?;
            }
            let [kill, pause, resume, deadline] = times.map(told);
            println!(
                "| {:<26} | {kill:<19} | {pause:<19} | {resume:<19} | {deadline:<19} |",
                place.name
            );
        }
        shim.leave()?;
    }
    Ok(())
}

/// One shim, with its neighbours running.
struct Shim {
    fake: FakeContainerd,
    neighbours: Vec<Bundle>,
    tasks: Tasks,
}

/// A guest that is where it is wanted.
struct Guest {
    bundle: Bundle,
    thread: u32,
    started: Instant,
    _held: Option<OwnedFd>,
}

impl Shim {
    fn new(neighbours: usize) -> Result<Self> {
        let fake = FakeContainerd::new()?;
        // The first one is never started: the shim is there as long as it is.
        let neighbours = (0..=neighbours)
            .map(|n| {
                let bundle = member(&fake, &format!("neighbour-{n}"));
                bundle
                    .file("/app.wasm", guests::named("spin")?)
                    .args(["/app.wasm"])
                    .write()
            })
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

    /// Sends a guest there, and gives it each order.
    fn orders(&self, place: &Place, times: &mut [Vec<Duration>; 4]) -> Result<()> {
        let [kill, pause, resume, deadline] = times;
        let guest = self.guest(place, None)?;
        if place.computes {
            let ran = || ran(guest.thread);
            let begun = Instant::now();
            self.tasks.pause(guest.bundle.id())?;
            pause.push(used_until(guest.thread)? - begun);
            let before = ran()?;
            let begun = Instant::now();
            self.tasks.resume(guest.bundle.id())?;
            until(|| Ok(ran()? > before))?;
            resume.push(begun.elapsed());
        }
        let begun = Instant::now();
        self.tasks.kill(guest.bundle.id(), KILL)?;
        kill.push(self.ended(&guest, 137, begun)?);
        self.forget(guest)?;

        let guest = self.guest(place, Some(DEADLINE))?;
        let due = guest.started + DEADLINE;
        ensure!(Instant::now() < due, "{} was not there in time", place.name);
        deadline.push(self.ended(&guest, 124, due)?);
        self.forget(guest)
    }

    fn guest(&self, place: &Place, deadline: Option<Duration>) -> Result<Guest> {
        let tasks = &self.tasks;
        let mut bundle = member(&self.fake, "told");
        if let Some(deadline) = deadline {
            let deadline = format!("{}ms", deadline.as_millis());
            bundle = bundle.annotation("io.containerd.wasi.v1.deadline", &deadline);
        }
        let bundle = place.bundle(bundle)?;
        let stdin = bundle.path().join("stdin");
        rustix::fs::mknodat(CWD, &stdin, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        let stdout = bundle.path().join("stdout");
        let held = place.prepare(&bundle)?;
        self.fake.start(&bundle, Dialect::Options)?;
        let created = tasks.create_with(&bundle, |request| {
            request.stdin = stdin.display().to_string();
            request.stdout = format!("file://{}", stdout.display());
        })?;
        tasks.start(bundle.id())?;
        let started = Instant::now();
        Ok(Guest {
            _held: place.arrived(&stdout, held)?,
            bundle,
            thread: created.pid,
            started,
        })
    }

    /// How long after `since` it has ended.
    fn ended(&self, guest: &Guest, status: u32, since: Instant) -> Result<Duration> {
        let exit = self.tasks.wait(guest.bundle.id())?;
        let ended = since.elapsed();
        ensure!(exit.exit_status == status, "{exit:?}");
        Ok(ended)
    }

    fn forget(&self, guest: Guest) -> Result<()> {
        self.tasks.delete(guest.bundle.id())?;
        self.fake.delete(&guest.bundle)?;
        std::fs::remove_dir_all(guest.bundle.path())?;
        Ok(())
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
fn member(fake: &FakeContainerd, id: &str) -> BundleBuilder {
    let group = "io.containerd.runc.v2.group";
    fake.bundle(id).annotation(group, "together")
}

/// Looks ten times a millisecond.
#[allow(
    clippy::disallowed_methods,
    reason = "the one pause between two looks at a condition with a deadline"
)]
fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        ensure!(begun.elapsed() < PATIENCE, "the order is not obeyed");
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// When a thread that is to stop had used all but [`NOTHING`] of what it ever uses until it sleeps. One that stands still may wait
/// for a processor yet, to go to sleep on.
fn used_until(thread: u32) -> Result<Instant> {
    let mut uses = vec![(Instant::now(), used(thread)?)];
    until(|| {
        uses.push((Instant::now(), used(thread)?));
        sleeps(thread)
    })?;
    let all = used(thread)?;
    let stopped = uses.iter().find(|(_, used)| *used + NOTHING >= all);
    Ok(stopped.map_or_else(Instant::now, |(at, _)| *at))
}

/// The processor time of a thread (proc(5), `schedstat`). Of one that runs it is as old as the kernel's last tick.
fn used(thread: u32) -> Result<Duration> {
    Ok(Duration::from_nanos(scheduled(thread, 0)?))
}

/// Whether a thread sleeps; one that waits for a processor does not (proc(5), `stat`).
fn sleeps(thread: u32) -> Result<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat"))?;
    let (_name, rest) = stat.rsplit_once(") ").context("a name in brackets")?;
    Ok(rest.starts_with('S'))
}

/// How many times a thread was given a processor.
fn ran(thread: u32) -> Result<u64> {
    scheduled(thread, 2)
}

/// One of the numbers that tell how a thread was scheduled.
fn scheduled(thread: u32, number: usize) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/schedstat"))?;
    let number = stat.split_whitespace().nth(number);
    Ok(number.context("three numbers")?.parse()?)
}

fn told(mut times: Vec<Duration>) -> String {
    times.sort();
    let Some(last) = times.len().checked_sub(1) else {
        return String::new();
    };
    let at = |part: usize| times[last * part / 100].as_secs_f64() * 1000.0;
    format!("{:.2} / {:.1} / {:.1}", at(50), at(90), at(100))
}
