//! Machine code, and the entry of the cache that it is mapped from.

use std::fs::File;
use std::io;

use wasi_settings::Positions;

use crate::artifact::Code;
use crate::entry;

/// What guests of a program share, however many containers they are.
pub(crate) struct Mapped {
    code: Code,
    file: File,
}

impl Mapped {
    /// `code`, which was mapped from the start of `file`.
    pub(crate) fn new(code: Code, file: File) -> Self {
        Self { code, file }
    }

    pub(crate) fn code(&self) -> &Code {
        &self.code
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where the parts of the wasm that was compiled are in the wasm that it was made of.
    pub(crate) fn positions(&self) -> io::Result<Positions> {
        let length = self.file.metadata()?.len();
        Positions::read(&self.file, entry::artifact_end(length))
    }
}
