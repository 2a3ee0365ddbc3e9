//! The output of the guest `flood`, told by its length and digest: what is lost, doubled or changed shows.

use std::io::Read;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

/// In bytes: `SHIM_TEST_FLOOD`, or what runs in a second.
///
/// # Errors
///
/// When the variable is no number.
pub fn size() -> Result<u64> {
    match std::env::var("SHIM_TEST_FLOOD") {
        Ok(bytes) => bytes.parse().context("SHIM_TEST_FLOOD"),
        Err(_) => Ok(64 << 20),
    }
}

/// How much came, and its digest.
#[derive(Debug, Default)]
pub struct Flood {
    bytes: u64,
    digest: Sha256,
}

impl Flood {
    /// What the guest writes for `flood BYTES`; see `integration-tests/guests/rust/src/bin/flood.rs`.
    #[must_use]
    pub fn expected(bytes: u64) -> Self {
        let mut flood = Self::default();
        let mut state = 1_u64;
        let mut buffer = vec![0; 64 << 10];
        while flood.bytes < bytes {
            let left = usize::try_from(bytes - flood.bytes).unwrap_or(usize::MAX);
            let count = left.min(buffer.len());
            for byte in &mut buffer[..count] {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                *byte = b'@' + (state >> 59).to_le_bytes()[0];
            }
            flood.take(&buffer[..count]);
        }
        flood
    }

    /// Counts a piece.
    pub fn take(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        self.digest.update(piece);
    }

    /// Counts all that is left.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read_to_end(&mut self, mut from: impl Read) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer).context("read the flood")? {
                0 => return Ok(()),
                count => self.take(&buffer[..count]),
            }
        }
    }

    /// Demands that all of `bytes` came, as they were written.
    ///
    /// # Errors
    ///
    /// When not.
    pub fn ends_at(self, bytes: u64) -> Result<()> {
        ensure!(self.bytes == bytes, "{} of {bytes} bytes", self.bytes);
        let expected = Self::expected(bytes).digest.finalize();
        ensure!(self.digest.finalize() == expected, "not as written");
        Ok(())
    }
}
