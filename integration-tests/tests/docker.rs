//! The shim under Docker, one private daemon per installed version.
//!
//! Every case runs on every version, all on one daemon, beside each other. Afterwards nothing of theirs may be
//! left on the machine: no process, mount, socket, network namespace or cgroup.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow, ensure};
use integration_tests::docker::{Docker, Release};
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::leftovers::Leftovers;
use libtest_mimic::{Arguments, Trial};

/// What a case is called, and what it does.
type Case = (&'static str, fn(&Docker) -> Result<()>);

/// The cases of a module, named as their functions.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::Case] = &[$((stringify!($case), $case)),*];
    };
}

#[path = "docker"]
mod cases {
    pub(crate) mod exec;
    pub(crate) mod life;
    pub(crate) mod network;
    pub(crate) mod run;
}

const MODULES: &[(&str, &[Case])] = &[
    ("run", cases::run::CASES),
    ("exec", cases::exec::CASES),
    ("life", cases::life::CASES),
    ("network", cases::network::CASES),
];

/// The image of all cases: programs by their names, and one file that is none.
const IMAGE: &str = "example.test/all:1";

/// The same for `linux/amd64`, as most people build them.
const LINUX: &str = "example.test/linux:1";

/// The same, looked after by `/hello.wasm`.
const HEALTHY: &str = "example.test/healthy:1";

/// One version's Docker, started by the first case that asks for it.
struct Daemon {
    release: Release,
    started: Mutex<Option<Result<Arc<Docker>, String>>>,
}

impl Daemon {
    fn get(&self) -> Result<Arc<Docker>> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let started = started.get_or_insert_with(|| {
            start(&self.release)
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
        let Some(Ok(docker)) = started else {
            return Ok(());
        };
        if keep {
            docker.containerd().keep();
        }
        let docker = Arc::into_inner(docker).ok_or_else(|| anyhow!("a case holds its Docker"))?;
        let groups = cgroups(docker.containerd().namespace());
        docker.stop()?;
        let left: Vec<_> = groups.into_iter().filter(|group| group.exists()).collect();
        ensure!(left.is_empty(), "cgroups left behind: {left:?}");
        Ok(())
    }
}

/// Where containers are, in each hierarchy.
fn cgroups(namespace: &str) -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    hierarchies
        .flatten()
        .map(|hierarchy| hierarchy.path().join(namespace))
        .collect()
}

/// A Docker that has the images.
pub(crate) fn start(release: &Release) -> Result<Docker> {
    let docker = Docker::start(release)?;
    docker.load(&all(IMAGE)?)?;
    docker.load(&all(LINUX)?.platform("linux", "amd64"))?;
    docker.load(&all(HEALTHY)?.healthcheck(["/hello.wasm"]))?;
    Ok(docker)
}

fn all(name: &str) -> Result<Image> {
    let mut image = Image::new(name)
        .file("/grows.wasm", guests::grows()?)
        .file("/text", "no program\n")
        .entrypoint(["/hello.wasm"]);
    for name in [
        "cat", "env", "exit", "files", "hello", "serve", "sleep", "spin", "tty",
    ] {
        image = image.executable(&format!("/{name}.wasm"), guests::named(name)?);
    }
    Ok(image)
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    let before = Leftovers::snapshot();
    let daemons: Vec<_> = Release::found()?
        .into_iter()
        .map(|release| {
            Arc::new(Daemon {
                release,
                started: Mutex::new(None),
            })
        })
        .collect();
    let trials = daemons.iter().flat_map(|daemon| {
        let of_module = move |&(module, cases): &(&'static str, &'static [Case])| {
            cases
                .iter()
                .map(move |&(sentence, case)| trial(daemon, module, sentence, case))
        };
        MODULES.iter().flat_map(of_module)
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
    case: fn(&Docker) -> Result<()>,
) -> Trial {
    let daemon = Arc::clone(daemon);
    Trial::test(
        format!("{}::{module}::{sentence}", daemon.release),
        move || {
            let docker = daemon.get()?;
            case(&docker).map_err(|error| format!("{error:#}").into())
        },
    )
}
