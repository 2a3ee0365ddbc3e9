//! Waiting for a condition somebody else brings about.
//!
//! Nothing in these tests is right "after a while": each wait names what it waits for, looks at it, and
//! when its deadline passes says what it saw last.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two looks. Short enough not to show in a measurement, long enough to leave the
/// two cores to what is being waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// What one look found.
pub type Look<T> = std::result::Result<T, String>;

/// Looks until `look` returns a value.
///
/// # Errors
///
/// When `within` has passed; the error carries the last status that `look` gave.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Look<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(status) if start.elapsed() >= within => {
                bail!("{what}: not within {within:?}; last status: {status}")
            }
            Err(_) => pause(),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the one pause between two looks at a condition with a deadline"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_tells_the_last_status() {
        let error = until::<()>("a pig flies", Duration::ZERO, || {
            Err("still grounded".into())
        });
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("a pig flies") && text.contains("still grounded"),
            "{text}"
        );
    }
}
