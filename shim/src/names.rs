//! Which code looks up names.
//!
//! A guest's lookups go through the C library on its container's thread, so that they read the
//! container's own `/etc/hosts` and `/etc/resolv.conf`. But the C library would also read the
//! container's `/etc/nsswitch.conf`, and load the libraries that it names: native code of the image, in
//! our process. So the two methods that glibc has built in (2.34 and newer) are set for good before
//! any thread starts, as `nsswitch.conf(5)` of the host has no say then either.

use std::ffi::{CStr, c_char, c_int};

/// Methods that need no library: `/etc/hosts`, then the servers of `/etc/resolv.conf`.
const METHODS: &CStr = c"files dns";

#[allow(
    unsafe_code,
    reason = "the C library's own function, which no crate wraps"
)]
unsafe extern "C" {
    /// Sets the methods of a database of names (glibc `nss/nss_database.c`).
    fn __nss_configure_lookup(database: *const c_char, methods: *const c_char) -> c_int;
}

/// Decides it for this process. To be called while there is one thread.
///
/// # Errors
///
/// What the C library says; lookups must not be allowed then.
#[allow(
    unsafe_code,
    reason = "the C library's own function, which no crate wraps"
)]
pub fn pin() -> std::io::Result<()> {
    // SAFETY: both arguments are C strings that live for ever, and nothing looks up names meanwhile, as
    // there is one thread.
    match unsafe { __nss_configure_lookup(c"hosts".as_ptr(), METHODS.as_ptr()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
