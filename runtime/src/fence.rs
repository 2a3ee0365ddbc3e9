//! Stopping guests that compute, without a check in their code: for a moment the code of a program may
//! not be accessed.
//!
//! ```text
//! order ─► fence up: mprotect(text, NONE)
//!            each thread in this code faults at its next instruction, or on its way back from the host
//!              its guest is killed          ─► goes on in the landing, which traps
//!              its guest is paused          ─► stays here until it may go on
//!              its guest may run            ─► waits for the fence to come down
//! fence down: mprotect(text, READ | EXEC)
//! ```
//!
//! Nothing is left to chance, as it is with a signal that asks where a thread is: whatever a guest does, a
//! computation, a call into the host, a copy of memory that wasmtime does for it, its next instruction of
//! its own is one it may not execute. A fence is up for a few milliseconds at most; other guests of the
//! same program wait that long.
//!
//! Why this is sound, with wasmtime 48 on x86-64:
//!
//! - wasmtime sets the protection of code once, when it is loaded, and unmaps it with the last
//!   [`Module`](wasmtime::Module) or [`Component`](wasmtime::component::Component) that has it; a
//!   fence has one.
//! - Code that may not be accessed cannot be executed. Code that may be read can be, where memory has no such
//!   protection: processors on which NX is switched off, User-Mode Linux. Nobody reads it
//!   meanwhile: what traps and frames are looked up in are other sections, on pages of their own as the
//!   text is whole pages, and of the instructions that a guest stands at we read the artifact's file.
//! - A fault is ours if the instruction is in this code and so is the address that could not be accessed: it is
//!   the instruction itself, or a constant or jump table that the compiler has put among the code. Guests
//!   access nothing else there. It comes to us first, by `Store::set_signal_handler`, with the thread's registers;
//!   the handler touches atomics, reads a file and sleeps in `futex`, nothing else.
//! - Waiting in a handler leaves the registers as they were. The guest notices nothing.
//! - Going on in the landing is a call to a function whose only instruction traps. wasmtime ends a trap
//!   by a jump to the frame that entered the guest, which it has stored in the store when it did; what is
//!   in between is dropped unseen. So this may be done wherever that frame is stored and stays: in the
//!   functions of the program and where these leave for the host, but not where the host enters, which is
//!   told by the symbols of the artifact ([`Divertible`]). The frames are walked, for the backtrace, by
//!   the frame pointer: wasmtime compiles all of these functions with one, and the call leaves it alone.
//!   It is the function's own or its caller's, and either is a frame that is whole, but for the moment
//!   in which a function moves its frame ([`moves_frame`]): that one is let go on.
//! - A trap comes back from every host function that called the guest (what wasmtime itself does for
//!   the component model does so, and nothing else here calls guests), so the code that called the host runs
//!   on as little as the code that was stopped.
//! - After a kill no instance of the store runs again: the store is dropped. To drop a guest that waits in the
//!   host runs some of its code once more, on its way out: see `Guarded` in `crate::interrupt`.
//! - What the kernel refuses, as it does when the process has as many mappings as it may have and one
//!   is to be split, is tried again: a fence that does not come down would stop guests that nobody meant.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::mm::{MprotectFlags, mprotect};
use rustix::thread::futex;

use crate::Error;
use crate::divertible::{Divertible, MOVE, moves_frame};
use crate::landing::Landing;
use crate::mapped::Mapped;

/// What the kernel protects at a time, on the processor that fences are for.
const PAGE: usize = 4096;

/// How long after a refusal of the kernel's it is asked again.
const RETRY: Duration = Duration::from_millis(1);

/// The fence of one artifact. All guests that run it share it.
pub(crate) struct Fence {
    mapped: Mapped,
    /// Where the text is in the file that the code was mapped from.
    begin: u64,
    text: Range<usize>,
    landing: Landing,
    divertible: OnceLock<Divertible>,
    /// 1 while the text is not accessible. Threads wait for a change of it.
    up: AtomicU32,
    /// Held by whoever has the fence up.
    raised: Mutex<()>,
}

/// Where a thread meets a fence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    /// The instruction that it cannot execute.
    pub(crate) pc: usize,
    /// Its stack pointer.
    pub(crate) sp: usize,
    /// Its frame pointer.
    pub(crate) fp: usize,
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("text", &self.text).finish()
    }
}

