//! The calls of WASI 0.1 on a number that is a socket, and the guest's memory they read and write.
//!
//! Layouts are those of the witx (`wasi_snapshot_preview1`): `iovec` is an address and a length, `fdstat`
//! 24 bytes, `filestat` 64.

use std::net::Shutdown;

use super::errno::Code;
use super::{Sockets, Tcp};

/// How much one call moves at most; WASI lets a call move less than it was asked to.
const PIECE: usize = 64 << 10;

/// `filetype`.
const SOCKET_STREAM: u8 = 6;
/// `fdflags`.
pub(super) const NONBLOCK: i32 = 1 << 2;
/// `rights`: read, set flags, write, get file status, poll, shut down, accept.
const RIGHTS: u64 = 1 << 1 | 1 << 3 | 1 << 6 | 1 << 21 | 1 << 27 | 1 << 28 | 1 << 29;
/// `riflags`.
const PEEK: i32 = 1;
const WAIT_ALL: i32 = 1 << 1;
/// `sdflags`.
const READ: i32 = 1;
const WRITE: i32 = 1 << 1;

/// What a call says to the guest.
pub(super) type Answer<T = ()> = Result<T, Code>;

/// Writes `bytes` to the guest's memory.
pub(super) fn put(memory: &mut [u8], at: i32, bytes: &[u8]) -> Answer {
    let at = at.cast_unsigned() as usize;
    let end = at.checked_add(bytes.len()).ok_or(Code::FAULT)?;
    memory
        .get_mut(at..end)
        .ok_or(Code::FAULT)?
        .copy_from_slice(bytes);
    Ok(())
}

/// Reads `length` bytes of the guest's memory.
pub(super) fn get(memory: &[u8], at: usize, length: usize) -> Answer<&[u8]> {
    let end = at.checked_add(length).ok_or(Code::FAULT)?;
    memory.get(at..end).ok_or(Code::FAULT)
}

/// Addresses and lengths of a vector, which altogether are no more than [`PIECE`].
fn vector(memory: &[u8], at: i32, count: i32) -> Answer<Vec<(usize, usize)>> {
    let (at, count) = (at.cast_unsigned() as usize, count.cast_unsigned() as usize);
    let length = count.checked_mul(8).ok_or(Code::FAULT)?;
    let mut room = PIECE;
    let mut pieces = Vec::new();
    for entry in get(memory, at, length)?.chunks_exact(8) {
        let (address, length) = entry.split_at(4);
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).unwrap_or(0) as usize;
        let (address, length) = (number(address), number(length).min(room));
        get(memory, address, length)?;
        if length > 0 {
            pieces.push((address, length));
            room -= length;
        }
        if room == 0 {
            break;
        }
    }
    Ok(pieces)
}

impl Sockets {
    /// `sock_accept`.
    pub(super) async fn call_accept(
        &mut self,
        memory: &mut [u8],
        (number, flags, out): (u32, i32, i32),
    ) -> Answer {
        let accepted = self.accept(number, flags & NONBLOCK != 0).await?;
        put(memory, out, &accepted.to_le_bytes())
    }

    /// `fd_read` and `sock_recv`.
    pub(super) async fn call_receive(
        &self,
        memory: &mut [u8],
        (number, vectors, count, flags): (u32, i32, i32, i32),
        out: i32,
    ) -> Answer {
        let socket = self.get(number).ok_or(Code::BADF)?;
        let pieces = vector(memory, vectors, count)?;
        let mut buffer = vec![0; pieces.iter().map(|(_, length)| length).sum()];
        let mut got = socket.receive(&mut buffer, flags & PEEK != 0).await?;
        // To wait for all of it is only possible for one that waits, and not to peek.
        if flags & WAIT_ALL != 0 && flags & PEEK == 0 && !socket.nonblocking {
            while got < buffer.len() {
                match socket.receive(&mut buffer[got..], false).await? {
                    0 => break,
                    more => got += more,
                }
            }
        }
        let mut rest = &buffer[..got];
        for (address, length) in pieces {
            let (now, later) = rest.split_at(length.min(rest.len()));
            memory[address..address + now.len()].copy_from_slice(now);
            rest = later;
        }
        let got = u32::try_from(got).map_err(|_| Code::IO)?;
        put(memory, out, &got.to_le_bytes())
    }

