//! What of a program is called, and what its answer means.
//!
//! A command has one start: `_start`, or the `run` of `wasi:cli/run`. A program may also be asked for an
//! export by name, if that takes nothing and answers with something that can be an exit code:
//!
//! | answer | exit code |
//! |---|---|
//! | nothing | 0 |
//! | a module's `i32`, a component's integer of up to 32 bits | itself |
//! | a component's `result` | 0 for `ok`, 1 for `err`; what comes with them is dropped |
//!
//! A module made to be called this way (a reactor) exports `_initialize`, which is called before.

use wasmtime::component::{ComponentExportIndex, InstancePre as ComponentPre, Val as ComponentVal};
use wasmtime::{InstancePre, Store, Val};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::host::Host;

/// A program and what to call of it; that it can be called has been checked.
pub(crate) enum Call {
    /// `export` of a module.
    Module {
        program: InstancePre<Host>,
        export: String,
        /// Whether its `_initialize` comes before.
        initialize: bool,
    },
    /// The start of a component.
    Command(CommandPre<Host>),
    /// An export of a component.
    Component {
        program: ComponentPre<Host>,
        export: ComponentExportIndex,
    },
}

impl Call {
    /// Makes the program and calls it: its exit code.
    pub(crate) async fn run(&self, store: &mut Store<Host>) -> wasmtime::Result<u32> {
        match self {
            Self::Module {
                program,
                export,
                initialize,
            } => {
                store.data_mut().sockets.register()?;
                let instance = program.instantiate_async(&mut *store).await?;
                if *initialize {
                    let initialize = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)?;
                    initialize.call_async(&mut *store, ()).await?;
                }
                let function = instance
                    .get_func(&mut *store, export)
                    .ok_or_else(vanished)?;
                let mut results = vec![Val::I32(0); function.ty(&*store).results().len()];
                function.call_async(store, &[], &mut results).await?;
                Ok(results
                    .first()
                    .and_then(Val::i32)
                    .map_or(0, i32::cast_unsigned))
            }
            Self::Command(command) => {
                let command = command.instantiate_async(&mut *store).await?;
                let ended = command.wasi_cli_run().call_run(store).await?;
                Ok(u32::from(ended.is_err()))
            }
            Self::Component { program, export } => {
                let instance = program.instantiate_async(&mut *store).await?;
                let function = instance
                    .get_func(&mut *store, export)
                    .ok_or_else(vanished)?;
                let count = function.ty(&*store).results().len();
                let mut results = vec![ComponentVal::Bool(false); count];
                function.call_async(store, &[], &mut results).await?;
                Ok(results.first().map_or(0, exit_code))
            }
        }
    }
}

/// What the WASI application ABI has a reactor export.
pub(crate) const INITIALIZE: &str = "_initialize";

/// The export was there when the program was linked.
fn vanished() -> wasmtime::Error {
    wasmtime::Error::msg("the export is not in the instance; this is a bug of the runtime")
}

/// Linking lets no other answer through.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other value is no exit code"
)]
fn exit_code(answer: &ComponentVal) -> u32 {
    match answer {
        ComponentVal::Result(ended) => u32::from(ended.is_err()),
        ComponentVal::U8(code) => u32::from(*code),
        ComponentVal::U16(code) => u32::from(*code),
        ComponentVal::U32(code) => *code,
        ComponentVal::S8(code) => i32::from(*code).cast_unsigned(),
        ComponentVal::S16(code) => i32::from(*code).cast_unsigned(),
        ComponentVal::S32(code) => code.cast_unsigned(),
        _ => 0,
    }
}
