//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use wasi_bundles::{Plan, Process};
use wasi_runtime::{Budget, Guest, Limits, Network, Peer, Preopen};

use crate::stdio::GuestStdio;
use crate::{Error, allowance};

/// The guest that is `process` in the container of `plan`, whose root directory is `root`.
///
/// The network is the one of the thread's network namespace, as far as the plan allows it.
#[must_use]
pub fn guest(
    plan: &Plan,
    process: &Process,
    root: OwnedFd,
    stdio: GuestStdio,
    budget: Budget,
) -> Guest {
    Guest {
        // Its program says it.
        export: None,
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
        network: network(plan.options().allow_net.as_deref()),
        // Only the container's first program gets them: see `listeners`.
        listeners: Vec::new(),
        config: plan.options().config.clone().into_iter().collect(),
        tls: plan.options().wasi_tls,
    }
}

fn network(allowed: Option<&[wasi_bundles::Peer]>) -> Network {
    match allowed {
        None => Network::All,
        Some([]) => Network::Off,
        Some(peers) => Network::Only(
            peers
                .iter()
                .map(|peer| Peer {
                    addresses: peer.addresses,
                    port: peer.port,
                })
                .collect(),
        ),
    }
}

/// Listens at the addresses that `plan` asks for. To be called on the container's thread, in its network
/// namespace, and before it gives up the right to take a low port.
///
/// # Errors
///
/// [`Error::Host`] with the address: it is taken, or not the container's.
pub fn listeners(plan: &Plan) -> Result<Vec<TcpListener>, Error> {
    let listen =
        |address| TcpListener::bind(address).map_err(Error::host(format!("listen at {address}")));
    plan.options().listen_tcp.iter().map(listen).collect()
}
