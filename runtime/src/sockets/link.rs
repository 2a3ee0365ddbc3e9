//! Lays the sockets over wasmtime-wasi's WASI 0.1: calls on a number that is a socket are answered here,
//! all others there.

use wasmtime::{AsContextMut as _, Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self, WasiSnapshotPreview1 as _};
use wiggle::GuestMemory;

use super::Sockets;
use super::calls::Answer;
use super::errno::Code;
use crate::host::Host;
use crate::module::WASI;

/// The guest's memory, and the host's side of it.
fn sides<'a>(caller: &'a mut Caller<'_, Host>) -> wasmtime::Result<(&'a mut [u8], &'a mut Host)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    let memory =
        memory.ok_or_else(|| wasmtime::Error::msg("the module exports no memory named memory"))?;
    let (memory, host) = memory.data_and_store_mut(caller);
    host.wasi.set_hostcall_fuel(fuel);
    Ok((memory, host))
}

/// As the guest is told it.
fn number(answer: Answer) -> i32 {
    answer.map_or_else(|Code(code)| code, |()| 0)
}

/// Defines a call whose first parameter is a descriptor: `$ours` if that is a socket, else wasmtime-wasi's.
macro_rules! over {
    ($linker:ident, $name:ident, ($($parameter:ident: $of:ty),*) $(, $await:ident)?, |$memory:ident, $sockets:ident, $fd:ident| $ours:expr) => {
        $linker.func_wrap_async(
            WASI,
            stringify!($name),
            |mut caller: Caller<'_, Host>, ($fd, $($parameter,)*): (i32, $($of,)*)| {
                Box::new(async move {
                    let ($memory, host) = sides(&mut caller)?;
                    let fd = $fd.cast_unsigned();
                    if host.sockets.listens(fd).is_some() {
                        let ($sockets, $fd) = (&mut host.sockets, fd);
                        return Ok(number($ours));
                    }
                    let mut memory = GuestMemory::Unshared($memory);
                    // With what is laid over wasmtime-wasi's files.
                    wasi_snapshot_preview1::$name(host, &mut memory, $fd, $($parameter),*)
                        $(.$await)?
                })
            },
        )?;
    };
}

/// Defines all calls anew that a socket answers otherwise. `linker` has to allow shadowing.
#[rustfmt::skip]
pub(crate) fn lay_over(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    over!(linker, fd_read, (vectors: i32, count: i32, out: i32), await, |memory, sockets, fd|
        sockets.call_receive(memory, (fd, vectors, count, 0), out).await);
    over!(linker, fd_write, (vectors: i32, count: i32, out: i32), await, |memory, sockets, fd|
        sockets.call_send(memory, (fd, vectors, count), out).await);
    over!(linker, sock_recv, (vectors: i32, count: i32, flags: i32, out: i32, out_flags: i32), |memory, sockets, fd| {
        let received = sockets.call_receive(memory, (fd, vectors, count, flags), out).await;
        // Nothing is ever cut off.
        received.and_then(|()| super::calls::put(memory, out_flags, &[0; 2]))
    });
    over!(linker, sock_send, (vectors: i32, count: i32, flags: i32, out: i32), |memory, sockets, fd| {
        if flags == 0 {
            sockets.call_send(memory, (fd, vectors, count), out).await
        } else {
            Err(Code::INVAL)
        }
    });
    over!(linker, sock_accept, (flags: i32, out: i32), |memory, sockets, fd|
        sockets.call_accept(memory, (fd, flags, out)).await);
    over!(linker, sock_shutdown, (how: i32), |_memory, sockets, fd| sockets.call_shut_down(fd, how));
    over!(linker, fd_fdstat_get, (out: i32), await, |memory, sockets, fd| sockets.call_status(memory, fd, out));
    over!(linker, fd_fdstat_set_flags, (flags: i32), |_memory, sockets, fd| sockets.call_set_flags(fd, flags));
    over!(linker, fd_filestat_get, (out: i32), await, |memory, _sockets, _fd| Sockets::call_file_status(memory, out));
    // What programs look for directories with: they stop at the first number that is none.
    over!(linker, fd_prestat_get, (_out: i32), |_memory, _sockets, _fd| Err(Code::BADF));
    over!(linker, fd_prestat_dir_name, (_path: i32, _length: i32), |_memory, _sockets, _fd| Err(Code::BADF));
    over!(linker, fd_seek, (_offset: i64, _whence: i32, _out: i32), await, |_memory, _sockets, _fd| Err(Code::SPIPE));
    over!(linker, fd_tell, (_out: i32), |_memory, _sockets, _fd| Err(Code::SPIPE));
    over!(linker, fd_readdir, (_at: i32, _length: i32, _cookie: i64, _out: i32), await, |_memory, _sockets, _fd| Err(Code::NOTDIR));
    over!(linker, path_open, (_lookup: i32, _path: i32, _length: i32, _how: i32, _base: i64, _inheriting: i64, _flags: i32, _out: i32), await,
        |_memory, _sockets, _fd| Err(Code::NOTDIR));
    close(linker)?;
    renumber(linker)?;
    poll(linker)
}

