//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::net::TcpListener;
use std::os::fd::OwnedFd;

use wasi_bundles::{HttpOptions, Plan, Process};
use wasi_runtime::{Artifact, Budget, Guest, Limits, Network, Peer, Preopen, Service};

use crate::stdio::GuestStdio;
use crate::{Error, allowance};

/// The guest that is `process` in the container of `plan`, with the directories that it is given and
/// their names.
///
/// The network is the one of the thread's network namespace, as far as the plan allows it.
#[must_use]
pub fn guest(
    plan: &Plan,
    process: &Process,
    preopens: Vec<(String, OwnedFd)>,
    stdio: GuestStdio,
    budget: Budget,
) -> Guest {
    let preopens = preopens.into_iter();
    Guest {
        // Its program says it.
        export: None,
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
            handles: allowance::handles(process.open_files).unwrap_or(Limits::default().handles),
            deadline: plan.options().deadline,
            ..Limits::default()
        },
        budget,
        network: network(plan.options().allow_net.as_deref()),
        // Only the container's first program gets them: see `listeners`.
        listeners: Vec::new(),
        // See `service`.
        http: None,
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

/// How the container of `plan` serves HTTP, if `artifact`, asked for `export`, does that. To be called as
/// [`listeners`].
///
/// # Errors
///
/// [`Error::Host`] with the address that cannot be listened at, [`Error::Bundle`] when there is none, or
/// options for a service that is none.
pub fn service(
    plan: &Plan,
    artifact: &Artifact,
    export: Option<&str>,
) -> Result<Option<Service>, Error> {
    let options = &plan.options().http;
    if !artifact.serves_http(export) {
        if *options == HttpOptions::default() {
            return Ok(None);
        }
        return Err(Error::NoService {
            program: plan.process().args[0].clone(),
        });
    }
    if matches!(plan.options().allow_net.as_deref(), Some([])) {
        return Err(Error::Offline {
            program: plan.process().args[0].clone(),
        });
    }
    let address = options.address(plan.process())?;
    let listener = TcpListener::bind(address);
    let listener = listener.map_err(Error::host(format!("serve HTTP at {address}")))?;
    let metrics = options.metrics.map(|address| {
        let listener = TcpListener::bind(address);
        listener.map_err(Error::host(format!("show metrics at {address}")))
    });
    Ok(Some(Service {
        listener,
        workers: allowance::cores(plan.limits().cpu),
        requests: options.requests,
        connections: options.connections,
        header_bytes: options.header_bytes,
        request_timeout: options.request_timeout,
        idle_timeout: options.idle_timeout,
        access_log: options.access_log,
        metrics: metrics.transpose()?,
    }))
}
