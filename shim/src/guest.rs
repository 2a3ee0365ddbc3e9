//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::os::fd::OwnedFd;

use wasi_bundles::{Plan, Process};
use wasi_runtime::{Guest, Limits, Preopen};

use crate::stdio::GuestStdio;

/// The guest that is `process` in the container of `plan`, with the directories that it is given and
/// their names.
///
/// The network needs no permission here: a guest reaches what its thread's network namespace reaches.
#[must_use]
pub fn guest(
    plan: &Plan,
    process: &Process,
    preopens: Vec<(String, OwnedFd)>,
    stdio: GuestStdio,
) -> Guest {
    let preopens = preopens.into_iter();
    Guest {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: Some(process.cwd.clone()),
        preopens: preopens
            .map(|(name, directory)| Preopen { directory, name })
            .collect(),
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        limits: Limits {
            memory: plan.limits().memory,
        },
        network: true,
    }
}
