//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::os::fd::OwnedFd;

use wasi_bundles::{Plan, Process};
use wasi_runtime::{Guest, Limits, Preopen};

use crate::stdio::GuestStdio;

/// The guest that is `process` in the container of `plan`, whose root directory is `root`.
///
/// The network needs no permission here: a guest reaches what its thread's network namespace reaches.
#[must_use]
pub fn guest(plan: &Plan, process: &Process, root: OwnedFd, stdio: GuestStdio) -> Guest {
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
            memory: plan.limits().memory,
        },
        network: true,
    }
}