impl Fence {
    /// The fence of the code of `mapped`.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the text shares a page with something else.
    pub(crate) fn new(mapped: Mapped, landing: Landing) -> Result<Self, Error> {
        let code = mapped.code();
        let text = code.text().as_ptr_range();
        let text = text.start.addr()..text.end.addr();
        if !text.start.is_multiple_of(PAGE) || !text.end.is_multiple_of(PAGE) {
            return Err(Error::Engine {
                reason: "the machine code of an artifact is not whole pages".to_owned(),
            });
        }
        Ok(Self {
            begin: (text.start - code.image().as_ptr().addr()) as u64,
            text,
            mapped,
            landing,
            divertible: OnceLock::new(),
            up: AtomicU32::new(0),
            raised: Mutex::new(()),
        })
    }

    /// What it stands around.
    pub(crate) fn mapped(&self) -> &Mapped {
        &self.mapped
    }

    /// Whether `pc` is in the code.
    pub(crate) fn contains(&self, pc: usize) -> bool {
        self.text.contains(&pc)
    }

    /// Where to go on from `spot` to trap, if that can be done from there.
    pub(crate) fn landing_from(&self, spot: Spot) -> Option<usize> {
        // Made before the fence was up for the first time; without it nobody gets here.
        let divertible = self.divertible.get()?;
        let offset = spot.pc - self.text.start;
        let moving = spot.sp == spot.fp && self.moves_frame_at(offset);
        (divertible.contains(offset) && !moving).then(|| self.landing.address())
    }

    /// Whether the instruction at this offset of the text may be one that moves a frame.
    fn moves_frame_at(&self, offset: usize) -> bool {
        let mut code = [0; MOVE];
        // The file is longer than its text: it is read whole, or not at all.
        let read = rustix::io::pread(self.mapped.file(), &mut code, self.begin + offset as u64);
        read != Ok(MOVE) || moves_frame(code)
    }

    /// Keeps every thread from accessing the code during `meanwhile`, if it is still wanted when it is
    /// this caller's turn: if `word` is `value`. Who is not `patient` does nothing while it is another's.
    pub(crate) fn raise(
        &self,
        patient: bool,
        word: &AtomicU32,
        value: u32,
        meanwhile: impl FnOnce(),
    ) {
        let _raised = match self.raised.try_lock() {
            Ok(raised) => raised,
            Err(TryLockError::Poisoned(raised)) => raised.into_inner(),
            Err(TryLockError::WouldBlock) if !patient => return,
            Err(TryLockError::WouldBlock) => {
                self.raised.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        if word.load(SeqCst) != value {
            return;
        }
        self.divertible
            .get_or_init(|| Divertible::of(self.mapped.code().image(), self.text.len()));
        self.up.store(1, SeqCst);
        // A part of it may be up when it fails.
        if self.protect(MprotectFlags::empty()).is_ok() {
            meanwhile();
        }
        while self
            .protect(MprotectFlags::READ | MprotectFlags::EXEC)
            .is_err()
        {
            // Guests that nobody meant stand still; those that end have mappings to give back.
            wait(&self.up, 1, Some(RETRY));
        }
        self.up.store(0, SeqCst);
        wake(&self.up);
    }

    /// Waits until the fence is down. Async-signal-safe.
    pub(crate) fn wait_down(&self) {
        while self.up.load(SeqCst) == 1 {
            wait(&self.up, 1, None);
        }
    }

    #[allow(unsafe_code, reason = "changing a protection has no safe interface")]
    fn protect(&self, flags: MprotectFlags) -> rustix::io::Result<()> {
        // SAFETY: the range is the text of `self.mapped`, which keeps it mapped, whole pages of it as
        // wasmtime itself protects it. Nobody writes to it, or reads it but who executes it; who does that
        // meanwhile faults, and is looked after by `crate::interrupt`: every store that runs this code
        // is made by `Artifact::prepare` and has its handler.
        unsafe { mprotect(self.text.start as *mut _, self.text.len(), flags) }
    }
}

/// Sleeps while `word` is `value`; may return at any time. Async-signal-safe, and leaves `errno` alone.
pub(crate) fn wait(word: &AtomicU32, value: u32, time: Option<Duration>) {
    let time = time.map(|time| Timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    });
    // EAGAIN, EINTR and ETIMEDOUT are all the same to callers, who look again.
    let _looked = futex::wait(word, futex::Flags::PRIVATE, value, time.as_ref());
}

/// Wakes whoever sleeps because of `word`. Async-signal-safe.
pub(crate) fn wake(word: &AtomicU32) {
    // It fails for a bad address only.
    let _woken = futex::wake(word, futex::Flags::PRIVATE, i32::MAX.cast_unsigned());
}
