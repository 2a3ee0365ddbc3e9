//! Where bundles and runtime meet: what a plan grants becomes what a guest is given.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use wasi_bundles::{HttpOptions, Plan, Process, open_in_root};
use wasi_runtime::{
    Artifact, Authorities, Budget, Collector, Guest, Limits, Metrics, Middleware, Network, Peer,
    Preopen, Service, Telemetry, Traces,
};

use crate::stdio::GuestStdio;
use crate::{Error, allowance, credentials};

/// The guest that is `process` in the container of `plan`, whose files are below `root`, with the directories that it is given and
/// their names.
///
/// The network is the one of the thread's network namespace, as far as the plan allows it.
#[must_use]
pub fn guest(
    plan: &Plan,
    process: &Process,
    root: BorrowedFd<'_>,
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
        authorities: authorities(root, &process.env),
    }
}

/// Where the distributions of Linux have the certificate authorities that they trust, as one file: Debian and
/// Alpine, Fedora, and what OpenSSL looks for.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// Names another one, as for OpenSSL, Go and curl.
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// The certificate authorities of the container, if it has some. If a variable names a file that cannot be
/// opened it trusts nobody: not more than it was to.
fn authorities(root: BorrowedFd<'_>, env: &[(String, String)]) -> Authorities {
    let open = |path: &str| {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(open_in_root(root, Path::new(path), flags)?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(std::io::Error::other("it is no regular file"))
        }
    };
    let named = env.iter().find(|(name, _)| name == BUNDLE_VARIABLE);
    let Some((_, path)) = named.filter(|(_, path)| !path.is_empty()) else {
        let found = BUNDLES.iter().find_map(|path| open(path).ok());
        return found.map_or(Authorities::BuiltIn, Authorities::File);
    };
    open(path).map_or_else(
        |error| {
            log::warn!("{BUNDLE_VARIABLE}={path}: {error}; the guest's TLS trusts nobody");
            Authorities::Nobody
        },
        Authorities::File,
    )
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

/// How the container of `plan`, whose files are below `root`, serves HTTP, if `artifact`, asked for `export`, does
/// that. To be called as [`listeners`].
///
/// # Errors
///
/// [`Error::Host`] with the address that cannot be listened at, [`Error::Bundle`] when there is none, or
/// no file that it is to be configured with, or options for a service that is none and in no pod.
pub fn service(
    plan: &Plan,
    root: BorrowedFd<'_>,
    artifact: &Artifact,
    export: Option<&str>,
) -> Result<Option<Service>, Error> {
    let options = &plan.options().http;
    if !artifact.serves_http(export) {
        if *options == HttpOptions::default() {
            return Ok(None);
        }
        let program = plan.process().args[0].clone();
        unused(plan, Error::NoService { program })?;
        return Ok(None);
    }
    if matches!(plan.options().allow_net.as_deref(), Some([])) {
        return Err(Error::Offline {
            program: plan.process().args[0].clone(),
        });
    }
    let middleware = middleware(plan, root, artifact.is_middleware(export))?;
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
        telemetry: wasi_bundles::Telemetry::new(plan.process())?.map(telemetry),
        middleware,
    }))
}

/// Options that the container of `plan` has no use for, as `error` says. In a pod they may be meant for another
/// container: CRI passes the pod's annotations to all of them, and nothing tells those from a container's own.
fn unused(plan: &Plan, error: Error) -> Result<(), Error> {
    if plan.in_pod() {
        log::warn!(
            "{error}; they are passed over, since another container of the pod may need them"
        );
        return Ok(());
    }
    Err(error)
}

/// What collectors are told, as the variables of the container say.
fn telemetry(asked: wasi_bundles::Telemetry) -> Telemetry {
    let collector = |asked: wasi_bundles::Collector| Collector {
        endpoint: asked.endpoint,
        headers: asked.headers,
        timeout: asked.timeout,
    };
    Telemetry {
        resource: asked.resource,
        traces: asked.traces.map(|traces| Traces {
            collector: collector(traces.collector),
            ratio: traces.ratio,
            follow: traces.follow,
            propagate: traces.propagate,
            queue: traces.queue,
            batch: traces.batch,
            delay: traces.delay,
            flush: traces.flush,
        }),
        metrics: asked.metrics.map(|metrics| Metrics {
            collector: collector(metrics.collector),
            interval: metrics.interval,
        }),
        warnings: asked.warnings,
    }
}

