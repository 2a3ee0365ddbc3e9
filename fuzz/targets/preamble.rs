//! The first bytes of a file, from an image, decide what it is.

#![no_main]
#![allow(
    unsafe_code,
    reason = "`target!` makes the function that libFuzzer calls"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what must not fail and does is a finding"
)]

use wasi_bundles::{Kind, NotWasm};

wasi_fuzz::target!(|file: &[u8]| {
    let preamble = &file[..file.len().min(Kind::PREAMBLE)];
    let kind = Kind::of(preamble);
    let expected = match preamble.get(..8) {
        Some(b"\0asm\x01\0\0\0") => Some(Kind::Module),
        Some(b"\0asm\x0d\0\x01\0") => Some(Kind::Component),
        Some(_) | None => None,
    };
    assert_eq!(kind.ok(), expected);
    if let Err(what) = kind {
        assert!(!what.to_string().is_empty());
        // Machine code of a stranger is never taken for a Linux program, or the other way round.
        let elf = preamble.starts_with(b"\x7fELF");
        let artifact = elf && preamble.get(7) == Some(&200);
        assert_eq!(what == NotWasm::Precompiled, artifact);
        assert_eq!(what == NotWasm::Elf, elf && !artifact);
        assert_eq!(what == NotWasm::Empty, file.is_empty());
    }
});
