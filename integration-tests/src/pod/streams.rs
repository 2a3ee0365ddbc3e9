//! The streams of an exec, an attach or a forwarded port.
//!
//! Kubernetes' interface answers these calls with an address of a server of containerd's, and there one
//! WebSocket carries all streams: the first byte of a message is the stream's number (protocol
//! `v4.channel.k8s.io` of `k8s.io/kubelet/pkg/cri/streaming`). Of a command these are stdin, stdout, stderr,
//! the status at the end, and sizes of its terminal. A forwarded port has two, its data and what went wrong.
//! No message of this protocol ends stdin alone: the connection's end does.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tungstenite::http::Uri;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket};

use super::{Pod, PodContainer};
use crate::cri::Cri;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// For one message, on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(30);
/// For an echo of what was sent last.
const ECHO: Duration = Duration::from_secs(1);

const STDIN: u8 = 0;
const STDOUT: usize = 1;
const STATUS: usize = 3;
const SIZE: u8 = 4;

/// The client's end.
#[derive(Debug)]
pub struct Streams {
    socket: WebSocket<TcpStream>,
    /// What has come, by the stream's number.
    come: [Vec<u8>; 4],
    /// The number of the output; errors have the next.
    output: usize,
}

/// What there was in all.
#[derive(Debug)]
pub struct Said {
    /// Of its standard output, or of the forwarded port.
    pub stdout: Vec<u8>,
    /// Of its standard error.
    pub stderr: Vec<u8>,
    /// How the command ended, a `metav1.Status`; null where there is none.
    pub status: Value,
}

impl Said {
    /// The exit code that the status tells.
    ///
    /// # Errors
    ///
    /// When it tells none.
    pub fn code(&self) -> Result<i32> {
        if self.status["status"] == "Success" {
            return Ok(0);
        }
        let causes = self.status["details"]["causes"].as_array();
        let mut causes = causes.into_iter().flatten();
        let code = causes.find(|cause| cause["reason"] == "ExitCode");
        let code = code.and_then(|cause| cause["message"].as_str()?.parse().ok());
        code.with_context(|| format!("no exit code in {self:?}"))
    }

    /// Its standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Streams {
    /// Connects to `url`, which is of the node's network.
    fn open(cri: &Cri, url: &str, output: usize) -> Result<Self> {
        let uri: Uri = url
            .replacen("http", "ws", 1)
            .parse()
            .with_context(|| url.to_owned())?;
        let address = uri.authority().with_context(|| url.to_owned())?.to_string();
        let stream =
            connect(cri.network(), &address).with_context(|| format!("connect to {url}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(PROTOCOL);
        let (socket, _) = tungstenite::client(request, stream)
            .map_err(|error| anyhow!("{url} as a WebSocket: {error}"))?;
        Ok(Self {
            socket,
            come: Default::default(),
            output,
        })
    }

    /// Sends something to stdin, or to the forwarded port.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.message(STDIN, bytes.as_ref())
    }

    /// Tells the terminal how large it is.
    ///
    /// # Errors
    ///
    /// When the connection has ended.
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        let size = json!({ "Width": columns, "Height": rows });
        self.message(SIZE, size.to_string().as_bytes())
    }

    /// Reads until its standard output has this text.
    ///
    /// # Errors
    ///
    /// When it does not come; what has come instead is told.
    pub fn reads(&mut self, text: &str) -> Result<()> {
        while !String::from_utf8_lossy(&self.come[self.output]).contains(text) {
            let more = self.next().with_context(|| format!("no {text:?}"))?;
            ensure!(more, "no {text:?}, and the end: {}", self.all());
        }
        Ok(())
    }

    /// Sends a line to what echoes it, again and again until `echo` has come: then the streams are attached.
    ///
    /// containerd begins to copy the input of one that attaches before it adds its output (`ContainerIO.Attach`,
    /// containerd 1.6 to 2.1), so that an echo which is fast enough is for all others but not for this one.
    ///
    /// # Errors
    ///
    /// As [`Self::reads`].
    pub fn echoes(&mut self, line: &str, echo: &str) -> Result<()> {
        let attempts = PATIENCE.as_secs() / ECHO.as_secs();
        self.socket.get_ref().set_read_timeout(Some(ECHO))?;
        for _ in 1..attempts {
            self.send(line)?;
            if self.reads(echo).is_ok() {
                break;
            }
        }
        self.socket.get_ref().set_read_timeout(Some(PATIENCE))?;
        self.reads(echo)
    }

