//! The shim under Docker, one private daemon per installed version.
//!
//! Every case runs on every version, all on one daemon, beside each other. Afterwards nothing of theirs may be
//! left on the machine: no process, mount, socket, network namespace or cgroup.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use integration_tests::docker::{Docker, Release};
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::trials::{self, Daemon, Module};

type Case = trials::Case<Docker>;

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

const MODULES: &[Module<Docker>] = &[
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
    let daemons = Release::found()?
        .into_iter()
        .map(|release| Daemon::new(release.clone(), MODULES, move || start(&release)));
    trials::run(daemons.collect(), |docker, keep| {
        if keep {
            docker.containerd().keep();
        }
        let groups = cgroups(docker.containerd().namespace());
        docker.stop()?;
        let left: Vec<_> = groups.into_iter().filter(|group| group.exists()).collect();
        ensure!(left.is_empty(), "cgroups left behind: {left:?}");
        Ok(())
    })
}
