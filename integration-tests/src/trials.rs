//! Cases on private daemons: every case runs on every daemon. A daemon starts with the first case that needs
//! it and ends after the last; then nothing of theirs may be left on the machine.

use std::fmt;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};
use libtest_mimic::{Arguments, Trial};

use crate::leftovers::Leftovers;

/// What a case is called, and what it does with a daemon.
pub type Case<D> = (&'static str, fn(&D) -> Result<()>);

/// What some cases have in common, and the cases.
pub type Module<D> = (&'static str, &'static [Case<D>]);

/// One daemon, started by the first case that asks for it.
pub struct Daemon<D: 'static> {
    name: String,
    modules: &'static [Module<D>],
    start: Box<dyn Fn() -> Result<D> + Send + Sync>,
    started: Mutex<Option<Result<Arc<D>, String>>>,
    failures: Mutex<Vec<String>>,
}

impl<D> fmt::Debug for Daemon<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<D: Send + Sync + 'static> Daemon<D> {
    /// A daemon that `start` starts, called `name`, for the cases of `modules`.
    pub fn new(
        name: impl ToString,
        modules: &'static [Module<D>],
        start: impl Fn() -> Result<D> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_string(),
            modules,
            start: Box::new(start),
            started: Mutex::new(None),
            failures: Mutex::default(),
        }
    }

    fn get(&self) -> Result<Arc<D>> {
        let mut started = locked(&self.started);
        let started = started.get_or_insert_with(|| {
            (self.start)()
                .map(Arc::new)
                .map_err(|error| format!("{error:#}"))
        });
        started.clone().map_err(|error| anyhow!("{error}"))
    }

    /// What was started, if anything was.
    fn end(&self) -> Result<Option<D>> {
        let started = locked(&self.started).take();
        let Some(Ok(daemon)) = started else {
            return Ok(None);
        };
        Arc::into_inner(daemon)
            .map(Some)
            .ok_or_else(|| anyhow!("a case still holds its daemon {}", self.name))
    }

    fn trials(self: &Arc<Self>) -> impl Iterator<Item = Trial> {
        self.modules.iter().flat_map(move |&(module, cases)| {
            cases.iter().map(move |&(sentence, case)| {
                let daemon = Arc::clone(self);
                let name = format!("{}::{module}::{sentence}", self.name);
                Trial::test(name.clone(), move || {
                    let ran = daemon.get().and_then(|running| case(&running));
                    ran.map_err(|error| {
                        let error = format!("{error:#}");
                        let mut failures = locked(&daemon.failures);
                        failures.push(format!("{name}: {error}"));
                        error.into()
                    })
                })
            })
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the cases that the command line asks for. `stop` ends a daemon, and keeps its folder if it is told
/// to, which it is when a case has failed.
///
/// # Errors
///
/// When a daemon does not end, or something is left behind.
#[allow(
    clippy::print_stderr,
    reason = "failures come after the daemons' long logs, as often only the end of all is kept"
)]
pub fn run<D: Send + Sync + 'static>(
    daemons: Vec<Daemon<D>>,
    stop: fn(D, bool) -> Result<()>,
) -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let before = Leftovers::snapshot();
    let daemons: Vec<_> = daemons.into_iter().map(Arc::new).collect();
    let trials = daemons.iter().flat_map(Daemon::trials).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let mut ended = Ok(());
    for daemon in &daemons {
        let stopped = daemon.end().and_then(|daemon| match daemon {
            Some(daemon) => stop(daemon, conclusion.has_failed()),
            None => Ok(()),
        });
        ended = ended.and(stopped);
    }
    for failure in daemons
        .iter()
        .flat_map(|daemon| locked(&daemon.failures).clone())
    {
        eprintln!("failed: {failure}");
    }
    ended.and(before.assert_none_since())?;
    Ok(conclusion.exit_code())
}
