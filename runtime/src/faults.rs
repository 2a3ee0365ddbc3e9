//! The handler of a store's faults: where a thread comes that meets the [`Fence`].
//!
//! wasmtime calls it for every SIGSEGV, SIGILL and SIGFPE of a thread inside of the store's guest, before
//! it looks itself; the thread stands still with its registers in the context, and goes on with what the
//! handler leaves there. Everything but the fence's faults is left to wasmtime.

use std::sync::Arc;

use wasmtime::Store;
#[cfg(target_arch = "x86_64")]
use wasmtime::unix::StoreExt as _;

use crate::fence::{Fence, Spot};
use crate::interrupt::Switch;

/// Makes guests of `store` obey `fence`, as `switch` is set.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "a signal handler cannot be safe in general")]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "registers have 64 bits here, as has usize"
)]
pub(crate) fn handle<T>(store: &mut Store<T>, fence: Arc<Fence>, switch: Arc<Switch>) {
    let handler = move |signal, info: *const libc::siginfo_t, context: *const libc::c_void| {
        if signal != libc::SIGSEGV {
            return false;
        }
        // SAFETY: wasmtime passes on what the kernel gave its SA_SIGINFO handler: both pointers are valid
        // until the handler returns, `info` is that of a SIGSEGV, which has an address, and nobody else
        // has the context.
        let (address, registers) = unsafe {
            let context = context.cast_mut().cast::<libc::ucontext_t>();
            ((*info).si_addr().addr(), &mut (*context).uc_mcontext.gregs)
        };
        let [rip, rsp, rbp] =
            [libc::REG_RIP, libc::REG_RSP, libc::REG_RBP].map(|register| register as usize);
        let [pc, sp, fp] = [rip, rsp, rbp].map(|register| registers[register] as usize);
        // Code that cannot be fetched, or a constant or jump table that is among it and cannot be read: a
        // protection changes page by page, and those may be on another one than the instruction.
        if !fence.contains(pc) || !fence.contains(address) {
            return false;
        }
        if let Some(landing) = switch.at_fence(&fence, Spot { pc, sp, fp }) {
            // As if there had been a call at `pc`: the stack is aligned, with the return address on it.
            let sp = (sp & !15) - size_of::<usize>();
            // SAFETY: `pc` is in a function of the guest, or one that it leaves by. Its stack is mapped
            // and writable well below its stack pointer: wasmtime's check of the stack in functions keeps
            // `async_stack_size - max_wasm_stack`, more than a megabyte, for the host. Code for x86-64 by
            // Cranelift keeps nothing below the stack pointer (no red zone).
            unsafe { *(sp as *mut usize) = pc };
            registers[rsp] = (sp as u64).cast_signed();
            registers[rip] = (landing as u64).cast_signed();
        }
        true
    };
    // SAFETY: the handler has to be async-signal-safe. It reads its arguments, loads and stores atomics,
    // searches a slice that nobody changes, and calls futex(2) and pread(2) by rustix, without `errno`, a lock
    // or the allocator. It does not panic: no arithmetic of it can overflow, as `pc` is in the text and the stack
    // is nowhere near address 0.
    unsafe { store.set_signal_handler(handler) };
}

/// Elsewhere no engine is made that has a fence (`Interruption::BEST`).
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn handle<T>(_: &mut Store<T>, _: Arc<Fence>, _: Arc<Switch>) {}
