//! Linking a core module: WASI 0.1, and what of the module is to be called.

use wasmtime::{Engine, ExternType, FuncType, Linker, Module, Store, ValType};
use wasmtime_wasi::I32Exit;

use crate::call::{Call, INITIALIZE};
use crate::host::Host;
use crate::{Error, Guest, filesystem, sockets};

/// The module that WASI 0.1 is imported from.
pub(crate) const WASI: &str = "wasi_snapshot_preview1";
/// What a command exports.
const START: &str = "_start";

/// Links `module`, to call what `guest` asks for.
pub(crate) fn link(module: &Module, guest: &Guest, store: &mut Store<Host>) -> Result<Call, Error> {
    let mut linker = linker(module.engine())?;
    if !store.data().sockets.is_empty() {
        sockets::lay_over(&mut linker).map_err(Error::engine)?;
    }
    let unresolved: Vec<String> = module
        .imports()
        .filter(|import| linker.get_by_import(&mut *store, import).is_none())
        .map(|import| format!("{}::{}", import.module(), import.name()))
        .collect();
    if !unresolved.is_empty() {
        return Err(Error::Unresolved {
            imports: unresolved,
            provided: vec![WASI.to_owned()],
        });
    }
    let export = match guest.export.as_deref() {
        Some(export) => asked(module, export)?,
        None => start(module)?,
    };
    let initialize = export != START
        && export != INITIALIZE
        && function(module, INITIALIZE).is_some_and(|of| fits(&of, false));
    let program = linker
        .instantiate_pre(module)
        .map_err(|error| Error::Import {
            reason: format!("{error:#}"),
        })?;
    Ok(Call::Module {
        program,
        export: export.to_owned(),
        initialize,
    })
}

/// WASI 0.1, but for sockets.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(engine);
    filesystem::add_to_module_linker(&mut linker).map_err(Error::engine)?;
    // wasmtime-wasi makes a trap of codes above 125; a container has all that a process has.
    linker.allow_shadowing(true);
    linker
        .func_wrap(WASI, "proc_exit", |code: u32| -> wasmtime::Result<()> {
            Err(I32Exit(code.cast_signed()).into())
        })
        .map_err(Error::engine)?;
    Ok(linker)
}

fn start(module: &Module) -> Result<&'static str, Error> {
    if function(module, START).is_some_and(|of| fits(&of, false)) {
        return Ok(START);
    }
    Err(Error::NoEntrypoint {
        wanted: START,
        callable: callable(module),
    })
}

fn asked<'a>(module: &Module, export: &'a str) -> Result<&'a str, Error> {
    let reason = match module.get_export(export) {
        Some(ExternType::Func(of)) if fits(&of, true) => return Ok(export),
        Some(ExternType::Func(of)) => format!("its type is {of}"),
        Some(_) => "it is no function".to_owned(),
        None => "there is no such export".to_owned(),
    };
    Err(Error::NoExport {
        wanted: export.to_owned(),
        reason,
        callable: callable(module),
    })
}

/// The functions that could be asked for.
fn callable(module: &Module) -> Vec<String> {
    module
        .exports()
        .filter(|export| export.name() != INITIALIZE)
        .filter(|export| export.ty().func().is_some_and(|of| fits(of, true)))
        .map(|export| export.name().to_owned())
        .collect()
}

fn function(module: &Module, name: &str) -> Option<FuncType> {
    module.get_export(name)?.func().cloned()
}

/// Whether a function takes nothing, and returns nothing or, if it may, an exit code.
fn fits(function: &FuncType, code: bool) -> bool {
    let mut results = function.results();
    let returns = match (results.next(), results.next()) {
        (None, _) => true,
        (Some(ValType::I32), None) => code,
        (Some(_), _) => false,
    };
    returns && function.params().len() == 0
}
