//! Where the parts of a rewritten file were before.
//!
//! The compiler changes modules before it compiles them, and what wasmtime tells of a place in a module, as the
//! lines of a backtrace do, is told of the changed one. People have the other, and tools that know it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

/// Maps offsets in a rewritten file to offsets in the one that it was made of. Offsets are in bytes, from the file's
/// start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(Vec<Run>);

/// From the byte `new` on, until the next run, each byte was `old` and so on; or was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    new: u32,
    old: Option<u32>,
}

/// In bytes, no offset: files end before that ([`MAX_WASM`](crate::MAX_WASM)).
const ADDED: u32 = u32::MAX;
/// The bytes of a run, and of their number.
const RUN: usize = 8;
const COUNT: usize = 4;

impl Positions {
    /// The part from `new` on was at `old`, or is new (`None`). Parts are told from the first to the last one.
    ///
    /// # Panics
    ///
    /// If the file is longer than 4 GiB.
    pub fn push(&mut self, new: usize, old: Option<usize>) {
        let offset = |offset| u32::try_from(offset).expect("files are shorter than 4 GiB");
        let (new, old) = (offset(new), old.map(offset));
        let goes_on = match (self.0.last(), old) {
            (None, old) => old == Some(new),
            (Some(Run { old: None, .. }), old) => old.is_none(),
            (Some(last), Some(old)) => last.old_of(new) == Some(old),
            (Some(_), None) => false,
        };
        if !goes_on {
            self.0.push(Run { new, old });
        }
    }

    /// Where the byte at `new` was; `None` if it was not there.
    #[must_use]
    pub fn old(&self, new: usize) -> Option<usize> {
        let offset = u32::try_from(new).ok()?;
        let after = self.0.partition_point(|run| run.new <= offset);
        match after.checked_sub(1) {
            Some(index) => self.0[index].old_of(offset).map(|old| old as usize),
            None => Some(new),
        }
    }

    /// What the compiler appends to an artifact: the runs, of two little-endian words each, and how many they are.
    ///
    /// # Panics
    ///
    /// Never: of the bytes of a file of 4 GiB each run has one.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let words = self
            .0
            .iter()
            .flat_map(|run| [run.new, run.old.unwrap_or(ADDED)]);
        let count = u32::try_from(self.0.len()).expect("a run has a byte");
        words.chain([count]).flat_map(u32::to_le_bytes).collect()
    }

    /// Reads what [`Self::to_bytes`] made, and ends at `end` of `file`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or is too short.
    pub fn read(file: &File, end: u64) -> io::Result<Self> {
        let before =
            |end: u64, length: u64| end.checked_sub(length).ok_or(ErrorKind::UnexpectedEof);
        let mut count = [0; COUNT];
        let end = before(end, COUNT as u64)?;
        file.read_exact_at(&mut count, end)?;
        let length = u64::from(u32::from_le_bytes(count)) * RUN as u64;
        let start = before(end, length)?;
        let mut runs = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut runs, start)?;
        let run = |&[a, b, c, d, e, f, g, h]: &[u8; RUN]| {
            let old = u32::from_le_bytes([e, f, g, h]);
            Run {
                new: u32::from_le_bytes([a, b, c, d]),
                old: (old != ADDED).then_some(old),
            }
        };
        Ok(Self(runs.as_chunks().0.iter().map(run).collect()))
    }
}

impl Run {
    /// Where the byte at `new`, which is one of its own, was.
    fn old_of(self, new: u32) -> Option<u32> {
        self.old.map(|old| old.wrapping_add(new - self.new))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn an_offset_is_looked_up_in_its_run() {
        let mut positions = Positions::default();
        // Ten bytes as they were, five that are new, ten that were after the ten, some that were not.
        for (new, old) in [
            (0, Some(0)),
            (7, Some(7)),
            (10, None),
            (12, None),
            (15, Some(10)),
            (18, Some(13)),
            (25, Some(30)),
        ] {
            positions.push(new, old);
        }
        assert_eq!(positions.0.len(), 3);
        for (new, old) in [
            (0, Some(0)),
            (9, Some(9)),
            (10, None),
            (14, None),
            (15, Some(10)),
            (24, Some(19)),
            (25, Some(30)),
            (100, Some(105)),
        ] {
            assert_eq!(positions.old(new), old, "{new}");
        }
        assert_eq!(written(&positions.to_bytes()).unwrap(), positions);
    }

    /// Reads what has `bytes` after an artifact.
    fn written(bytes: &[u8]) -> io::Result<Positions> {
        let mut file = tempfile::tempfile()?;
        file.write_all(b"artifact")?;
        file.write_all(bytes)?;
        Positions::read(&file, 8 + bytes.len() as u64)
    }

    #[test]
    fn without_runs_nothing_has_moved() {
        let positions = Positions::default();
        assert_eq!(positions.old(77), Some(77));
        assert_eq!(written(&positions.to_bytes()).unwrap(), positions);
    }

    #[test]
    fn more_runs_than_there_are_bytes_are_an_error() {
        let error = written(&2_u32.to_le_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
