//! Error numbers of WASI 0.1 (`errno` in its witx), which are not those of Linux.

use std::io;

use rustix::io::Errno;

/// An error number of WASI 0.1; 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) i32);

impl Code {
    pub(super) const BADF: Self = Self(8);
    pub(super) const FAULT: Self = Self(21);
    pub(super) const INVAL: Self = Self(28);
    pub(super) const IO: Self = Self(29);
    pub(super) const NOTDIR: Self = Self(54);
    pub(super) const NOTSUP: Self = Self(58);
    pub(super) const SPIPE: Self = Self(70);
}

impl From<io::Error> for Code {
    fn from(error: io::Error) -> Self {
        Self(match Errno::from_io_error(&error) {
            Some(Errno::ACCESS) => 2,
            Some(Errno::AGAIN) => 6,
            Some(Errno::CONNABORTED) => 13,
            Some(Errno::CONNRESET) => 15,
            Some(Errno::HOSTUNREACH) => 23,
            Some(Errno::INVAL) => 28,
            Some(Errno::MFILE | Errno::NFILE) => 33,
            Some(Errno::NETUNREACH) => 40,
            Some(Errno::NOBUFS) => 42,
            Some(Errno::NOMEM) => 48,
            Some(Errno::NOTCONN) => 53,
            Some(Errno::PERM) => 63,
            Some(Errno::PIPE) => 64,
            Some(Errno::TIMEDOUT) => 73,
            Some(_) => Self::IO.0,
            // Ours, made without the kernel.
            None if error.kind() == io::ErrorKind::NotConnected => 53,
            None if error.kind() == io::ErrorKind::InvalidInput => Self::INVAL.0,
            None => Self::IO.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_numbers_become_those_of_wasi() {
        let code = |errno: Errno| Code::from(io::Error::from(errno)).0;
        assert_eq!(code(Errno::AGAIN), 6);
        assert_eq!(code(Errno::PIPE), 64);
        assert_eq!(code(Errno::NOTCONN), 53);
        assert_eq!(code(Errno::XDEV), 29);
        assert_eq!(Code::from(super::super::not_connected()).0, 53);
    }
}
