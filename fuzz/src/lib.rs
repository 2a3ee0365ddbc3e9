//! What the targets share: an input of libFuzzer becomes a value, and a panic a finding.

use std::sync::Once;

use arbitrary::{Arbitrary, Unstructured};

/// Makes the program of a target from a function of any [`Arbitrary`] value: `target!(|input: &[u8]| ...)`.
#[macro_export]
macro_rules! target {
    (|$input:ident: $type:ty| $body:block) => {
        #[doc = "libFuzzer calls it with every input."]
        #[doc = "# Safety"]
        #[doc = "As [`wasi_fuzz::bytes`]."]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn LLVMFuzzerTestOneInput(
            data: *const u8,
            length: usize,
        ) -> std::ffi::c_int {
            // SAFETY: libFuzzer passes the bytes of one input, which it keeps until this returns.
            let bytes = unsafe { $crate::bytes(data, length) };
            $crate::run(bytes, |$input: $type| $body)
        }
    };
}

/// The bytes that libFuzzer passes; for an empty input the pointer may be null.
///
/// # Safety
///
/// `data` is null, or points to `length` bytes that outlive `'a`.
#[allow(unsafe_code, reason = "libFuzzer's interface is C")]
#[must_use]
pub unsafe fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
    if data.is_null() {
        return &[];
    }
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(data, length) }
}

static START: Once = Once::new();

/// What Rust does before `main`, which here is libFuzzer's.
#[allow(
    unsafe_code,
    reason = "changing a signal's disposition has no safe interface"
)]
fn ignore_sigpipe() {
    // SAFETY: to ignore a signal installs no code that could run at a wrong time.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Calls `target` with the value of `bytes`. A panic ends the process as libFuzzer wants it: aborted, after
/// the message, so that it keeps the input.
pub fn run<'a, T: Arbitrary<'a>>(bytes: &'a [u8], target: impl FnOnce(T)) -> std::ffi::c_int {
    START.call_once(ignore_sigpipe);
    let Ok(input) = T::arbitrary_take_rest(Unstructured::new(bytes)) else {
        // Not to be kept in the corpus.
        return -1;
    };
    let target = std::panic::AssertUnwindSafe(|| target(input));
    if std::panic::catch_unwind(target).is_err() {
        std::process::abort();
    }
    0
}
