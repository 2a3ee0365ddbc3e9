//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::os::fd::OwnedFd;

use wasi_bundles::{Plan, Process};
use wasi_runtime::{Budget, Guest, Limits, Preopen};

use crate::allowance;
use crate::stdio::GuestStdio;

/// The guest that is `process` in the container of `plan`, whose root directory is `root`.
///
/// The network needs no permission here: a guest reaches what its thread's network namespace reaches.
#[must_use]
pub fn guest(
    plan: &Plan,
    process: &Process,
    root: OwnedFd,
    stdio: GuestStdio,
    budget: Budget,
) -> Guest {
    Guest {
        args: process.args.clone(),
        env: process.env.clone(),
        cwd: Some(process.cwd.clone()),
        preopens: vec![Preopen {
            directory: root,
            name: "/".to_owned(),
        }],
        stdin: stdio.stdin,
        stdout: stdio.stdout,
        stderr: stdio.stderr,
        limits: Limits {
            handles: allowance::handles(process.open_files).unwrap_or(Limits::default().handles),
            deadline: plan.options().deadline,
            ..Limits::default()
        },
        budget,
        network: true,
    }
}
