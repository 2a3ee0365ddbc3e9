//! Whatever is killed, and whenever: nothing stays behind. A container lives from `start` to `Shutdown`,
//! and at a random moment of it SIGKILL hits the shim, the `start` that makes it, the compiler, or the
//! `delete` that cleans up. Some have hooks, of which poststop runs once for each Create, and some an exec.
//! Then `delete` is run as containerd runs it, and this looks for what is left: processes, mounts (which hold
//! network namespaces, if no process does), cgroups, sockets, files.
//!
//! `SOAK` is how many kills there are, `SOAK_SEED` makes the same choices again; the kernel's are its own.

#[path = "soak/choice.rs"]
mod choice;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use integration_tests::bundle::Bundle;
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::hooks::Notes;
use integration_tests::processes::Process;
use integration_tests::tasks::{Api, Tasks};
use integration_tests::{guests, poll};
use rustix::process::Signal;

use choice::{Choice, Victim};

/// How many kills `make process` does.
const KILLS: u64 = 100;
/// How long anything may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a shim without any container waits for its first, and then takes to be gone.
const ORPHAN: Duration = Duration::from_secs(60).saturating_add(PATIENCE);
/// What a guest that ends by itself ends with.
const OWN: u32 = 7;

/// How long a life may take that was never seen to its end.
const FIRST: Duration = Duration::from_millis(150);
/// The hooks of a life that has any.
const HOOKS: [&str; 4] = ["createRuntime", "createContainer", "poststart", "poststop"];

/// What became of a life, up to where it got.
#[derive(Debug, Default)]
struct Life {
    /// What it did last.
    step: Mutex<&'static str>,
    /// The exit that Wait has answered.
    exit: Mutex<Option<u32>>,
}

impl Life {
    fn begins(&self, step: &'static str) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn step(&self) -> &'static str {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self, fake: &FakeContainerd, bundle: &Bundle, choice: Choice) -> Result<()> {
        let id = bundle.id();
        self.begins("start");
        let address = fake.start(bundle, Dialect::Bootstrap)?.address;
        self.begins("connect");
        let tasks = Tasks::connect(&address, Api::V3)?;
        self.begins("Create");
        tasks.create(bundle)?;
        self.begins("Start");
        tasks.start(id)?;
        let exec = (choice.spins && choice.execs).then(|| tasks.exec(id, "more"));
        if let Some(exec) = &exec {
            self.begins("Exec");
            exec.add(&["/main.wasm"])?;
            self.begins("Start of the exec");
            exec.start()?;
        }
        if choice.spins {
            if choice.pauses {
                self.begins("Pause");
                tasks.kill(id, 19)?;
            }
            self.begins("Kill");
            tasks.kill(id, 9)?;
        }
        self.begins("Wait");
        let exit = tasks.wait(id)?.exit_status;
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
        if let Some(exec) = &exec {
            // With the init all end.
            self.begins("Wait for the exec");
            exec.wait()?;
            self.begins("Delete of the exec");
            exec.delete()?;
        }
        self.begins("Delete");
        tasks.delete(id)?;
        self.begins("Shutdown");
        tasks.shutdown(id)?;
        self.begins("end");
        fake.shims_end()
    }
}

struct Soak {
    fake: FakeContainerd,
    notes: Notes,
    rng: Rng,
    /// How long a life takes that nobody ends, by whether its program is fresh and whether it has hooks.
    takes: BTreeMap<(bool, bool), Duration>,
    /// Who was killed while what was done.
    hits: BTreeMap<(Victim, &'static str), u64>,
}

impl Soak {
    fn new(seed: u64) -> Result<Self> {
        let fake = FakeContainerd::new()?;
        Ok(Self {
            notes: Notes::new(&fake)?,
            fake,
            rng: Rng::with_seed(seed),
            takes: BTreeMap::new(),
            hits: BTreeMap::new(),
        })
    }

    fn bundle(&mut self, id: &str, choice: Choice) -> Result<Bundle> {
        let mut program = if choice.spins {
            guests::spins()?
        } else {
            guests::exits(7)?
        };
        if choice.victim == Victim::Compiler {
            program = guests::takes_long_to_compile()?;
        }
        if choice.fresh {
            // A custom section of eight bytes without a name: the content is new, the code is not.
            program.extend([0, 9, 0]);
            program.extend(self.rng.u64(..).to_le_bytes());
        }
        let bundle = self.fake.bundle(id).file("/main.wasm", program);
        let group = format!("/soak-{}/{id}", std::process::id());
        bundle
            .edit(|spec| {
                spec["linux"]["cgroupsPath"] = group.into();
                for point in HOOKS.iter().filter(|_| choice.hooks) {
                    let hook = self.notes.brief(&format!("{id} {point}"));
                    spec["hooks"][point] = [hook].into_iter().collect();
                }
            })
            .write()
    }

