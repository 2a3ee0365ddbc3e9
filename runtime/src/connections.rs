//! Sockets of components: wasmtime-wasi's, refused where a guest has as much as it may.
//!
//! Left alone, one resource too many ends a guest. For what makes a socket there is an error instead, as for a
//! process that has no descriptor left: `new-socket-limit` in WASI 0.2 and `out-of-memory`, for want of
//! another, in 0.3. What comes of sockets that are there, streams and what is polled, has room beyond that
//! ([`RESERVE`](crate::filesystem::RESERVE)). What listeners of 0.3 accept has [`Room`] of its own.

mod room;

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket as _;
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, TcpSocket, UdpSocket};
use wasmtime_wasi::p3::bindings::sockets::types;
use wasmtime_wasi::sockets::{self, WasiSocketsView as _};

pub(crate) use self::room::Room;
use crate::filesystem::next_entry;
use crate::host::Host;

/// The version of WASI 0.2 that wasmtime-wasi has, under which alone a function is put in another's place.
const WASI_0_2: &str = "0.2.12";
/// The version of WASI 0.3.
const WASI_0_3: &str = "0.3.0";

/// What a connection is to its listener's owner.
type Accepted = (
    Resource<TcpSocket>,
    Resource<DynInputStream>,
    Resource<DynOutputStream>,
);

/// Puts what makes sockets in place of wasmtime-wasi's.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = create(linker).and_then(|()| accept(linker));
    linker.allow_shadowing(false);
    added
}

fn create(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/tcp-create-socket@{WASI_0_2}"))?
        .func_wrap(
            "create-tcp-socket",
            |mut store, (family,): (IpAddressFamily,)| {
                let host: &mut Host = store.data_mut();
                if !has_room(host) {
                    return Ok((Err(ErrorCode::NewSocketLimit),));
                }
                let created =
                    tcp_create_socket::Host::create_tcp_socket(&mut host.wasi.sockets(), family);
                Ok((answer(created)?,))
            },
        )?;
    linker
        .instance(&format!("wasi:sockets/udp-create-socket@{WASI_0_2}"))?
        .func_wrap_async(
            "create-udp-socket",
            |mut store, (family,): (IpAddressFamily,)| {
                Box::new(async move {
                    let host: &mut Host = store.data_mut();
                    if !has_room(host) {
                        return Ok((Err(ErrorCode::NewSocketLimit),));
                    }
                    let mut sockets = host.wasi.sockets();
                    let created =
                        udp_create_socket::Host::create_udp_socket(&mut sockets, family).await;
                    let created: Result<Resource<UdpSocket>, ErrorCode> = answer(created)?;
                    Ok((created,))
                })
            },
        )
}

/// A connection is a socket and its two streams.
fn accept(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:sockets/tcp@{WASI_0_2}"))?
        .func_wrap(
            "[method]tcp-socket.accept",
            |mut store, (listener,): (Resource<TcpSocket>,)| {
                let host: &mut Host = store.data_mut();
                if !has_room(host) {
                    return Ok((Err(ErrorCode::NewSocketLimit),));
                }
                let accepted: Result<Accepted, ErrorCode> =
                    answer(host.wasi.sockets().accept(listener))?;
                if accepted.is_ok() {
                    // It took room as if it were a socket of 0.3, and has had its own.
                    host.room.give_back();
                }
                Ok((accepted,))
            },
        )
}

/// The same for WASI 0.3, where the host accepts by itself.
pub(crate) fn add_to_asynchronous_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = create_0_3(linker);
    linker.allow_shadowing(false);
    added
}

fn create_0_3(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&format!("wasi:sockets/types@{WASI_0_3}"))?;
    instance.func_wrap(
        "[static]tcp-socket.create",
        |mut store, (family,): (types::IpAddressFamily,)| {
            let host: &mut Host = store.data_mut();
            if !has_room(host) || !host.room.take(host.wasi.sockets().table) {
                return Ok((Err(types::ErrorCode::OutOfMemory),));
            }
            let created = types::HostTcpSocket::create(&mut host.wasi.sockets(), family);
            let created: Result<Resource<sockets::TcpSocket>, types::ErrorCode> = answer(created)?;
            if created.is_err() {
                host.room.give_back();
            }
            Ok((created,))
        },
    )?;
    instance.resource(
        "tcp-socket",
        ResourceType::host::<sockets::TcpSocket>(),
        |mut store, entry| {
            let host: &mut Host = store.data_mut();
            types::HostTcpSocket::drop(&mut host.wasi.sockets(), Resource::new_own(entry))?;
            host.room.close(host.wasi.sockets().table);
            Ok(())
        },
    )?;
    instance.func_wrap_async(
        "[static]udp-socket.create",
        |mut store, (family,): (types::IpAddressFamily,)| {
            Box::new(async move {
                let host: &mut Host = store.data_mut();
                if !has_room(host) {
                    return Ok((Err(types::ErrorCode::OutOfMemory),));
                }
                let mut view = host.wasi.sockets();
                let created = types::HostUdpSocket::create(&mut view, family).await;
                let created: Result<Resource<sockets::UdpSocket>, types::ErrorCode> =
                    answer(created)?;
                Ok((created,))
            })
        },
    )
}

fn has_room(host: &mut Host) -> bool {
    next_entry(host.wasi.sockets().table, host.handles).is_some()
}

/// What the guest is answered, or why it ends.
fn answer<T, C: std::error::Error + Send + Sync + 'static>(
    result: Result<T, TrappableError<C>>,
) -> wasmtime::Result<Result<T, C>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) => error.downcast().map(Err),
    }
}
