//! Docker's networks: the bridge with its ports, none, and the host's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::docker::Docker;
use integration_tests::poll;

use super::life::sleeper;
use crate::IMAGE;

cases![
    a_published_port_is_served,
    the_bridge_is_another_network,
    none_has_only_the_loopback,
    host_is_the_daemons,
    containers_share_a_network,
];

/// Asks whoever listens there, on the daemon's host, until there is an answer.
fn asks(docker: &Docker, host: &str, port: &str, answer: &str) -> Result<()> {
    let ask = format!(
        "exec 3<>/dev/tcp/{host}/{port}; echo hello >&3; read -rt 5 line <&3; echo \"$line\""
    );
    poll::until("the server answers", Duration::from_secs(30), || {
        let output = docker.on_its_host(["bash", "-ec", &ask]).output();
        match output {
            Ok(output) if output.stdout.trim() == answer => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Starts a server that listens at a port of its network.
fn server(docker: &Docker, name: &str, port: &str, flags: &[&str]) -> Result<()> {
    let annotation = format!("io.containerd.wasi.v1.listen-tcp=0.0.0.0:{port}");
    let run = docker.run(["--detach", "--name", name, "--annotation", &annotation]);
    let run = run.args(flags).args(["--entrypoint", "/serve.wasm"]);
    run.args([IMAGE, "4", "1000"]).success()?;
    Ok(())
}

fn namespace(docker: &Docker, name: &str) -> Result<std::path::PathBuf> {
    let pid = docker.inspect(name, "{{.State.Pid}}")?;
    std::fs::read_link(format!("/proc/{pid}/ns/net")).context("the container's network")
}

fn a_published_port_is_served(docker: &Docker) -> Result<()> {
    server(docker, "published", "8080", &["--publish", "8099:8080"])?;
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = docker.inspect("published", address)?;
    asks(docker, &address, "8080", "HELLO")?;
    asks(docker, "127.0.0.1", "8099", "HELLO")?;
    docker.docker(["rm", "--force", "published"]).success()?;
    Ok(())
}

fn the_bridge_is_another_network(docker: &Docker) -> Result<()> {
    sleeper(docker, "bridged", [])?;
    let (inner, outer) = (
        namespace(docker, "bridged")?,
        std::fs::read_link(docker.network())?,
    );
    ensure!(inner != outer, "{}", inner.display());
    docker.docker(["rm", "--force", "bridged"]).success()?;
    Ok(())
}

fn none_has_only_the_loopback(docker: &Docker) -> Result<()> {
    sleeper(docker, "alone", ["--network", "none"])?;
    let pid = docker.inspect("alone", "{{.State.Pid}}")?;
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let links: Vec<_> = table.lines().skip(2).map(str::trim).collect();
    ensure!(links.iter().all(|link| !link.starts_with("eth")), "{table}");
    ensure!(links.iter().any(|link| link.starts_with("lo:")), "{table}");
    docker.docker(["rm", "--force", "alone"]).success()?;
    Ok(())
}

fn host_is_the_daemons(docker: &Docker) -> Result<()> {
    server(docker, "hosted", "8098", &["--network", "host"])?;
    asks(docker, "127.0.0.1", "8098", "HELLO")?;
    let (inner, outer) = (
        namespace(docker, "hosted")?,
        std::fs::read_link(docker.network())?,
    );
    ensure!(inner == outer, "{} {}", inner.display(), outer.display());
    docker.docker(["rm", "--force", "hosted"]).success()?;
    Ok(())
}

fn containers_share_a_network(docker: &Docker) -> Result<()> {
    sleeper(docker, "owner", [])?;
    sleeper(docker, "guest", ["--network", "container:owner"])?;
    let (owner, guest) = (namespace(docker, "owner")?, namespace(docker, "guest")?);
    ensure!(owner == guest, "{} {}", owner.display(), guest.display());
    docker
        .docker(["rm", "--force", "guest", "owner"])
        .success()?;
    Ok(())
}
