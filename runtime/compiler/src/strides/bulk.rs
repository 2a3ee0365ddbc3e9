//! The functions that take a long copy of memory in strides.

use wasm_encoder::{BlockType, Function, InstructionSink, MemArg, ValType};

/// How many bytes are copied at a time. A page that is touched for the first time takes the kernel up to a microsecond, which
/// makes a stride a tenth of a millisecond at most; a call into the host for each is nothing beside that.
pub(super) const STRIDE: u32 = 256 << 10;

/// The type of an address, or of a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    I32,
    I64,
}

impl From<Number> for ValType {
    fn from(number: Number) -> Self {
        match number {
            Number::I32 => Self::I32,
            Number::I64 => Self::I64,
        }
    }
}

/// An instruction that copies any number of bytes at once. Memories are told by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bulk {
    Fill { memory: u32 },
    Copy { to: u32, from: u32 },
    Init { memory: u32, data: u32 },
}

/// The parameters: where to, what or where from, and how many bytes. Also its operands.
const TO: u32 = 0;
const FROM: u32 = 1;
const COUNT: u32 = 2;

impl Bulk {
    /// The types of its operands, given those of addresses in the memories.
    pub(super) fn operands(self, addresses: &[Number]) -> Option<[Number; 3]> {
        let address = |memory: u32| addresses.get(memory as usize).copied();
        Some(match self {
            Self::Fill { memory } => {
                let to = address(memory)?;
                [to, Number::I32, to]
            }
            Self::Copy { to, from } => {
                let (to, from) = (address(to)?, address(from)?);
                let both_are_long = to == Number::I64 && from == Number::I64;
                let count = if both_are_long {
                    Number::I64
                } else {
                    Number::I32
                };
                [to, from, count]
            }
            Self::Init { memory, .. } => [address(memory)?, Number::I32, Number::I32],
        })
    }

    /// A function of these parameters that does the same, stride by stride, for what is longer than one, and traps where
    /// the instruction traps: before it has written anything.
    ///
    /// ```text
    /// if there cannot be so many bytes:   the instruction itself, which traps
    /// touch the last byte of either side  which traps if it is not there
    /// while count > STRIDE:  a stride, from the side that is not overwritten before it is read
    /// the rest
    /// ```
    pub(super) fn function(self, [to, from, count]: [Number; 3]) -> Function {
        let mut function = Function::new([]);
        let mut code = Code {
            sink: function.instructions(),
            bulk: self,
            to,
            from,
            count,
        };
        code.outside();
        code.touch();
        code.long();
        code.sink.end();
        function
    }
}

/// A function as it is written.
struct Code<'a> {
    sink: InstructionSink<'a>,
    bulk: Bulk,
    to: Number,
    from: Number,
    count: Number,
}

