//! The host's side of one guest: what a store holds, and the only file that names wasmtime-wasi's
//! builder.
//!
//! Denied unless the [`Guest`] says otherwise: arguments, environment, directories, stdin, output,
//! sockets, names. Given to every guest: clocks and random numbers.

use std::os::fd::AsRawFd;

use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::limits::{Limiter, largest_transfer};
use crate::{Error, Guest};

/// Store data. WASI 0.1 is implemented over WASI 0.2, so one context serves both.
pub(crate) struct Host {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) limiter: Limiter,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl Host {
    /// Makes the host side of `guest`. Preopens are opened again through `/proc/self/fd`, which keeps
    /// their mount, so this has to run where `/proc` is the host's.
    pub(crate) fn new(guest: &Guest) -> Result<Self, Error> {
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
        for preopen in &guest.preopens {
            let path = format!("/proc/self/fd/{}", preopen.directory.as_raw_fd());
            builder
                .preopened_dir(path, &preopen.name, FsPerms::ReadWrite)
                .map_err(|error| Error::Descriptor {
                    what: format!("directory {}", preopen.name),
                    source: std::io::Error::other(format!("{error:#}")),
                })?;
        }
        if guest.network {
            builder
                .inherit_network()
                .allow_tcp(true)
                .allow_udp(true)
                .allow_ip_name_lookup(true);
        }
        builder.max_random_size(largest_transfer(&guest.budget) as u64);
        let mut wasi = builder.build_p1();
        wasi.ctx().table.set_max_capacity(guest.limits.handles);
        Ok(Self {
            wasi,
            limiter: Limiter::new(guest.budget.clone(), guest.limits),
        })
    }
}

/// WASI 0.1 hands arguments and variables over as C strings.
fn no_nul(text: &str, what: impl FnOnce() -> String) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::Nul { what: what() });
    }
    Ok(())
}