    /// `fd_write` and `sock_send`.
    pub(super) async fn call_send(
        &self,
        memory: &mut [u8],
        (number, vectors, count): (u32, i32, i32),
        out: i32,
    ) -> Answer {
        let socket = self.get(number).ok_or(Code::BADF)?;
        let mut bytes = Vec::new();
        for (address, length) in vector(memory, vectors, count)? {
            bytes.extend_from_slice(get(memory, address, length)?);
        }
        let sent = socket.send(&bytes).await?;
        let sent = u32::try_from(sent).map_err(|_| Code::IO)?;
        put(memory, out, &sent.to_le_bytes())
    }

    /// `sock_shutdown`.
    pub(super) fn call_shut_down(&self, number: u32, how: i32) -> Answer {
        let how = match how {
            READ => Shutdown::Read,
            WRITE => Shutdown::Write,
            both if both == READ | WRITE => Shutdown::Both,
            _ => return Err(Code::INVAL),
        };
        let socket = self.get(number).ok_or(Code::BADF)?;
        Ok(socket.shut_down(how)?)
    }

    /// `fd_fdstat_get`.
    pub(super) fn call_status(&self, memory: &mut [u8], number: u32, out: i32) -> Answer {
        let socket = self.get(number).ok_or(Code::BADF)?;
        let mut status = [0; 24];
        status[0] = SOCKET_STREAM;
        if socket.nonblocking {
            status[2..6].copy_from_slice(&NONBLOCK.to_le_bytes());
        }
        status[8..16].copy_from_slice(&RIGHTS.to_le_bytes());
        status[16..24].copy_from_slice(&RIGHTS.to_le_bytes());
        put(memory, out, &status)
    }

    /// `fd_fdstat_set_flags`.
    pub(super) fn call_set_flags(&mut self, number: u32, flags: i32) -> Answer {
        if flags & !NONBLOCK != 0 {
            return Err(Code::INVAL);
        }
        let socket = self.get_mut(number).ok_or(Code::BADF)?;
        socket.nonblocking = flags & NONBLOCK != 0;
        Ok(())
    }

    /// `fd_filestat_get`.
    pub(super) fn call_file_status(memory: &mut [u8], out: i32) -> Answer {
        let mut status = [0; 64];
        status[16] = SOCKET_STREAM;
        // One link.
        status[24] = 1;
        put(memory, out, &status)
    }

    /// Whether a number is one that listens; `None` if it is no socket.
    pub(super) fn listens(&self, number: u32) -> Option<bool> {
        let socket = self.get(number)?;
        Some(matches!(socket.tcp, Tcp::Listener(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_up_to_a_piece_and_not_beyond_the_memory() {
        let mut memory = vec![0; 1 << 17];
        for (at, value) in [
            (0, 64_u32),
            (4, 10),
            (8, 80),
            (12, 0),
            (16, 96),
            (20, 70_000),
        ] {
            put(&mut memory, at, &value.to_le_bytes()).unwrap();
        }
        assert_eq!(vector(&memory, 0, 3).unwrap(), [(64, 10), (96, PIECE - 10)]);
        assert_eq!(vector(&memory, 0, i32::MAX), Err(Code::FAULT));
        assert_eq!(vector(&memory, -8, 1), Err(Code::FAULT));
        put(&mut memory, 0, &u32::MAX.to_le_bytes()).unwrap();
        assert_eq!(vector(&memory, 0, 1), Err(Code::FAULT));
        assert_eq!(put(&mut memory, -2, &[0; 4]), Err(Code::FAULT));
    }
}
