//! The landing: a module with one function, which traps. A guest that is killed while it computes goes on
//! there (see [`crate::fence`]), so that its end is a trap like any other to wasmtime.
//!
//! It comes from the cache as every program does; nothing is compiled in this process.

use std::fs::File;
use std::io::Write;

use rustix::fs::MemfdFlags;
use wasmtime::Module;

use crate::Error;

/// `(module (func unreachable))`.
const WASM: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x05\x01\x03\0\0\x0b";
/// What its function has to be: `push %rbp; mov %rsp,%rbp; ud2`. Then all it needs is a place on the stack.
const CODE: &[u8] = b"\x55\x48\x89\xe5\x0f\x0b";

/// The loaded module. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Landing {
    module: Module,
    offset: usize,
}

impl std::fmt::Debug for Landing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Landing")
    }
}

impl Landing {
    /// The landing's program, as a file.
    pub(crate) fn wasm() -> std::io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("landing", MemfdFlags::CLOEXEC)?);
        file.write_all(WASM)?;
        Ok(file)
    }

    /// The landing in `module`, which was compiled from [`Self::wasm`].
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the machine code is not what a jump can be made to.
    pub(crate) fn new(module: Module) -> Result<Self, Error> {
        let function = module.functions().next().map(|function| function.offset);
        let offset = function.filter(|&offset| {
            let code = module.text().get(offset..);
            code.is_some_and(|code| code.starts_with(CODE))
        });
        match offset {
            Some(offset) => Ok(Self { module, offset }),
            None => Err(Error::Engine {
                reason: "a function that traps is compiled otherwise than it has to be".to_owned(),
            }),
        }
    }

    /// The address of the function.
    pub(crate) fn address(&self) -> usize {
        self.module.text().as_ptr().addr() + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_the_module() {
        assert_eq!(wat::parse_str("(module (func unreachable))").unwrap(), WASM);
    }
}
