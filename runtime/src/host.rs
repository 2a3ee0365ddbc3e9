//! The host's side of one guest: what a store holds, and the only file that names wasmtime-wasi's
//! builder.
//!
//! Denied unless the [`Guest`] says otherwise: arguments, environment, directories, stdin, output,
//! sockets, names. Given to every guest: clocks and random numbers.

use std::collections::HashMap;
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_tls::{WasiTlsCtx, WasiTlsCtxBuilder, WasiTlsCtxView, WasiTlsView};

use crate::connections::Room;
use crate::filesystem::{Preopens, RESERVE, Unseekable};
use crate::http::Client;
use crate::limits::{Limiter, largest_transfer};
use crate::middleware::Conversation;
use crate::sockets::Sockets;
use crate::tls::Trust;
use crate::{Error, Guest, Network, Output};

/// How many listening sockets there are, as systemd and other runtimes say it.
const LISTEN_FDS: &str = "LISTEN_FDS";

/// Store data. WASI 0.1 is implemented over WASI 0.2, so one context serves both.
pub(crate) struct Host {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) preopens: Preopens,
    /// Where detours of WASI 0.3 start: the descriptors of preopens, by their number.
    pub(crate) starts: HashMap<usize, u32>,
    /// Files of WASI 0.1 that have no positions, by their descriptors.
    pub(crate) unseekable: HashMap<u32, Unseekable>,
    /// [`Limits::handles`](crate::Limits::handles).
    pub(crate) handles: usize,
    /// For what listeners accept.
    pub(crate) room: Room,
    pub(crate) limiter: Limiter,
    pub(crate) sockets: Sockets,
    /// If it is HTTP middleware.
    pub(crate) middleware: Option<Box<Conversation>>,
    pub(crate) stderr: Output,
    http: WasiHttpCtx,
    client: Client,
    network: Arc<Network>,
    config: WasiConfigVariables,
    tls: WasiTlsCtx,
    trust: Trust,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.client,
            table: self.wasi.ctx().table,
            ctx: &mut self.http,
        }
    }
}

impl WasiTlsView for Host {
    fn tls(&mut self) -> WasiTlsCtxView<'_> {
        WasiTlsCtxView {
            table: self.wasi.ctx().table,
            ctx: &mut self.tls,
        }
    }
}

impl Host {
    pub(crate) fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    pub(crate) fn config(&mut self) -> WasiConfig<'_> {
        WasiConfig::from(&self.config)
    }

    /// Makes the host side of `guest`. Preopens are opened again through `/proc/self/fd`, which keeps
    /// their mount, so this has to run where `/proc` is the host's.
    pub(crate) fn new(guest: &mut Guest) -> Result<Self, Error> {
        let network = Arc::new(guest.network.clone());
        let room = Room::new(guest.limits.handles);
        let mut builder = context(guest, &network, &room)?;
        for preopen in &guest.preopens {
            let path = format!("/proc/self/fd/{}", preopen.directory.as_raw_fd());
            builder
                .preopened_dir(path, &preopen.name, FsPerms::ReadWrite)
                .map_err(|error| Error::Descriptor {
                    what: format!("directory {}", preopen.name),
                    source: std::io::Error::other(format!("{error:#}")),
                })?;
        }
        let listeners = mem::take(&mut guest.listeners);
        if !listeners.is_empty() {
            if !guest.env.iter().any(|(name, _)| name == LISTEN_FDS) {
                builder.env(LISTEN_FDS, listeners.len().to_string());
            }
            // They come after the directories, and so that no file gets one of their numbers each has a
            // directory below that the guest has anyway. Without any directory it opens no files.
            if let Some(first) = guest.preopens.first() {
                let path = format!("/proc/self/fd/{}", first.directory.as_raw_fd());
                for _ in &listeners {
                    builder
                        .preopened_dir(&path, "", FsPerms::ReadOnly)
                        .map_err(|error| Error::Descriptor {
                            what: "a listening socket".to_owned(),
                            source: std::io::Error::other(format!("{error:#}")),
                        })?;
                }
            }
        }
        let (preopens, limit) = (guest.preopens.len(), guest.limits.handles);
        let sockets = Sockets::new(preopens, listeners, limit, Arc::clone(&network))?;
        let trust = Trust::new(mem::take(&mut guest.authorities));
        let mut wasi = builder.build_p1();
        let preopens = Preopens::of(&mut wasi).map_err(Error::engine)?;
        Ok(Self::with(
            guest, wasi, preopens, sockets, room, network, trust,
        ))
    }

    /// What more of them are made of, for other instances of the same component.
    pub(crate) fn into_template(mut self, mut guest: Guest) -> Template {
        let files = self.wasi.ctx().ctx.filesystem().clone();
        // They have been opened again.
        guest.preopens.clear();
        Template {
            guest,
            files,
            preopens: self.preopens,
            network: self.network,
            trust: self.trust,
        }
    }

    fn with(
        guest: &Guest,
        mut wasi: WasiP1Ctx,
        preopens: Preopens,
        sockets: Sockets,
        room: Room,
        network: Arc<Network>,
        trust: Trust,
    ) -> Self {
        wasi.ctx()
            .table
            .set_max_capacity(guest.limits.handles.saturating_add(RESERVE));
        Self {
            preopens,
            starts: HashMap::new(),
            unseekable: HashMap::new(),
            handles: guest.limits.handles,
            room,
            wasi,
            limiter: Limiter::new(guest.budget.clone(), guest.limits),
            sockets,
            middleware: None,
            stderr: guest.stderr.clone(),
            http: WasiHttpCtx::new(),
            client: Client::new(Arc::clone(&network), trust.clone()),
            network,
            config: guest.config.iter().cloned().collect(),
            tls: WasiTlsCtxBuilder::new()
                .provider(Box::new(trust.clone()))
                .build(),
            trust,
        }
    }
}