/// What middleware is given, if the program of `plan` `is` that.
fn middleware(plan: &Plan, root: BorrowedFd<'_>, is: bool) -> Result<Option<Middleware>, Error> {
    let (options, process) = (&plan.options().http, plan.process());
    let program = || process.args[0].clone();
    if !is {
        let configured = options.config.is_some() || options.config_file.is_some();
        if options.upstream.is_some() || configured {
            let program = program();
            unused(plan, Error::NoMiddleware { program })?;
        }
        return Ok(None);
    }
    let upstream = options.upstream(process)?;
    let (host, port) = upstream.ok_or_else(|| Error::NoUpstream { program: program() })?;
    let capabilities = process.capabilities.iter().flatten().map(String::as_str);
    let config = credentials::acting(&process.user, capabilities, || options.configuration(root));
    Ok(Some(Middleware {
        host,
        port,
        config: config??,
        buffer_bytes: options.buffer_bytes,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn planned(annotations: serde_json::Value) -> Plan {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": { "cwd": "/", "args": ["/app.wasm"], "user": { "uid": 0, "gid": 0 } },
            "root": { "path": "rootfs" },
            "annotations": annotations,
            "linux": { "namespaces": [{ "type": "mount" }] },
        });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        Plan::new(&wasi_bundles::Bundle::open(dir.path()).unwrap()).unwrap()
    }

    #[test]
    fn options_for_middleware_are_passed_over_in_a_pod_only() {
        let upstream = (
            "io.containerd.wasi.v1.http-upstream",
            "http://127.0.0.1:3000",
        );
        let root = File::open("/").unwrap();
        let alone = planned(serde_json::json!({ upstream.0: upstream.1 }));
        let refused = middleware(&alone, root.as_fd(), false);
        assert!(matches!(refused, Err(Error::NoMiddleware { .. })));
        let of = ("io.kubernetes.cri.sandbox-id", "web");
        let in_pod = planned(serde_json::json!({ upstream.0: upstream.1, of.0: of.1 }));
        assert!(middleware(&in_pod, root.as_fd(), false).unwrap().is_none());
    }

    #[test]
    fn options_for_a_service_are_passed_over_in_a_pod_only() {
        let error = || Error::NoService {
            program: "/app.wasm".to_owned(),
        };
        let alone = planned(serde_json::json!({}));
        assert!(matches!(
            unused(&alone, error()),
            Err(Error::NoService { .. })
        ));
        let in_pod = planned(serde_json::json!({ "io.kubernetes.cri.sandbox-id": "web" }));
        unused(&in_pod, error()).unwrap();
    }

    fn found(root: &Path, variable: Option<&str>) -> String {
        let root = File::open(root).unwrap();
        let env = variable.map(|path| (BUNDLE_VARIABLE.to_owned(), path.to_owned()));
        let env: Vec<_> = env.into_iter().collect();
        match authorities(root.as_fd(), &env) {
            Authorities::BuiltIn => "built in".to_owned(),
            Authorities::Nobody => "nobody".to_owned(),
            Authorities::File(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            }
        }
    }

    #[test]
    fn authorities_are_the_containers() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(found(root, None), "built in");
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("usr/share/bundle.pem", "openssl");
        std::fs::create_dir_all(root.join("etc/ssl")).unwrap();
        // A link means what it means to the container.
        std::os::unix::fs::symlink("/usr/share/bundle.pem", root.join("etc/ssl/cert.pem")).unwrap();
        assert_eq!(found(root, None), "openssl");
        put("etc/ssl/certs/ca-certificates.crt", "debian");
        assert_eq!(found(root, None), "debian");
        assert_eq!(found(root, Some("")), "debian");
        put("own.pem", "own");
        assert_eq!(found(root, Some("/own.pem")), "own");
        // Not the host's, and nobody else's in its place.
        for path in ["/missing", "/etc", "/../../../../../etc/hostname"] {
            assert_eq!(found(root, Some(path)), "nobody", "{path}");
        }
    }
}
