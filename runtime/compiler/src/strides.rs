//! Long copies of memory, in strides.
//!
//! A guest is stopped in its own code only (docs/interruption.md), and `memory.fill`, `memory.copy` and `memory.init` are one
//! call into the host each: of gigabytes, seconds in which no order is heard. So before a module is compiled, each of
//! them that is not known to be short, and turns out to be long, becomes a call of a function that is added to the
//! module, and does the same in strides ([`bulk`]). What a guest can tell is the same, but for who writes to a
//! memory that is shared between threads, which there are none of.
//!
//! ```text
//!   type section      + a type for each added function
//!   function section  + its type
//!   code section        memory.copy ─► if the length is a stride at most, memory.copy, else call N
//!                     + N
//! ```
//!
//! All else is copied byte by byte, in modules and in the components around them; no index changes. What is not
//! understood is left as it is: the compiler has better words for what is wrong with it.

mod body;
mod bulk;
mod plan;

use std::ops::Range;

use wasi_settings::Positions;
use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, Result};

use self::plan::Plan;

/// Ids of sections (core specification 5.5.2; component model, Binary.md).
const TYPES: u8 = 1;
const FUNCTIONS: u8 = 3;
const CODE: u8 = 10;
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
/// Magic number, version and layer.
const PREAMBLE: usize = 8;

/// How deep components may be in each other. Those of real programs are three deep.
const DEPTH: usize = 64;

/// A module or component with its long copies in strides, and where each byte of it was.
#[derive(Debug)]
pub(crate) struct Strided {
    pub(crate) wasm: Vec<u8>,
    pub(crate) positions: Positions,
}

/// What a changed file is made of, with offsets in the file as it was.
enum Piece {
    Kept(Range<usize>),
    /// In the place of what begins there.
    Replaced(usize, Vec<u8>),
    Added(Vec<u8>),
}

use Piece::{Added, Kept, Replaced};

/// `wasm` with its long copies in strides; `None` if there is nothing to change, or nothing is understood.
pub(crate) fn strided(wasm: &[u8]) -> Option<Strided> {
    let pieces = unit(wasm, 0..wasm.len(), DEPTH).ok()??;
    let mut made = Vec::with_capacity(length(&pieces));
    let mut positions = Positions::default();
    for piece in pieces {
        let (old, bytes) = match &piece {
            Kept(range) => (Some(range.start), &wasm[range.clone()]),
            Replaced(at, bytes) => (Some(*at), bytes.as_slice()),
            Added(bytes) => (None, bytes.as_slice()),
        };
        positions.push(made.len(), old);
        made.extend_from_slice(bytes);
    }
    Some(Strided {
        wasm: made,
        positions,
    })
}

/// What a section's or a function's size is of.
fn length(pieces: &[Piece]) -> usize {
    let lengths = pieces.iter().map(|piece| match piece {
        Kept(range) => range.len(),
        Replaced(_, bytes) | Added(bytes) => bytes.len(),
    });
    lengths.sum()
}

/// The pieces of the module or component that is at `range` of `wasm`; `None` if it stays as it is.
fn unit(wasm: &[u8], range: Range<usize>, depth: usize) -> Result<Option<Vec<Piece>>> {
    let (mut preamble, mut rest) = (range.clone(), range.clone());
    preamble.end = range.end.min(range.start + PREAMBLE);
    rest.start = preamble.end;
    let sections = sections(wasm, rest)?;
    let mut pieces = vec![Kept(preamble.clone())];
    if crate::is_component(&wasm[preamble]) {
        let mut changed = false;
        for section in sections {
            let nested = matches!(section.id, CORE_MODULE | COMPONENT) && depth > 0;
            match nested
                .then(|| unit(wasm, section.content, depth - 1))
                .transpose()?
                .flatten()
            {
                Some(inner) => {
                    pieces.push(Added(vec![section.id]));
                    pieces.extend(sized(inner));
                    changed = true;
                }
                None => pieces.push(Kept(section.whole)),
            }
        }
        return Ok(changed.then_some(pieces));
    }
    let Some(plan) = Plan::of(wasm, range)? else {
        return Ok(None);
    };
    for section in sections {
        let content = match section.id {
            TYPES => plan.types(wasm, section.content)?,
            FUNCTIONS => plan.functions(wasm, section.content)?,
            CODE => plan.code(wasm, section.content)?,
            _ => {
                pieces.push(Kept(section.whole));
                continue;
            }
        };
        pieces.push(Added(vec![section.id]));
        pieces.extend(sized(content));
    }
    Ok(Some(pieces))
}

/// `pieces`, after how many bytes they are.
fn sized(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut all = vec![Added(number(length(&pieces)))];
    all.extend(pieces);
    all
}

/// A section, by offsets in the file.
struct Section {
    id: u8,
    /// With its id and its size.
    whole: Range<usize>,
    content: Range<usize>,
}

fn sections(wasm: &[u8], range: Range<usize>) -> Result<Vec<Section>> {
    let mut reader = BinaryReader::new(&wasm[range.clone()], range.start);
    let mut sections = Vec::new();
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8()?;
        let content = reader.read_reader()?.range();
        sections.push(Section {
            id,
            whole: start..content.end,
            content,
        });
    }
    Ok(sections)
}

fn number(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    number.encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