/// What hosts of a component's instances are made of, anywhere and at any time.
pub(crate) struct Template {
    pub(crate) guest: Guest,
    /// The preopens of WASI 0.1, which has its own.
    files: WasiFilesystemCtx,
    preopens: Preopens,
    pub(crate) network: Arc<Network>,
    pub(crate) trust: Trust,
}

impl Template {
    /// One more, of a component or a module.
    pub(crate) fn host(&self, of_module: bool) -> Result<Host, Error> {
        let network = Arc::clone(&self.network);
        let limit = self.guest.limits.handles;
        let room = Room::new(limit);
        let mut wasi = context(&self.guest, &network, &room)?.build_p1();
        if of_module {
            wasi.ctx().ctx.filesystem().clone_from(&self.files);
        }
        let sockets = Sockets::new(0, Vec::new(), limit, Arc::clone(&network))?;
        let preopens = self.preopens.clone();
        let trust = self.trust.clone();
        Ok(Host::with(
            &self.guest,
            wasi,
            preopens,
            sockets,
            room,
            network,
            trust,
        ))
    }
}

/// What every guest has, without files.
fn context(guest: &Guest, network: &Arc<Network>, room: &Room) -> Result<WasiCtxBuilder, Error> {
    let mut builder = WasiCtxBuilder::new();
    for (index, argument) in guest.args.iter().enumerate() {
        no_nul(argument, || format!("argument {index}"))?;
        builder.arg(argument);
    }
    for (name, value) in &guest.env {
        no_nul(name, || format!("the name of variable {name:?}"))?;
        no_nul(value, || format!("variable {name}"))?;
        builder.env(name, value);
    }
    if let Some(cwd) = &guest.cwd {
        no_nul(cwd, || "the working directory".to_owned())?;
        builder.initial_cwd(cwd);
    }
    builder
        .stdin(guest.stdin.clone())
        .stdout(guest.stdout.clone())
        .stderr(guest.stderr.clone());
    builder
        .allow_tcp(network.is_on())
        .allow_udp(network.is_on())
        .allow_ip_name_lookup(network.is_on());
    builder.socket_addr_check({
        let network = Arc::clone(network);
        let door = room.door();
        move |address, usage| {
            let allowed = network.allows(address, usage);
            let accepted = allowed && matches!(usage, SocketAddrUse::TcpAccept);
            let door = accepted.then(|| door.clone());
            Box::pin(async move {
                if let Some(door) = door {
                    door.pass().await;
                }
                allowed
            })
        }
    });
    builder.max_random_size(largest_transfer(&guest.budget) as u64);
    Ok(builder)
}

/// WASI 0.1 hands arguments and variables over as C strings.
fn no_nul(text: &str, what: impl FnOnce() -> String) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::Nul { what: what() });
    }
    Ok(())
}
