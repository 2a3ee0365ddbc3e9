//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::os::fd::OwnedFd;

use wasi_bundles::Plan;
use wasi_runtime::{Guest, Limits, Preopen};

use crate::stdio::GuestStdio;

/// The guest of `plan`, whose root directory is `root`; `export` is what the entrypoint asks for.
///
/// The network needs no permission here: a guest reaches what its thread's network namespace reaches.
#[must_use]
pub fn guest(plan: &Plan, export: Option<String>, root: OwnedFd, stdio: GuestStdio) -> Guest {
    let process = plan.process();
    Guest {
        export,
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