    /// One life; whether it was hit.
    fn round(&mut self, id: &str, choice: Choice) -> Result<bool> {
        let bundle = self.bundle(id, choice)?;
        let life = Life::default();
        let (fake, kind) = (&self.fake, (choice.fresh, choice.hooks));
        let takes = self.takes.get(&kind).copied().unwrap_or(FIRST);
        let (over, ended) = mpsc::channel::<()>();
        let begun = Instant::now();
        let (lived, hit) = std::thread::scope(|scope| {
            let living = scope.spawn(|| {
                let lived = life.live(fake, &bundle, choice);
                drop(over);
                lived
            });
            let hit = strike(fake, choice, takes, &ended).then(|| life.step());
            (living.join(), hit)
        });
        let lived = lived.map_err(|_| anyhow::anyhow!("the life panicked"))?;
        let took = begun.elapsed();
        let exit = *life.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = hit {
            *self.hits.entry((choice.victim, step)).or_default() += 1;
            if choice.victim == Victim::Compiler {
                self.compiles_again(&bundle)
                    .context("after its compiler was killed")?;
            }
        } else {
            lived.context("nobody was killed")?;
            self.takes.insert(kind, took);
        }
        if choice.victim == Victim::Start {
            // containerd runs no `delete` for what never answered. A start that was killed between its
            // answer and its end leaves a daemon that waits for its first container.
            self.fake
                .shims_end_within(ORPHAN)
                .context("the daemon of a start that was killed")?;
        }
        self.leaves_nothing(&bundle, exit, choice)
            .with_context(|| format!("hit: {hit:?}"))?;
        if choice.hooks {
            self.stopped_once(id, choice, hit)?;
        }
        Ok(hit.is_some())
    }

    /// Its Create has failed; the next one does not, as far as there is a shim.
    fn compiles_again(&self, bundle: &Bundle) -> Result<()> {
        let tasks = Tasks::connect(&bundle.address()?, Api::V3)?;
        if tasks.state(bundle.id()).is_err() {
            tasks.create(bundle)?;
        }
        Ok(())
    }

    /// That poststop has run once if its container was there, and was not hit while that ran; and never more
    /// often than there were containers.
    fn stopped_once(&self, id: &str, choice: Choice, hit: Option<&str>) -> Result<()> {
        let stopped = format!("{id} poststop");
        let count = self
            .notes
            .order()
            .iter()
            .filter(|name| **name == stopped)
            .count();
        let surely = match (choice.victim, hit) {
            (_, None) => true,
            (Victim::Shim, Some(step)) => {
                ["Start", "Exec", "Pause", "Kill", "Wait"].contains(&step)
            }
            (Victim::Start | Victim::Compiler | Victim::Delete, Some(_)) => false,
        };
        // Whose compiler was killed is created once more.
        let most = if choice.victim == Victim::Compiler {
            2
        } else {
            1
        };
        ensure!(
            count == 1 || (!surely && count <= most),
            "poststop ran {count} times; hit: {hit:?}"
        );
        Ok(())
    }

    /// Runs `delete`, and looks for what is left then.
    fn leaves_nothing(&mut self, bundle: &Bundle, exit: Option<u32>, choice: Choice) -> Result<()> {
        if choice.victim == Victim::Delete {
            let (over, ended) = mpsc::channel::<()>();
            let moment = Duration::from_millis(40).mul_f64(self.rng.f64());
            let fake = &self.fake;
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    // It may be killed; what counts is what the next one answers.
                    drop(fake.delete(bundle));
                    drop(over);
                });
                let _ = ended.recv_timeout(moment);
                kill(fake, |process| process.command.ends_with(" delete"));
            });
        }
        let answer = self.fake.delete(bundle)?;
        match exit {
            Some(exit) => ensure!(
                answer.exit_status == exit,
                "{answer:?}, where Wait said {exit}"
            ),
            None => ensure!([137, OWN, 0].contains(&answer.exit_status), "{answer:?}"),
        }
        self.fake.shims_end()?;
        ensure!(bundle.mounts().is_empty(), "{:?}", bundle.mounts());
        if let Ok(address) = bundle.address() {
            let socket = Path::new(address.trim_start_matches("unix://"));
            ensure!(!socket.exists(), "{} exists", socket.display());
        }
        let group = format!("soak-{}/{}", std::process::id(), bundle.id());
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.chain(std::fs::read_dir("/sys/fs")?) {
            let cgroup = hierarchy?.path().join(&group);
            ensure!(!cgroup.exists(), "{} exists", cgroup.display());
        }
        // As containerd does, which cannot if something is mounted there.
        std::fs::remove_dir_all(bundle.path()).context("remove the bundle")
    }
}

