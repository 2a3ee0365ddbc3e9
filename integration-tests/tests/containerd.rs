//! The shim under real containerds, one private daemon per installed version.
//!
//! A case is a sentence and a function; every case runs on every version. A daemon starts with the first case
//! that needs it and ends after the last; then nothing of theirs may be left on the machine.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use integration_tests::{containerd::Containerd, leftovers::Leftovers, version::Version};
use libtest_mimic::{Arguments, Trial};

/// What a case is called, and what it does.
type Case = (&'static str, fn(&Containerd) -> Result<()>);

/// The cases of a module, named as their functions.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::Case] = &[$((stringify!($case), $case)),*];
    };
}

mod cases {
    pub(crate) mod caching;
    pub(crate) mod cgroups;
    pub(crate) mod endings;
    pub(crate) mod exec;
    pub(crate) mod files;
    pub(crate) mod fixture;
    pub(crate) mod hooks;
    pub(crate) mod http;
    pub(crate) mod identity;
    pub(crate) mod images;
    pub(crate) mod isolation;
    pub(crate) mod limits;
    pub(crate) mod linux;
    pub(crate) mod metrics;
    pub(crate) mod mixed;
    pub(crate) mod packing;
    pub(crate) mod pods;
    pub(crate) mod programs;
    pub(crate) mod recovery;
    pub(crate) mod refusals;
    pub(crate) mod stdio;
    pub(crate) mod tls;
    pub(crate) mod worlds;
}

const MODULES: &[(&str, &[Case])] = &[
    ("fixture", cases::fixture::CASES),
    ("programs", cases::programs::CASES),
    ("images", cases::images::CASES),
    ("packing", cases::packing::CASES),
    ("isolation", cases::isolation::CASES),
    ("identity", cases::identity::CASES),
    ("files", cases::files::CASES),
    ("metrics", cases::metrics::CASES),
    ("limits", cases::limits::CASES),
    ("endings", cases::endings::CASES),
    ("exec", cases::exec::CASES),
    ("refusals", cases::refusals::CASES),
    ("linux", cases::linux::CASES),
    ("recovery", cases::recovery::CASES),
    ("caching", cases::caching::CASES),
    ("stdio", cases::stdio::CASES),
    ("hooks", cases::hooks::CASES),
    ("http", cases::http::CASES),
    ("cgroups", cases::cgroups::CASES),
    ("worlds", cases::worlds::CASES),
    ("tls", cases::tls::CASES),
];

/// Those that need Kubernetes' interface.
const NODE_MODULES: &[(&str, &[Case])] =
    &[("pods", cases::pods::CASES), ("mixed", cases::mixed::CASES)];

/// One version's containerd, started by the first case that asks for it.
struct Daemon {
    version: Version,
    is_node: bool,
    started: Mutex<Option<Result<Arc<Containerd>, String>>>,
}

impl Daemon {
    fn get(&self) -> Result<Arc<Containerd>> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let started = started.get_or_insert_with(|| {
            let configuration = Containerd::builder(&self.version);
            let configuration = if self.is_node {
                configuration.node()
            } else {
                configuration
            };
            configuration
                .start()
                .map(Arc::new)
                .map_err(|error| format!("{error:#}"))
        });
        started.clone().map_err(|error| anyhow!("{error}"))
    }

    fn stop(&self, keep: bool) -> Result<()> {
        let started = self
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Ok(containerd)) = started else {
            return Ok(());
        };
        if keep {
            containerd.keep();
            return Ok(());
        }
        let containerd = Arc::into_inner(containerd)
            .ok_or_else(|| anyhow!("a case still holds its containerd"))?;
        containerd.stop()
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let before = Leftovers::snapshot();
    let daemons: Vec<_> = Version::found()?
        .into_iter()
        .flat_map(|version| {
            [false, true].map(|is_node| {
                Arc::new(Daemon {
                    version: version.clone(),
                    is_node,
                    started: Mutex::new(None),
                })
            })
        })
        .collect();
    let trials = daemons.iter().flat_map(|daemon| {
        let of_module = move |&(module, cases): &(&'static str, &'static [Case])| {
            cases
                .iter()
                .map(move |&(sentence, case)| trial(daemon, module, sentence, case))
        };
        let modules = if daemon.is_node {
            NODE_MODULES
        } else {
            MODULES
        };
        modules.iter().flat_map(of_module)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let mut ended = Ok(());
    for daemon in &daemons {
        ended = ended.and(daemon.stop(conclusion.has_failed()));
    }
    ended.and(before.assert_none_since())?;
    Ok(conclusion.exit_code())
}

fn trial(
    daemon: &Arc<Daemon>,
    module: &str,
    sentence: &str,
    case: fn(&Containerd) -> Result<()>,
) -> Trial {
    let daemon = Arc::clone(daemon);
    Trial::test(
        format!("{}::{module}::{sentence}", daemon.version),
        move || {
            let containerd = daemon.get()?;
            case(&containerd).map_err(|error| format!("{error:#}").into())
        },
    )
}
