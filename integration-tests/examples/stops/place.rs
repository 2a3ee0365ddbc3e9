//! What guests are at when they are stopped, and how one knows that they are there.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use integration_tests::bundle::{Bundle, BundleBuilder};
use integration_tests::guests;
use integration_tests::poll;
use rustix::fs::{CWD, FileType, Mode, OFlags};

/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where names are asked for; nobody answers.
const RESOLVER: &str = "127.0.0.77";

/// What a guest is at.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    /// Whether it computes, and does not wait.
    pub(crate) computes: bool,
    wasm: Vec<u8>,
    args: Vec<String>,
    arrives: Arrival,
}

/// What tells that it is there.
enum Arrival {
    /// A line of its own.
    Says(&'static str),
    /// That it has read all there is in a fifo, `/fifo`, that nobody closes.
    Reads,
    /// A connection, on which it waits for more; of HTTP after its request.
    Connects { listener: TcpListener, http: bool },
    /// A question for a name.
    Asks(UdpSocket),
}

use Arrival::{Asks, Connects, Reads, Says};

impl Place {
    fn says(name: &'static str, computes: bool, wasm: Vec<u8>, line: &'static str) -> Self {
        Self {
            name,
            computes,
            wasm,
            args: Vec::new(),
            arrives: Says(line),
        }
    }

    fn waits<const N: usize>(
        name: &'static str,
        guest: &str,
        args: [&str; N],
        arrives: Arrival,
    ) -> Result<Self> {
        Ok(Self {
            name,
            computes: false,
            wasm: guests::named(guest)?,
            args: args.map(str::to_owned).to_vec(),
            arrives,
        })
    }

    /// All of them.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let listener = || -> Result<(TcpListener, String)> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?.to_string();
            Ok((listener, address))
        };
        let (sends_nothing, silent) = listener()?;
        let (answers_nothing, server) = listener()?;
        let resolver = UdpSocket::bind((RESOLVER, 53)).context("bind the port of a name server")?;
        let asynchronous = |name, computes, order: &str, line| -> Result<Self> {
            let wasm = guests::named("streams_p3")?;
            let mut place = Self::says(name, computes, wasm, line);
            place.args.push(order.to_owned());
            Ok(place)
        };
        let connects = |listener, http| Connects { listener, http };
        Ok(vec![
            Self::says("a loop", true, guests::named("spin")?, "spinning"),
            Self::says(
                "a loop in a component",
                true,
                guests::named("spin.component")?,
                "spinning",
            ),
            asynchronous("a loop of WASI 0.3", true, "spin", "spinning")?,
            Self::says("copies of 1 MiB", true, guests::copies()?, "copying"),
            Self::says("copies of 1 GiB", true, guests::long_copies()?, "copying"),
            Self::says(
                "poll_oneoff (a sleep)",
                false,
                guests::named("sleep")?,
                "sleeping",
            ),
            Self::says(
                "a sleep in a component",
                false,
                guests::named("sleep.component")?,
                "sleeping",
            ),
            asynchronous("streams and clocks of 0.3", false, "both", "waiting")?,
            Self::says(
                "a read of stdin",
                false,
                guests::named("stdin_block")?,
                "reading",
            ),
            Self::says("an accept", false, guests::named("accept")?, "listening"),
            Self::waits(
                "a receive",
                "connect",
                [&silent],
                connects(sends_nothing, false),
            )?,
            Self::waits("a read of a stalled fifo", "paths", ["read /fifo"], Reads)?,
            Self::waits(
                "a lookup of a name",
                "resolve",
                ["name.test"],
                Asks(resolver),
            )?,
            Self::waits(
                "an HTTP request",
                "fetch",
                ["http", &server, "/"],
                connects(answers_nothing, true),
            )?,
        ])
    }

    /// A container that goes there.
    pub(crate) fn bundle(&self, bundle: BundleBuilder) -> Result<Bundle> {
        let args = ["/app.wasm"]
            .into_iter()
            .chain(self.args.iter().map(String::as_str));
        let bundle = bundle.file("/app.wasm", self.wasm.clone()).args(args);
        let bundle = match self.arrives {
            // Those whom it asks are in the namespace of this process.
            Connects { .. } | Asks(_) => bundle
                .file("/etc/resolv.conf", format!("nameserver {RESOLVER}\n"))
                .edit(|spec| {
                    let namespaces = spec["linux"]["namespaces"].as_array_mut();
                    if let Some(namespaces) = namespaces {
                        namespaces.retain(|namespace| namespace["type"] != "network");
                    }
                }),
            Says(_) | Reads => bundle,
        };
        // What is no component of 0.3 does not mind it.
        let bundle = bundle
            .annotation("io.containerd.wasi.v1.wasi-0.3", "on")
            .write()?;
        if matches!(self.arrives, Reads) {
            let fifo = bundle.path().join("rootfs/fifo");
            rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o644), 0)?;
        }
        Ok(bundle)
    }

    /// What has to be done before a guest goes there; to be given to [`Self::arrived`].
    pub(crate) fn prepare(&self, bundle: &Bundle) -> Result<Option<OwnedFd>> {
        match &self.arrives {
            Reads => {
                // Both sides, so that nobody waits and there is no end.
                let fifo = bundle.path().join("rootfs/fifo");
                let both = rustix::fs::open(fifo, OFlags::RDWR, Mode::empty())?;
                rustix::io::write(&both, b"some")?;
                Ok(Some(both))
            }
            Asks(socket) => {
                // What earlier ones asked.
                socket.set_nonblocking(true)?;
                while socket.recv(&mut [0; 512]).is_ok() {}
                socket.set_nonblocking(false)?;
                Ok(None)
            }
            Says(_) | Connects { .. } => Ok(None),
        }
    }

    /// Waits until a guest is there that writes to `stdout`. It is while what is returned is held.
    pub(crate) fn arrived(&self, stdout: &Path, held: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
        match &self.arrives {
            Says(line) => poll::until("the guest is there", PATIENCE, || {
                let said = std::fs::read_to_string(stdout).unwrap_or_default();
                if said.contains(line) {
                    Ok(())
                } else {
                    Err(said)
                }
            })?,
            Reads => poll::until("the guest has read the fifo", PATIENCE, || {
                let left = held.as_ref().map(rustix::io::ioctl_fionread);
                match left {
                    Some(Ok(0)) => Ok(()),
                    left => Err(format!("{left:?}")),
                }
            })?,
            Connects { listener, http } => {
                let (stream, _peer) = listener.accept()?;
                if *http {
                    let mut lines = BufReader::new(&stream).lines();
                    while !lines.next().context("the request ends")??.is_empty() {}
                }
                return Ok(Some(stream.into()));
            }
            Asks(socket) => {
                socket.recv(&mut [0; 512])?;
            }
        }
        Ok(held)
    }
}
