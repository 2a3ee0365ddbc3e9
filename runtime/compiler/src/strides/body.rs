//! A function with long copies: what is to be changed in it, and how it is then.

use std::ops::Range;

use wasm_encoder::{BlockType, Encode as _, InstructionSink, ValType};
use wasmparser::{FunctionBody, Operator, Result};

use super::Piece::{self, Added, Kept, Replaced};
use super::bulk::{Bulk, Number, STRIDE};
use super::number;

/// What is to be changed in a function. Offsets are in the file.
pub(super) struct Body {
    whole: Range<usize>,
    /// What declares the locals, but for the number of these declarations, which comes before.
    declarations: Range<usize>,
    count: u32,
    /// How many locals they are.
    locals: u32,
    copies: Vec<LongCopy>,
}

/// An instruction that may be a long copy.
struct LongCopy {
    at: Range<usize>,
    call: Call,
}

/// What such an instruction may become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// The function that does it, and its type.
    pub(super) function: u32,
    pub(super) ty: u32,
    /// The type of the length.
    pub(super) count: Number,
}

impl Body {
    /// `call` says what becomes of an instruction.
    pub(super) fn of(
        body: &FunctionBody<'_>,
        mut call: impl FnMut(Bulk) -> Option<Call>,
    ) -> Result<Self> {
        let mut reader = body.get_binary_reader();
        let count = reader.read_var_u32()?;
        let mut locals = 0_u32;
        for declaration in body.get_locals_reader()? {
            locals = locals.saturating_add(declaration?.0);
        }
        let mut operators = body.get_operators_reader()?;
        let declarations = reader.original_position()..operators.original_position();
        let mut copies = Vec::new();
        let mut is_short = false;
        while !operators.eof() {
            let start = operators.original_position();
            let operator = operators.read()?;
            if !is_short && let Some(call) = bulk(&operator).and_then(&mut call) {
                let at = start..operators.original_position();
                copies.push(LongCopy { at, call });
            }
            is_short = is_stride(&operator);
        }
        Ok(Self {
            whole: body.range(),
            declarations,
            count,
            locals,
            copies,
        })
    }

    /// Whether nothing is.
    pub(super) fn is_unchanged(&self) -> bool {
        self.copies.is_empty()
    }

    pub(super) fn whole(&self) -> Range<usize> {
        self.whole.clone()
    }

    /// The function as it is then, if it has so many parameters. It has two more locals, for lengths of either type.
    pub(super) fn pieces(&self, parameters: u32) -> Vec<Piece> {
        let mut locals = Vec::new();
        for ty in [ValType::I32, ValType::I64] {
            1_u32.encode(&mut locals);
            ty.encode(&mut locals);
        }
        let mut pieces = vec![
            Added(number(self.count as usize + 2)),
            Kept(self.declarations.clone()),
            Added(locals),
        ];
        let first = parameters.saturating_add(self.locals);
        let mut rest = self.declarations.end..self.whole.end;
        for copy in &self.copies {
            pieces.push(Kept(rest.start..copy.at.start));
            pieces.extend(copy.pieces(first));
            rest.start = copy.at.end;
        }
        pieces.push(Kept(rest));
        pieces
    }
}

impl LongCopy {
    /// The instruction for what is short, else the call, which is where the instruction was.
    fn pieces(&self, first: u32) -> [Piece; 5] {
        let [mut short, mut long, mut call, mut end] = [const { Vec::new() }; 4];
        let mut sink = InstructionSink::new(&mut short);
        match self.call.count {
            Number::I64 => sink
                .local_tee(first + 1)
                .local_get(first + 1)
                .i64_const(STRIDE.into())
                .i64_le_u(),
            Number::I32 => sink
                .local_tee(first)
                .local_get(first)
                .i32_const(STRIDE.cast_signed())
                .i32_le_u(),
        };
        sink.if_(BlockType::FunctionType(self.call.ty));
        InstructionSink::new(&mut long).else_();
        InstructionSink::new(&mut call).call(self.call.function);
        InstructionSink::new(&mut end).end();
        [
            Added(short),
            Kept(self.at.clone()),
            Added(long),
            Replaced(self.at.start, call),
            Added(end),
        ]
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "most instructions copy nothing"
)]
fn bulk(operator: &Operator<'_>) -> Option<Bulk> {
    Some(match *operator {
        Operator::MemoryFill { mem } => Bulk::Fill { memory: mem },
        Operator::MemoryCopy { dst_mem, src_mem } => Bulk::Copy {
            to: dst_mem,
            from: src_mem,
        },
        Operator::MemoryInit { data_index, mem } => Bulk::Init {
            memory: mem,
            data: data_index,
        },
        _ => return None,
    })
}

/// Whether what takes this as its length copies no more than a stride.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "most instructions are no numbers"
)]
fn is_stride(operator: &Operator<'_>) -> bool {
    match *operator {
        Operator::I32Const { value } => value.cast_unsigned() <= STRIDE,
        Operator::I64Const { value } => value.cast_unsigned() <= STRIDE.into(),
        _ => false,
    }
}
