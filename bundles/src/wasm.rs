//! Telling WebAssembly from everything else by the first bytes of a file.
//!
//! Binary WebAssembly starts with `\0asm`, a version (u16, little-endian) and a layer (u16): version 1,
//! layer 0 is a core module; version 13, layer 1 a component (component-model Binary.md, "Component
//! Definitions"). Everything else is named, because what it is decides what the person who put it into
//! an image has to do, and whether the container is a Linux one.

use std::fmt;

const MAGIC: &[u8] = b"\0asm";
const MODULE: u32 = 0x0000_0001;
const COMPONENT: u32 = 0x0001_000d;

/// wasmtime writes its artifacts as ELF files of an OS ABI of its own (`wasmtime_environ::obj`,
/// `ELFOSABI_WASMTIME`), at this offset of the ELF identification.
const ELF_OSABI_OFFSET: usize = 7;
const ELF_OSABI_WASMTIME: u8 = 200;

/// What kind of WebAssembly a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A core module: WASI 0.1, or no WASI at all.
    Module,
    /// A component: WASI 0.2 and newer.
    Component,
}

/// What a file is that is no binary WebAssembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotWasm {
    /// An ELF file: a Linux program.
    Elf,
    /// `#!`: a program for an interpreter.
    Script,
    /// An artifact compiled by wasmtime beforehand (`.cwasm`), which is machine code. The shim runs
    /// only machine code that its own node compiled.
    Precompiled,
    /// `\0asm` with a version and layer (both u16, read as one little-endian u32) this runtime does
    /// not know: an old draft, or something newer than this shim.
    WasmVersion(u32),
    /// Nothing in it.
    Empty,
    /// Compressed with gzip.
    Gzip,
    /// WebAssembly in its text format (`.wat`).
    TextFormat,
    /// None of these.
    Unknown,
}

impl NotWasm {
    /// Whether Linux may be able to run it.
    #[must_use]
    pub fn is_for_linux(self) -> bool {
        match self {
            Self::Elf | Self::Script => true,
            Self::Precompiled
            | Self::WasmVersion(_)
            | Self::Empty
            | Self::Gzip
            | Self::TextFormat
            | Self::Unknown => false,
        }
    }
}

impl Kind {
    /// How much of a file [`Kind::of`] wants to see, in bytes. 8 decide between wasm and not; the rest
    /// lets it look for the text format behind leading white space.
    pub const PREAMBLE: usize = 64;

    /// Tells the kind of a file from its first bytes, all of them if the file is shorter than
    /// [`Kind::PREAMBLE`].
    ///
    /// # Errors
    ///
    /// What it is instead.
    pub fn of(preamble: &[u8]) -> Result<Self, NotWasm> {
        if preamble.is_empty() {
            return Err(NotWasm::Empty);
        }
        if let Some(rest) = preamble.strip_prefix(MAGIC) {
            return match rest.first_chunk().copied().map(u32::from_le_bytes) {
                Some(MODULE) => Ok(Self::Module),
                Some(COMPONENT) => Ok(Self::Component),
                Some(version) => Err(NotWasm::WasmVersion(version)),
                // Cut off within its first 8 bytes.
                None => Err(NotWasm::Unknown),
            };
        }
        if preamble.starts_with(b"\x7fELF") {
            return match preamble.get(ELF_OSABI_OFFSET) {
                Some(&ELF_OSABI_WASMTIME) => Err(NotWasm::Precompiled),
                Some(_) | None => Err(NotWasm::Elf),
            };
        }
        if preamble.starts_with(b"#!") {
            return Err(NotWasm::Script);
        }
        if preamble.starts_with(b"\x1f\x8b") {
            return Err(NotWasm::Gzip);
        }
        let text = preamble.trim_ascii_start();
        // `(component`, as much of it as 8 bytes hold.
        if text.starts_with(b"(module") || text.starts_with(b"(compone") {
            return Err(NotWasm::TextFormat);
        }
        Err(NotWasm::Unknown)
    }
}

impl NotWasm {
    /// The rest of a sentence that began "`<path>` is `<self>`": what follows from it.
    pub(crate) fn consequence(self) -> &'static str {
        match self {
            Self::Elf | Self::Script | Self::Empty | Self::Unknown => {
                ", not WebAssembly; this runtime only runs wasm modules and components"
            }
            Self::Precompiled => {
                ", which would be native code of a stranger; put the .wasm file into the image: it is compiled once on the node"
            }
            Self::WasmVersion(_) => {
                "; this runtime runs core modules of version 1 and components of version 13, build it with a current toolchain"
            }
            Self::Gzip => ", not WebAssembly; put the uncompressed .wasm file into the image",
            Self::TextFormat => "; convert it to binary with `wasm-tools parse`",
        }
    }
}

impl fmt::Display for NotWasm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf => f.write_str("an ELF executable"),
            Self::Script => f.write_str("a script starting with #!"),
            Self::Precompiled => f.write_str("a precompiled wasmtime artifact"),
            Self::WasmVersion(version) => {
                write!(f, "WebAssembly of an unknown version ({version:#010x})")
            }
            Self::Empty => f.write_str("an empty file"),
            Self::Gzip => f.write_str("gzip-compressed"),
            Self::TextFormat => f.write_str("WebAssembly in its text format"),
            Self::Unknown => f.write_str("a file of an unknown format"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn modules_and_components_are_told_apart() {
        assert_eq!(Kind::of(b"\0asm\x01\0\0\0"), Ok(Kind::Module));
        assert_eq!(Kind::of(b"\0asm\x0d\0\x01\0rest"), Ok(Kind::Component));
    }

    #[test]
    fn everything_else_is_named() {
        for (bytes, what) in [
            (b"" as &[u8], NotWasm::Empty),
            (b"\0asm", NotWasm::Unknown),
            (b"\0asm\x01\0\0", NotWasm::Unknown),
            (b"\0asm\x0c\0\x01\0", NotWasm::WasmVersion(0x0001_000c)),
            (b"\x7fELF\x02\x01\x01\x00", NotWasm::Elf),
            (b"\x7fELF", NotWasm::Elf),
            (b"\x7fELF\x02\x01\x01\xc8", NotWasm::Precompiled),
            (b"#!/bin/sh\n", NotWasm::Script),
            (b"\x1f\x8b\x08", NotWasm::Gzip),
            (b"\n  (module $a", NotWasm::TextFormat),
            (b"(compone", NotWasm::TextFormat),
            (b"MZ", NotWasm::Unknown),
        ] {
            assert_eq!(Kind::of(bytes), Err(what), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn only_the_two_preambles_are_wasm(bytes: [u8; 8]) {
            let wasm = bytes == *b"\0asm\x01\0\0\0" || bytes == *b"\0asm\x0d\0\x01\0";
            prop_assert_eq!(Kind::of(&bytes).is_ok(), wasm);
        }
    }
}