    /// Reads to the end.
    ///
    /// # Errors
    ///
    /// When it does not come.
    pub fn finish(mut self) -> Result<Said> {
        while self.next().context("no end")? {}
        Ok(Said {
            status: serde_json::from_slice(&self.come[STATUS]).unwrap_or_default(),
            stdout: std::mem::take(&mut self.come[self.output]),
            stderr: std::mem::take(&mut self.come[self.output + 1]),
        })
    }

    fn message(&mut self, stream: u8, bytes: &[u8]) -> Result<()> {
        let mut message = vec![stream];
        message.extend_from_slice(bytes);
        let sent = self.socket.send(Message::binary(message));
        sent.with_context(|| format!("send to stream {stream}"))
    }

    /// Takes the next message; false at the end.
    fn next(&mut self) -> Result<bool> {
        let message = match self.socket.read() {
            Ok(Message::Close(_)) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {
                return Ok(false);
            }
            // The server closes the connection right after its last message.
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => {
                return Ok(false);
            }
            Err(Error::Io(error)) if error.kind() == ErrorKind::ConnectionReset => {
                return Ok(false);
            }
            Ok(message) => message.into_data(),
            Err(error) => bail!("{error}, after {}", self.all()),
        };
        if let Some((stream, bytes)) = message.split_first() {
            let come = self.come.get_mut(usize::from(*stream));
            come.with_context(|| format!("a stream {stream}"))?
                .extend_from_slice(bytes);
        }
        Ok(true)
    }

    fn all(&self) -> String {
        let texts = self.come.iter().map(|come| String::from_utf8_lossy(come));
        format!("{:?}", texts.collect::<Vec<_>>())
    }
}

/// The network of a socket is that of the thread that makes it.
fn connect(network: &Path, address: &str) -> Result<TcpStream> {
    let network = std::fs::File::open(network).context("the node's network")?;
    std::thread::scope(|scope| {
        let connected = scope.spawn(|| -> Result<TcpStream> {
            setns(network, CloneFlags::CLONE_NEWNET).context("enter the node's network")?;
            Ok(TcpStream::connect(address)?)
        });
        connected.join().map_err(|_| anyhow!("a panic"))?
    })
}

impl PodContainer<'_> {
    /// Runs a command whose streams are forwarded: with a terminal or without, with stdin or without.
    ///
    /// # Errors
    ///
    /// What containerd answers, and when its server cannot be reached.
    pub fn execute<'b>(
        &self,
        cmd: impl IntoIterator<Item = &'b str>,
        tty: bool,
        stdin: bool,
    ) -> Result<Streams> {
        let request = ExecRequest {
            container_id: self.id.clone(),
            cmd: cmd.into_iter().map(str::to_owned).collect(),
            tty,
            stdin,
            stdout: true,
            // One stream comes from a terminal.
            stderr: !tty,
        };
        let answer = self.cri.ask(
            "execute",
            |mut client| async move { client.exec(request).await },
        )?;
        Streams::open(self.cri, &answer.url, STDOUT)
    }

    /// Attaches to it; `tty` as it was made.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`].
    pub fn attach(&self, tty: bool, stdin: bool) -> Result<Streams> {
        let request = AttachRequest {
            container_id: self.id.clone(),
            stdin,
            tty,
            stdout: true,
            stderr: !tty,
        };
        let answer = self.cri.ask("attach", |mut client| async move {
            client.attach(request).await
        })?;
        Streams::open(self.cri, &answer.url, STDOUT)
    }
}

impl Pod<'_> {
    /// Connects to a port of the pod's. What goes there and comes from there is [`Streams::send`] and
    /// [`Said::stdout`]; what went wrong is [`Said::stderr`].
    ///
    /// # Errors
    ///
    /// As [`PodContainer::execute`].
    pub fn forward(&self, port: u16) -> Result<Streams> {
        let request = PortForwardRequest {
            pod_sandbox_id: self.id.clone(),
            port: vec![i32::from(port)],
        };
        let answer = self.cri.ask("forward a port", |mut client| async move {
            client.port_forward(request).await
        })?;
        let mut streams = Streams::open(self.cri, &answer.url, 0)?;
        // Each of the two begins with the port's number.
        while streams.come[..2].iter().any(|come| come.len() < 2) {
            ensure!(streams.next()?, "the server hangs up: {}", streams.all());
        }
        for come in &mut streams.come[..2] {
            let number: Vec<u8> = come.drain(..2).collect();
            ensure!(number == port.to_le_bytes(), "{number:?} is not {port}");
        }
        Ok(streams)
    }
}