/// A socket that has something below goes with it.
fn close(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "fd_close",
        |mut caller: Caller<'_, Host>, (fd,): (i32,)| {
            Box::new(async move {
                let (memory, host) = sides(&mut caller)?;
                let ours = host.sockets.close(fd.cast_unsigned());
                let mut memory = GuestMemory::Unshared(memory);
                let below = wasi_snapshot_preview1::fd_close(host, &mut memory, fd).await?;
                Ok(if ours { 0 } else { below })
            })
        },
    )?;
    Ok(())
}

/// A socket can take the number of a file, which stays open below until the number is closed, and a file
/// that of a listening socket, which has a place for it below.
fn renumber(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "fd_renumber",
        |mut caller: Caller<'_, Host>, (from, to): (i32, i32)| {
            Box::new(async move {
                let (memory, host) = sides(&mut caller)?;
                let (source, target) = (from.cast_unsigned(), to.cast_unsigned());
                if host.sockets.listens(source).is_none() {
                    if target >= super::FIRST && host.sockets.listens(target).is_some() {
                        return Ok(Code::NOTSUP.0);
                    }
                    let mut memory = GuestMemory::Unshared(memory);
                    let code =
                        wasi_snapshot_preview1::fd_renumber(host, &mut memory, from, to).await?;
                    if code == 0 {
                        host.sockets.close(target);
                    }
                    return Ok(code);
                }
                let mut memory = GuestMemory::Unshared(memory);
                if host.sockets.listens(target).is_none() && !is_open(host, &mut memory, to).await?
                {
                    return Ok(Code::BADF.0);
                }
                if source != target {
                    host.sockets.renumber(source, target);
                    // What kept the number is not needed any more. An accepted socket had nothing.
                    let _below =
                        wasi_snapshot_preview1::fd_close(&mut host.wasi, &mut memory, from).await?;
                }
                Ok(0)
            })
        },
    )?;
    Ok(())
}

/// Whether wasmtime-wasi knows the number.
async fn is_open(host: &mut Host, memory: &mut GuestMemory<'_>, fd: i32) -> wasmtime::Result<bool> {
    // To give a number to what has it does nothing, and fails if there is nothing.
    let code = wasi_snapshot_preview1::fd_renumber(&mut host.wasi, memory, fd, fd).await?;
    Ok(code == 0)
}

fn poll(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "poll_oneoff",
        |mut caller: Caller<'_, Host>,
         (subscriptions, events, count, out): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (memory, host) = sides(&mut caller)?;
                let list = (subscriptions, events, count);
                let answer = host.sockets.call_poll(&mut host.wasi, memory, list).await?;
                if let Some(answer) = answer {
                    let told = answer
                        .and_then(|count| super::calls::put(memory, out, &count.to_le_bytes()));
                    return Ok(number(told));
                }
                let wasi = &mut host.wasi;
                let mut memory = GuestMemory::Unshared(memory);
                wasi_snapshot_preview1::poll_oneoff(
                    wasi,
                    &mut memory,
                    subscriptions,
                    events,
                    count,
                    out,
                )
                .await
            })
        },
    )?;
    Ok(())
}