/// Kills the victim at its moment; whether there was one.
fn strike(
    fake: &FakeContainerd,
    choice: Choice,
    takes: Duration,
    ended: &mpsc::Receiver<()>,
) -> bool {
    let moment = match choice.victim {
        Victim::Shim | Victim::Delete => takes,
        // A part of the whole: it is over when the shim answers.
        Victim::Start => takes / 3,
        Victim::Compiler => {
            let compiles = |process: &Process| process.command.contains("compile");
            let appears = poll::until("the compiler runs", PATIENCE, || {
                let over = matches!(ended.try_recv(), Err(mpsc::TryRecvError::Disconnected));
                let runs = fake.shims().iter().any(compiles);
                (over || runs).then_some(()).ok_or_else(String::new)
            });
            if appears.is_err() {
                return false;
            }
            Duration::from_millis(200)
        }
    };
    if let Err(mpsc::RecvTimeoutError::Disconnected) =
        ended.recv_timeout(moment.mul_f64(choice.moment))
    {
        return false;
    }
    kill(fake, |process| match choice.victim {
        Victim::Start => process.is_child(),
        Victim::Compiler => process.command.contains("compile"),
        Victim::Shim | Victim::Delete => {
            let others = ["compile", "a-hook"];
            !process.is_child() && !others.iter().any(|name| process.command.contains(name))
        }
    })
}

/// Kills who fits; whether there was anybody.
fn kill(fake: &FakeContainerd, fits: impl Fn(&Process) -> bool) -> bool {
    let victims: Vec<_> = fake
        .shims()
        .into_iter()
        .filter(|process| fits(process))
        .collect();
    victims
        .iter()
        .for_each(|process| process.signal(Signal::KILL));
    !victims.is_empty()
}

fn number(name: &str) -> Result<Option<u64>> {
    let value = std::env::var(name).ok();
    value
        .map(|value| {
            value
                .parse()
                .with_context(|| format!("{name} is {value:?}, which is no number"))
        })
        .transpose()
}

#[test]
#[allow(
    clippy::print_stdout,
    reason = "the figures are what a long run is made for"
)]
fn a_kill_at_any_moment_leaves_nothing() -> Result<()> {
    let kills = number("SOAK")?.unwrap_or(KILLS);
    let seed = number("SOAK_SEED")?.unwrap_or_else(|| Rng::new().u64(..));
    let mut soak = Soak::new(seed)?;
    let begun = Instant::now();
    let (mut hits, mut lives) = (0, 0);
    while hits < kills {
        let choice = Choice::random(&mut soak.rng);
        let hit = soak.round(&format!("life-{lives}"), choice);
        let hit = hit.with_context(|| format!("SOAK_SEED={seed}, life {lives}: {choice:?}"))?;
        hits += u64::from(hit);
        lives += 1;
        if lives > 4 * kills + 20 {
            bail!("only {hits} of {lives} lives were hit (SOAK_SEED={seed})");
        }
    }
    // The next compilation removes what was left of those that were killed.
    let last = Choice {
        victim: Victim::Compiler,
        fresh: true,
        spins: false,
        pauses: false,
        execs: false,
        hooks: false,
        moment: 0.0,
    };
    let bundle = soak.bundle("last", last)?;
    Life::default().live(&soak.fake, &bundle, last)?;
    for entry in std::fs::read_dir(soak.fake.folder().join("cache"))? {
        let path = entry?.path();
        ensure!(
            path.extension().is_some_and(|kind| kind == "cwasm"),
            "{} is left",
            path.display()
        );
    }
    println!(
        "SOAK_SEED={seed}: {hits} kills in {lives} lives, {:.0?}",
        begun.elapsed()
    );
    for ((victim, step), count) in &soak.hits {
        println!("  {count:4} × {victim:?} during {step}");
    }
    Ok(())
}
