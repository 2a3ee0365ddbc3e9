//! Where in a program's machine code a guest can be made to trap.
//!
//! wasmtime names each piece of code in the symbol table of the artifact. In a function of the program,
//! and in the trampolines that it leaves for the host by, the frame that a trap goes back to is stored. In
//! the trampolines that the host enters by it is not stored yet, or not any more. Names that are not known
//! here count as those. (wasmtime 48, `compile.rs`, where the names are made.)

use std::ops::Range;

use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object as _, ObjectSymbol as _};

/// Sorted, disjoint parts of the text, as offsets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Divertible(Box<[Range<usize>]>);

impl Divertible {
    /// Reads the symbols of `image`, an artifact whose text has `len` bytes. Of what cannot be read nothing
    /// is divertible.
    pub(crate) fn of(image: &[u8], len: usize) -> Self {
        let mut parts: Vec<Range<usize>> = Vec::new();
        if let Ok(file) = ElfFile::<FileHeader64<Endianness>>::parse(image) {
            for symbol in file.symbols() {
                let start = usize::try_from(symbol.address()).unwrap_or(len);
                let end = start.saturating_add(usize::try_from(symbol.size()).unwrap_or(len));
                if symbol.name().is_ok_and(is_divertible) && end <= len {
                    parts.push(start..end);
                }
            }
        }
        parts.sort_unstable_by_key(|part| part.start);
        Self(parts.into())
    }

    /// Whether the instruction at this offset is in one of the parts. Async-signal-safe.
    pub(crate) fn contains(&self, offset: usize) -> bool {
        let after = self.0.partition_point(|part| part.start <= offset);
        after
            .checked_sub(1)
            .is_some_and(|index| self.0[index].contains(&offset))
    }
}

/// How many bytes tell.
pub(crate) const MOVE: usize = 5;

/// Whether the first instruction of `code` moves a frame. Async-signal-safe.
///
/// A function that calls another in its place, with more arguments on the stack than it has, makes room for
/// them as it begins: it moves its frame down by some bytes, with r11.
///
/// ```text
/// sub  rsp, N
/// mov  rbp, rsp
/// mov  r11, [rsp + N]        from here the frame pointer is that of a frame in which is whatever was there,
/// mov  [rsp], r11            which may be numbers of the guest's choice
/// mov  r11, [rsp + N + 8]
/// mov  [rsp + 8], r11        to here
/// ```
///
/// (cranelift-codegen 0.135, `isa/x64/abi.rs`, `gen_clobber_save`.) These are those four. The same instructions
/// elsewhere do no harm: the guest goes on to the next one that it is stopped at.
pub(crate) fn moves_frame(code: [u8; MOVE]) -> bool {
    matches!(
        code,
        [0x4c, 0x8b, 0x5c | 0x9c, 0x24, ..]
            | [0x4c, 0x89, 0x1c, 0x24, ..]
            | [0x4c, 0x89, 0x5c, 0x24, 8, ..]
    )
}

/// Whether a piece of code of this name runs inside of the guest.
fn is_divertible(name: &str) -> bool {
    // The program's own name for a function comes after this, and may be anything.
    let kind = name.split_once("]::").map_or("", |(_, kind)| kind);
    if name.starts_with("wasm[") {
        return kind.starts_with("function[");
    }
    (name.starts_with("signatures[") && kind == "wasm_to_array_trampoline")
        || name.starts_with("wasmtime_builtin_")
        || (name.starts_with("component-trampolines[") && name.contains("]-wasm-call-"))
        || name == "resource_drop_trampoline"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_enters_by_is_not_divertible() {
        for (name, divertible) in [
            ("wasm[0]::function[12]::main", true),
            ("wasm[0]::function[12]", true),
            (
                "wasm[0]::function[1]::x]::array_to_wasm_trampoline[1]",
                true,
            ),
            ("wasm[0]::array_to_wasm_trampoline[12]", false),
            ("signatures[3]::wasm_to_array_trampoline", true),
            ("wasmtime_builtin_memory_fill", true),
            (
                "component-trampolines[1]-wasm-call-component-lower-import[1]",
                true,
            ),
            (
                "component-trampolines[1]-array-call-component-lower-import[1]",
                false,
            ),
            ("module_start[0]::Array", false),
            ("something else", false),
        ] {
            assert_eq!(is_divertible(name), divertible, "{name}");
        }
    }

    #[test]
    fn an_offset_is_looked_up_in_the_parts() {
        let divertible = Divertible(Box::new([0..12, 32..40]));
        let inside: Vec<usize> = (0..50).filter(|&n| divertible.contains(n)).collect();
        assert_eq!(inside, (0..12).chain(32..40).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_artifact_has_no_parts() {
        assert_eq!(Divertible::of(b"no elf", 6), Divertible(Box::new([])));
    }
}