impl Code<'_> {
    fn outside(&mut self) {
        for &side in self.sides() {
            self.end(side);
            // The last byte of a memory may be the last one that has an address; none of a segment is.
            if self.memory(side).is_some() {
                self.minus_one(self.of(side));
            }
            self.sink.local_get(side);
            self.less(self.of(side));
            if side != TO {
                self.sink.i32_or();
            }
        }
        self.sink.if_(BlockType::Empty);
        self.whole();
        self.sink.return_().end();
    }

    fn touch(&mut self) {
        for &side in self.sides() {
            if let Some(memory_index) = self.memory(side) {
                self.end(side);
                self.minus_one(self.of(side));
                self.sink.i32_load8_u(MemArg {
                    offset: 0,
                    align: 0,
                    memory_index,
                });
                self.sink.drop();
            }
        }
        if let Bulk::Init { memory, data } = self.bulk {
            // None of the bytes after the last one.
            self.sink.local_get(TO);
            self.end(FROM);
            self.sink.i32_const(0).memory_init(memory, data);
        }
    }

    fn long(&mut self) {
        match self.bulk {
            Bulk::Copy { to, from } if to == from => {
                self.sink.local_get(FROM).local_get(TO);
                self.less(self.to);
                self.sink.if_(BlockType::Empty);
                self.backward();
                self.sink.else_();
                self.forward();
                self.sink.end();
            }
            Bulk::Copy { .. } | Bulk::Fill { .. } | Bulk::Init { .. } => self.forward(),
        }
        self.whole();
    }

    fn forward(&mut self) {
        self.sink.loop_(BlockType::Empty);
        self.sink.local_get(TO).local_get(FROM);
        self.number(self.count);
        self.instruction();
        for &side in self.sides() {
            self.sink.local_get(side);
            self.number(self.of(side));
            self.add(self.of(side));
            self.sink.local_set(side);
        }
        self.shorten();
        self.is_long();
        self.sink.br_if(0).end();
    }

    /// Of one memory only.
    fn backward(&mut self) {
        self.sink.loop_(BlockType::Empty);
        self.shorten();
        for side in [TO, FROM] {
            self.sink.local_get(side).local_get(COUNT);
            self.add(self.of(side));
        }
        self.number(self.count);
        self.instruction();
        self.is_long();
        self.sink.br_if(0).end();
    }

    /// The parameters that are addresses.
    fn sides(&self) -> &'static [u32] {
        match self.bulk {
            Bulk::Fill { .. } => &[TO],
            Bulk::Copy { .. } | Bulk::Init { .. } => &[TO, FROM],
        }
    }

    /// The memory in which this parameter is an address.
    fn memory(&self, side: u32) -> Option<u32> {
        match self.bulk {
            Bulk::Fill { memory } | Bulk::Init { memory, .. } => (side == TO).then_some(memory),
            Bulk::Copy { to, from } => Some(if side == TO { to } else { from }),
        }
    }

    fn of(&self, side: u32) -> Number {
        if side == TO { self.to } else { self.from }
    }

    /// The instruction, of all that is left.
    fn whole(&mut self) {
        self.sink.local_get(TO).local_get(FROM).local_get(COUNT);
        self.instruction();
    }

    fn instruction(&mut self) {
        match self.bulk {
            Bulk::Fill { memory } => self.sink.memory_fill(memory),
            Bulk::Copy { to, from } => self.sink.memory_copy(to, from),
            Bulk::Init { memory, data } => self.sink.memory_init(memory, data),
        };
    }

    /// Whether there is more than a stride.
    fn is_long(&mut self) {
        self.number(self.count);
        self.sink.local_get(COUNT);
        self.less(self.count);
    }

    /// `count -= STRIDE`
    fn shorten(&mut self) {
        self.sink.local_get(COUNT);
        self.number(self.count);
        match self.count {
            Number::I64 => self.sink.i64_sub(),
            Number::I32 => self.sink.i32_sub(),
        };
        self.sink.local_set(COUNT);
    }

    /// The address after the last byte on this side.
    fn end(&mut self, side: u32) {
        let address = self.of(side);
        self.sink.local_get(side).local_get(COUNT);
        if address != self.count {
            self.sink.i64_extend_i32_u();
        }
        self.add(address);
    }

    fn minus_one(&mut self, number: Number) {
        match number {
            Number::I64 => self.sink.i64_const(1).i64_sub(),
            Number::I32 => self.sink.i32_const(1).i32_sub(),
        };
    }

    /// A stride.
    fn number(&mut self, number: Number) {
        match number {
            Number::I64 => self.sink.i64_const(STRIDE.into()),
            Number::I32 => self.sink.i32_const(STRIDE.cast_signed()),
        };
    }

    fn add(&mut self, number: Number) {
        match number {
            Number::I64 => self.sink.i64_add(),
            Number::I32 => self.sink.i32_add(),
        };
    }

    fn less(&mut self, number: Number) {
        match number {
            Number::I64 => self.sink.i64_lt_u(),
            Number::I32 => self.sink.i32_lt_u(),
        };
    }
}
