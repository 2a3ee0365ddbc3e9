//! The shim under real containerds, one private daemon per installed version.
//!
//! A case is a sentence and a function; [`trials`] says how they are run.

use std::process::ExitCode;

use anyhow::Result;
use integration_tests::containerd::Containerd;
use integration_tests::trials::{self, Daemon, Module};
use integration_tests::version::Version;

type Case = trials::Case<Containerd>;

/// The cases of a module, named as their functions.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::Case] = &[$((stringify!($case), $case)),*];
    };
}

mod cases {
    pub(crate) mod caching;
    pub(crate) mod cgroups;
    pub(crate) mod crowds;
    pub(crate) mod endings;
    pub(crate) mod exec;
    pub(crate) mod files;
    pub(crate) mod fixture;
    pub(crate) mod hooks;
    pub(crate) mod http;
    pub(crate) mod identity;
    pub(crate) mod images;
    pub(crate) mod installing;
    pub(crate) mod interpreters;
    pub(crate) mod isolation;
    pub(crate) mod limits;
    pub(crate) mod linux;
    pub(crate) mod metrics;
    pub(crate) mod mixed;
    pub(crate) mod packing;
    pub(crate) mod pod_cgroups;
    pub(crate) mod pod_lives;
    pub(crate) mod pods;
    pub(crate) mod processes;
    pub(crate) mod programs;
    pub(crate) mod races;
    pub(crate) mod recovery;
    pub(crate) mod refusals;
    pub(crate) mod registries;
    pub(crate) mod sandboxes;
    pub(crate) mod sidecars;
    pub(crate) mod stdio;
    pub(crate) mod streaming;
    pub(crate) mod telemetry;
    pub(crate) mod tls;
    pub(crate) mod volumes;
    pub(crate) mod worlds;
}

const MODULES: &[Module<Containerd>] = &[
    ("fixture", cases::fixture::CASES),
    ("programs", cases::programs::CASES),
    ("images", cases::images::CASES),
    ("packing", cases::packing::CASES),
    ("registries", cases::registries::CASES),
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
    ("telemetry", cases::telemetry::CASES),
];

/// Those that need Kubernetes' interface.
const NODE_MODULES: &[Module<Containerd>] = &[
    ("pods", cases::pods::CASES),
    ("installing", cases::installing::CASES),
    ("mixed", cases::mixed::CASES),
    ("pod_cgroups", cases::pod_cgroups::CASES),
    ("pod_lives", cases::pod_lives::CASES),
    ("processes", cases::processes::CASES),
    ("registries", cases::registries::NODE),
    ("races", cases::races::CASES),
    ("sidecars", cases::sidecars::CASES),
    ("streaming", cases::streaming::CASES),
    ("volumes", cases::volumes::CASES),
];

/// Those that are the same for every version, and so are run on the newest.
const CROWD_MODULES: &[Module<Containerd>] = &[
    ("crowds", cases::crowds::CASES),
    ("interpreters", cases::interpreters::CASES),
];

/// Those that take more than the registries of the project's own set-up.
const NPM_MODULES: &[Module<Containerd>] = &[("npm", cases::interpreters::NPM)];

/// Those of pods without a pause container, which containerd has since 1.7, and of users of their own since 2.0.
const SANDBOX_MODULES: &[Module<Containerd>] = &[
    ("sandboxes", cases::sandboxes::CASES),
    ("network", cases::sandboxes::NETWORK),
];

const USER_MODULES: &[Module<Containerd>] = &[
    ("sandboxes", cases::sandboxes::CASES),
    ("sandboxes_2_0", cases::sandboxes::SINCE_2_0),
];

fn main() -> Result<ExitCode> {
    let node = |version: &Version, modules| {
        let own = version.clone();
        Daemon::new(version.clone(), modules, move || {
            Containerd::builder(&own).node().start()
        })
    };
    let mut daemons = Vec::new();
    for version in Version::found()? {
        daemons.push(node(&version, NODE_MODULES));
        if version.at_least(1, 7) {
            let own = version.clone();
            let modules = if version.at_least(2, 0) {
                USER_MODULES
            } else {
                SANDBOX_MODULES
            };
            daemons.push(Daemon::new(version.clone(), modules, move || {
                let node = Containerd::builder(&own).node();
                // 1.7 has two CRI plugins; the later ones do not look at it.
                node.env("ENABLE_CRI_SANDBOXES", "1").start()
            }));
        }
        daemons.push(Daemon::new(version.clone(), MODULES, move || {
            Containerd::builder(&version).start()
        }));
    }
    daemons.push(node(&Version::newest()?, CROWD_MODULES));
    if std::env::var_os("SHIM_TEST_NPM").is_some() {
        daemons.push(node(&Version::newest()?, NPM_MODULES));
    }
    trials::run(daemons, |containerd, keep| {
        if keep {
            containerd.keep();
            return Ok(());
        }
        containerd.stop()
    })
}
