//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::os::fd::OwnedFd;

use wasi_bundles::Plan;
use wasi_runtime::{Guest, Limits, Preopen};

use crate::stdio::GuestStdio;

/// The guest of `plan`, with the directories that it is given and their names.
///
/// The network needs no permission here: a guest reaches what its thread's network namespace reaches.
#[must_use]
pub fn guest(plan: &Plan, preopens: Vec<(String, OwnedFd)>, stdio: GuestStdio) -> Guest {
    let preopens = preopens.into_iter();
    let process = plan.process();
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
