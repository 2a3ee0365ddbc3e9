//! OpenTelemetry of services: told in the container's network, with its user's rights, by its own variables.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::poll;
use integration_tests::task::Task;
use nix::sched::{CloneFlags, setns};

use super::http::{ended, get, inside, service, start};

cases![
    a_service_tells_the_collector_in_its_network,
    a_collector_that_cannot_be_told_is_named,
];

/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket in the network of the task, which is that of the thread that makes it.
fn listen(task: &Task<'_>, address: &str) -> Result<TcpListener> {
    let network = std::fs::File::open(format!("/proc/{}/ns/net", task.pid()?))?;
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| -> Result<TcpListener> {
            setns(network, CloneFlags::CLONE_NEWNET).context("enter the task's network")?;
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listening.join().map_err(|_| anyhow!("a panic"))?
    })
}

/// The next delivery: its head and its body. It is answered with 200.
fn delivery(listener: &TcpListener) -> Result<(String, Vec<u8>)> {
    let mut stream: TcpStream = poll::until("the collector is told", PATIENCE, || match listener
        .accept()
    {
        Ok((stream, _)) => Ok(Ok(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err("nobody comes".to_owned()),
        Err(error) => Ok(Err(error)),
    })??;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "it breaks off: {seen:?}");
        seen.extend_from_slice(&piece[..count]);
        let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next());
        let length: usize = length.with_context(|| head.clone())?.trim().parse()?;
        if seen.len() >= end + 4 + length {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            return Ok((head, seen.split_off(end + 4)));
        }
    }
}

fn has(body: &[u8], text: &[u8]) -> Result<()> {
    let found = body.windows(text.len()).any(|window| window == text);
    let (text, body) = (String::from_utf8_lossy(text), String::from_utf8_lossy(body));
    ensure!(found, "{text:?} is not in {body:?}");
    Ok(())
}

/// The threads of the task's shim that tell collectors.
fn couriers(task: &Task<'_>) -> Result<Vec<PathBuf>> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", task.process()?))?;
    let mut couriers = Vec::new();
    for thread in threads {
        let path = thread?.path();
        // It may have ended meanwhile.
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() == "wasi-telemetry" {
            couriers.push(path);
        }
    }
    Ok(couriers)
}

fn namespace(thread: &Path, kind: &str) -> Result<u64> {
    Ok(std::fs::metadata(thread.join("ns").join(kind))?.ino())
}

fn a_service_tells_the_collector_in_its_network(containerd: &Containerd) -> Result<()> {
    let run = service(containerd, "told")?
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        .env("OTEL_SERVICE_NAME", "shop")
        .env("OTEL_BSP_SCHEDULE_DELAY", "0")
        .env("OTEL_TRACES_SAMPLER", "whim");
    let task = start(&run)?;
    task.writes("OpenTelemetry: OTEL_TRACES_SAMPLER has the value `whim`")?;
    let collector = listen(&task, "127.0.0.1:4318")?;
    let request = "GET /hello HTTP/1.1\\r\\nHost: test\\r\\nConnection: close\\r\\n\
                   traceparent: 00-6f74656c2d69732d746f6c642d686572-6f74656c2d697321-01\\r\\n\\r\\n";
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/8080; printf '{request}' >&3; cat <&3");
    let answer = inside(&task, &script)?.stdout;
    ensure!(answer.ends_with("hello\n"), "{answer}");
    let (head, body) = delivery(&collector)?;
    ensure!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    for text in [
        "shop",
        "http.request.method",
        "/hello",
        // The trace and the parent.
        "otel-is-told-her",
        "otel-is!",
    ] {
        has(&body, text.as_bytes())?;
    }
    // Who tells it is confined as the guest is, whose user is 1000.
    let found = couriers(&task)?;
    let [courier] = found.as_slice() else {
        return Err(anyhow!("it has these threads for that: {found:?}"));
    };
    let guest = PathBuf::from(format!("/proc/{}", task.pid()?));
    for kind in ["net", "mnt"] {
        ensure!(
            namespace(courier, kind)? == namespace(&guest, kind)?,
            "{kind}"
        );
    }
    for line in ["Uid:", "CapEff:", "NoNewPrivs:", "Seccomp:"] {
        let status = |thread: &Path| -> Result<String> {
            let status = std::fs::read_to_string(thread.join("status"))?;
            let found = status.lines().find(|known| known.starts_with(line));
            Ok(found.with_context(|| line.to_owned())?.to_owned())
        };
        let (its, guests) = (status(courier)?, status(&guest)?);
        ensure!(its == guests, "{its}, and not {guests}");
    }
    // What is left is told at the end.
    task.kill("TERM")?;
    let (head, body) = delivery(&collector)?;
    ensure!(head.starts_with("post /v1/metrics http/1.1\r\n"), "{head}");
    has(&body, b"http.server.request.duration")?;
    ended(&task, 0)
}

fn a_collector_that_cannot_be_told_is_named(containerd: &Containerd) -> Result<()> {
    let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
    for (name, value) in [
        (endpoint, "grpc://collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ] {
        let output = service(containerd, "untold")?
            .env(endpoint, "http://127.0.0.1:4318")
            .env(name, value)
            .output()?;
        output.refused(&format!(
            "its environment has {name} with the value `{value}"
        ))?;
    }
    // Nobody is told, and nobody there to be told.
    let run = service(containerd, "off")?
        .env(endpoint, "http://127.0.0.1:4318")
        .env("OTEL_SDK_DISABLED", "true");
    let task = start(&run)?;
    let answer = get(&task, 8080, "/hello")?;
    ensure!(answer.ends_with("hello\n"), "{answer}");
    ensure!(couriers(&task)?.is_empty(), "it has a thread for nothing");
    task.end().map(drop)
}
