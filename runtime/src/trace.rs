//! How a trap is told: what happened, and where, by function and by offset in the wasm that people have.

use std::fmt::Write as _;

use wasmtime::{FrameInfo, WasmBacktrace};
use wasmtime_environ::demangle_function_name_or_index;

use crate::mapped::Mapped;

/// The cause of `error`, and the guest's frames if it was a trap of a guest that runs `mapped`.
///
/// It is not the error's own `Debug`, which has the host's stack in it when `RUST_BACKTRACE` is set. The frames are
/// written as wasmtime's `Display` of a backtrace writes them, but for the functions that the compiler added, which
/// are left out, and for the offsets, which are those in the wasm as it was.
pub(crate) fn of(error: &wasmtime::Error, mapped: &Mapped) -> String {
    let mut trace = format!("{}\n", error.root_cause());
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return trace;
    };
    trace.push_str("error while executing at wasm backtrace:\n");
    // What is mapped was read whole before it was.
    let positions = mapped.positions().ok();
    let place = |frame: &FrameInfo| Some((frame.module_offset()?, positions.as_ref()?));
    let old = |frame| place(frame).map(|(offset, positions)| positions.old(offset));
    let own = backtrace
        .frames()
        .iter()
        .filter(|frame| old(frame) != Some(None));
    for (number, frame) in own.enumerate() {
        write(&mut trace, number, frame, old(frame).flatten());
    }
    trace
}

fn write(trace: &mut String, number: usize, frame: &FrameInfo, offset: Option<usize>) {
    let offset = offset.map_or_else(String::new, |offset| format!("{offset:#8x} - "));
    let module = frame.module().name().unwrap_or("<unknown>");
    let mut function = String::new();
    // A string takes all that it is written.
    let _written = demangle_function_name_or_index(
        &mut function,
        frame.func_name(),
        frame.func_index() as usize,
    );
    let _written = writeln!(trace, "  {number:>3}: {offset}{module}!{function}");
}
