//! How fast a light service answers, beside `wasmtime serve` with the same component, in turns; and how late its
//! answers are beside a neighbour in its shim that computes.
//!
//! `http [SECONDS]`: how long each turn lasts, 3 by default. The client is one thread, which competes with both for the
//! machine's processors in the same way.

#![allow(clippy::print_stdout, reason = "its output is a table")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use integration_tests::bundle::Bundle;
use integration_tests::fake::FakeContainerd;
use integration_tests::tasks::Tasks;
use integration_tests::{guests, poll, target};
use rustix::event::{PollFd, PollFlags};

/// How many connections there are, each with one request at a time.
const CONNECTIONS: [usize; 3] = [1, 16, 256];
/// How often each server has its turn.
const TURNS: usize = 3;
const REQUEST: &[u8] = b"GET /count HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Puts containers into one shim.
const GROUP: &str = "io.containerd.runc.v2.group";

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map(|seconds| seconds.parse());
    let turn = Duration::from_secs(seconds.transpose()?.unwrap_or(3));
    let fake = FakeContainerd::new()?;
    let ours = Service::start(&fake, "service")?;
    let theirs = Peer::start()?;
    println!(
        "{:<16} {:>12} {:>12} {:>10} {:>10} {:>10}",
        "", "connections", "requests/s", "p50 us", "p99 us", "max us"
    );
    for connections in CONNECTIONS {
        let (mut our, mut their) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            our.push(load(ours.address, connections, turn)?);
            their.push(load(theirs.address, connections, turn)?);
        }
        row("this shim", connections, our);
        row("wasmtime serve", connections, their);
    }
    drop(theirs);
    let neighbour = computes(&fake)?;
    let late = load(ours.address, 16, turn)?;
    row("with neighbour", 16, vec![late]);
    for (tasks, bundle) in [(&neighbour.0, &neighbour.1), (&ours.tasks, &ours.bundle)] {
        tasks.kill(bundle.id(), 9)?;
        tasks.wait(bundle.id())?;
        tasks.delete(bundle.id())?;
    }
    ours.tasks.shutdown(ours.bundle.id())?;
    fake.shims_end()
}

/// A service in a shim.
struct Service {
    tasks: Tasks,
    bundle: Bundle,
    address: SocketAddr,
}

impl Service {
    fn start(fake: &FakeContainerd, id: &str) -> Result<Self> {
        let address = free()?;
        let bundle = fake
            .bundle(id)
            .file("/app.wasm", guests::named("handler")?)
            .args(["/app.wasm"])
            .annotation(GROUP, "all")
            .annotation("io.containerd.wasi.v1.http-listen", &address.to_string())
            .edit(|config| {
                // The host's network, in which the peer is, too.
                if let Some(listed) = config["linux"]["namespaces"].as_array_mut() {
                    listed.retain(|namespace| namespace["type"] != "network");
                }
            })
            .write()?;
        let tasks = fake.serve(&bundle)?;
        tasks.create(&bundle)?;
        tasks.start(id)?;
        Ok(Self {
            tasks,
            bundle,
            address,
        })
    }
}

/// A container of the same shim that computes for ever.
fn computes(fake: &FakeContainerd) -> Result<(Tasks, Bundle)> {
    let bundle = fake
        .bundle("neighbour")
        .file("/app.wasm", guests::spins()?)
        .args(["/app.wasm"])
        .annotation(GROUP, "all")
        .write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start("neighbour")?;
    Ok((tasks, bundle))
}

/// An address that nobody had a moment ago.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// `wasmtime serve`.
struct Peer {
    process: Child,
    address: SocketAddr,
}

impl Peer {
    fn start() -> Result<Self> {
        let address = free()?;
        let process = Command::new(target().join("tools/bin/wasmtime"))
            .args(["serve", "-Scli,config", "--addr", &address.to_string()])
            .arg(target().join("guests/handler.wasm"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("wasmtime; `make setup` installs it")?;
        let peer = Self { process, address };
        poll::until("wasmtime serves", Duration::from_secs(60), || {
            TcpStream::connect(address)
                .map(drop)
                .map_err(|error| error.to_string())
        })?;
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended already, if either fails.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// How long each answer took, and how long all.
struct Measured {
    answers: Vec<Duration>,
    time: Duration,
}

fn row(name: &str, connections: usize, turns: Vec<Measured>) {
    let time: Duration = turns.iter().map(|turn| turn.time).sum();
    let mut answers: Vec<_> = turns.into_iter().flat_map(|turn| turn.answers).collect();
    answers.sort_unstable();
    let at = |share: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a list"
        )]
        let index = ((answers.len() - 1) as f64 * share) as usize;
        answers[index].as_micros()
    };
    #[allow(clippy::cast_precision_loss, reason = "shown with no decimals")]
    let rate = answers.len() as f64 / time.as_secs_f64();
    println!(
        "{name:<16} {connections:>12} {rate:>12.0} {:>10} {:>10} {:>10}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// A connection with a request that is not answered.
struct Client {
    stream: TcpStream,
    asked: Instant,
    /// What has come of the answer.
    answer: Vec<u8>,
}

impl Client {
    fn ask(&mut self) -> Result<()> {
        self.answer.clear();
        self.asked = Instant::now();
        Ok(self.stream.write_all(REQUEST)?)
    }

    /// Whether the answer is whole.
    fn read(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer)?;
        ensure!(count > 0, "the server has closed a connection");
        self.answer.extend_from_slice(&buffer[..count]);
        let Some(head) = self.answer.windows(4).position(|end| end == b"\r\n\r\n") else {
            return Ok(false);
        };
        let text = String::from_utf8_lossy(&self.answer[..head]).to_lowercase();
        ensure!(text.starts_with("http/1.1 200 "), "{text}");
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.context("a length")?.trim().parse()?;
        Ok(self.answer.len() >= head + 4 + length)
    }
}

/// Asks on all connections for `time`, again on each as soon as it has its answer. The first tenth does not count.
fn load(address: SocketAddr, connections: usize, time: Duration) -> Result<Measured> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let (asked, answer) = (Instant::now(), Vec::new());
        let mut client = Client {
            stream,
            asked,
            answer,
        };
        client.ask()?;
        clients.push(client);
    }
    let begun = Instant::now();
    let (warm, end) = (begun + time / 10, begun + time);
    let mut answers = Vec::new();
    loop {
        let ready: Vec<bool> = {
            let of = |client| PollFd::new(client, PollFlags::IN);
            let mut polled: Vec<_> = clients.iter().map(|client| of(&client.stream)).collect();
            let patience = rustix::event::Timespec {
                tv_sec: 30,
                tv_nsec: 0,
            };
            if rustix::event::poll(&mut polled, Some(&patience))? == 0 {
                bail!("nothing was answered for 30 s");
            }
            let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
            ready.by_ref().collect()
        };
        for (client, _) in clients.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if client.read()? {
                let now = Instant::now();
                if client.asked > warm {
                    answers.push(now - client.asked);
                }
                client.ask()?;
            }
        }
        let now = Instant::now();
        if now > end {
            let time = now - warm;
            return Ok(Measured { answers, time });
        }
    }
}
