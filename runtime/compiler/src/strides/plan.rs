//! A module with long copies: what is to be changed in its sections.

use std::collections::BTreeMap;
use std::ops::Range;

use wasm_encoder::{Encode as _, ValType};
use wasmparser::{
    BinaryReader, CompositeInnerType, MemoryType, Parser, Payload, Result, SubType, TypeRef,
};

use super::Piece::{self, Added, Kept};
use super::body::{Body, Call};
use super::bulk::{Bulk, Number};
use super::{number, sized};

/// What is to be changed in a module.
#[derive(Default)]
pub(super) struct Plan {
    /// The functions that have code.
    bodies: Vec<Body>,
    added: Functions,
    /// How many parameters a function of each type has.
    types: Vec<u32>,
    /// The type of each function that has code.
    functions: Vec<u32>,
    /// How many others there are.
    imported: u32,
}

/// The functions to be added.
#[derive(Default)]
struct Functions {
    /// What each does, and the types of its parameters.
    all: Vec<(Bulk, [Number; 3])>,
    known: BTreeMap<Bulk, u32>,
    /// Of addresses in each memory.
    addresses: Vec<Number>,
}

impl Functions {
    fn memory(&mut self, memory: MemoryType) {
        self.addresses.push(if memory.memory64 {
            Number::I64
        } else {
            Number::I32
        });
    }

    /// Which one does this, with the type of its length. `None` if there is no such memory.
    fn number(&mut self, bulk: Bulk) -> Option<(u32, Number)> {
        let operands = bulk.operands(&self.addresses)?;
        let next = index(self.all.len());
        let number = *self.known.entry(bulk).or_insert(next);
        if number == next {
            self.all.push((bulk, operands));
        }
        Some((number, operands[2]))
    }
}

impl Plan {
    /// `None` if there is nothing to be done for the module that is at `range` of `wasm`.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "most sections stay as they are"
    )]
    pub(super) fn of(wasm: &[u8], range: Range<usize>) -> Result<Option<Self>> {
        let mut plan = Self::default();
        for payload in Parser::new(range.start as u64).parse_all(&wasm[range]) {
            match payload? {
                Payload::TypeSection(groups) => {
                    for group in groups {
                        plan.types.extend(group?.types().map(parameters));
                    }
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        match import?.ty {
                            TypeRef::Func(_) | TypeRef::FuncExact(_) => plan.imported += 1,
                            TypeRef::Memory(memory) => plan.added.memory(memory),
                            TypeRef::Table(_) | TypeRef::Global(_) | TypeRef::Tag(_) => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    plan.functions = functions.into_iter().collect::<Result<_>>()?;
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        plan.added.memory(memory?);
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let functions = index(plan.functions.len()) + plan.imported;
                    let types = index(plan.types.len());
                    let call = |bulk| {
                        let (number, count) = plan.added.number(bulk)?;
                        Some(Call {
                            function: functions + number,
                            ty: types + number,
                            count,
                        })
                    };
                    plan.bodies.push(Body::of(&body, call)?);
                }
                _ => {}
            }
        }
        Ok((!plan.added.all.is_empty()).then_some(plan))
    }

    pub(super) fn types(&self, wasm: &[u8], section: Range<usize>) -> Result<Vec<Piece>> {
        let types = self.added.all.iter().map(|(_, operands)| {
            // A function that takes those, and gives nothing.
            let mut bytes = vec![0x60];
            operands.map(ValType::from).as_slice().encode(&mut bytes);
            0_u32.encode(&mut bytes);
            bytes
        });
        let (count, elements) = vector(wasm, section)?;
        Ok(longer(count, vec![Kept(elements)], types.collect()))
    }

    pub(super) fn functions(&self, wasm: &[u8], section: Range<usize>) -> Result<Vec<Piece>> {
        let types = self.types.len();
        let functions = (types..types + self.added.all.len()).map(number);
        let (count, elements) = vector(wasm, section)?;
        Ok(longer(count, vec![Kept(elements)], functions.collect()))
    }

    pub(super) fn code(&self, wasm: &[u8], section: Range<usize>) -> Result<Vec<Piece>> {
        let functions = self.added.all.iter().map(|(bulk, operands)| {
            let mut bytes = Vec::new();
            bulk.function(*operands).encode(&mut bytes);
            bytes
        });
        let (count, elements) = vector(wasm, section)?;
        let (mut bodies, mut rest) = (Vec::new(), elements);
        for (body, ty) in self.bodies.iter().zip(&self.functions) {
            let whole = body.whole();
            let parameters = self.types.get(*ty as usize);
            if let (Some(parameters), false) = (parameters, body.is_unchanged()) {
                bodies.extend(sized(body.pieces(*parameters)));
            } else {
                bodies.push(Kept(rest.start..whole.end));
            }
            rest.start = whole.end;
        }
        Ok(longer(count, bodies, functions.collect()))
    }
}

/// Of something that has a byte at least, in a file that is not so long (`MAX_WASM`).
fn index(index: usize) -> u32 {
    u32::try_from(index).expect("files are shorter than 4 GiB")
}

/// How many parameters a function of this type has.
fn parameters(ty: &SubType) -> u32 {
    match &ty.composite_type.inner {
        CompositeInnerType::Func(function) => index(function.params().len()),
        CompositeInnerType::Array(_)
        | CompositeInnerType::Struct(_)
        | CompositeInnerType::Cont(_) => 0,
    }
}

/// How many elements the vector has that is at `range`, and where these are.
fn vector(wasm: &[u8], range: Range<usize>) -> Result<(usize, Range<usize>)> {
    let mut reader = BinaryReader::new(&wasm[range.clone()], range.start);
    let count = reader.read_var_u32()? as usize;
    Ok((count, reader.original_position()..range.end))
}

/// A vector of these `count` elements, and some more.
fn longer(count: usize, elements: Vec<Piece>, more: Vec<Vec<u8>>) -> Vec<Piece> {
    let mut pieces = vec![Added(number(count + more.len()))];
    pieces.extend(elements);
    pieces.push(Added(more.concat()));
    pieces
}
