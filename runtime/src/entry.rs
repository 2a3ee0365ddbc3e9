//! A cache entry's file: the artifact, then a trailer that says whether it is whole.
//!
//! ```text
//! ┌────────────────┬───────────┬────────────────────────────┬──────────────┐
//! │ artifact (ELF) │ positions │ SHA-256 of what is before  │ "WASICWA1"   │
//! └────────────────┴───────────┴────────────────────────────┴──────────────┘
//! ```
//!
//! wasmtime maps the file from its start and does not mind what follows the ELF. A file cut short has
//! no trailer and a damaged one another digest; either must be found before it is mapped, as touching
//! a page beyond the end of a mapped file is a SIGBUS for the whole process.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use sha2::Sha256;

const MAGIC: &[u8; 8] = b"WASICWA1";
const TRAILER: usize = 32 + MAGIC.len();

/// A SHA-256, printed as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<[u8; 32]> for Digest {
    fn from(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }
}

impl From<Digest> for [u8; 32] {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl Digest {
    /// Of the first `length` bytes of `file`, wherever its position is.
    pub(crate) fn of(file: &File, length: u64) -> io::Result<Self> {
        use sha2::Digest as _;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < length {
            let wanted = usize::try_from(length - offset)
                .map_or(buffer.len(), |left| left.min(buffer.len()));
            match file.read_at(&mut buffer[..wanted], offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    hash.update(&buffer[..count]);
                    offset += count as u64;
                }
            }
        }
        Ok(Self(hash.finalize().into()))
    }
}

/// Where what the compiler wrote ends in an entry of this many bytes.
pub(crate) fn artifact_end(length: u64) -> u64 {
    length.saturating_sub(TRAILER as u64)
}

/// Appends the trailer to an artifact that is complete, and puts it on disk.
pub(crate) fn seal(file: &mut File) -> io::Result<()> {
    let digest = Digest::of(file, file.metadata()?.len())?;
    file.write_all(&digest.0)?;
    file.write_all(MAGIC)?;
    file.sync_all()
}

/// Whether `file` is what was sealed; if not, what is wrong with it.
pub(crate) fn check(file: &File) -> io::Result<Result<(), &'static str>> {
    let Some(length) = file.metadata()?.len().checked_sub(TRAILER as u64) else {
        return Ok(Err("it is too short"));
    };
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, length)?;
    let (digest, magic) = trailer.split_at(32);
    if magic != MAGIC {
        return Ok(Err("its end is missing"));
    }
    if Digest::of(file, length)?.0 != digest {
        return Ok(Err("its digest is wrong"));
    }
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(artifact: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(artifact).unwrap();
        seal(&mut file).unwrap();
        file
    }

    #[test]
    fn what_was_sealed_is_whole() {
        assert_eq!(check(&sealed(b"machine code")).unwrap(), Ok(()));
        assert_eq!(check(&sealed(b"")).unwrap(), Ok(()));
    }

    #[test]
    fn a_cut_at_any_length_is_found() {
        let file = sealed(b"machine code");
        for length in (0..file.metadata().unwrap().len()).rev() {
            file.set_len(length).unwrap();
            assert!(check(&file).unwrap().is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn a_change_of_any_byte_is_found() {
        for index in 0..sealed(b"machine code").metadata().unwrap().len() {
            let file = sealed(b"machine code");
            let mut byte = [0];
            file.read_exact_at(&mut byte, index).unwrap();
            file.write_all_at(&[byte[0] ^ 1], index).unwrap();
            assert!(check(&file).unwrap().is_err(), "byte {index} changed");
        }
    }
}
