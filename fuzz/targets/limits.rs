//! A guest that grows its memories and tables, against arithmetic without bounds.

#![no_main]
#![allow(
    unsafe_code,
    reason = "`target!` makes the function that libFuzzer calls"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what must not fail and does is a finding"
)]

use arbitrary::Arbitrary;
use wasi_runtime::internals::limiter;
use wasmtime::ResourceLimiter as _;

/// Memories and tables of a guest, in turn.
const OBJECTS: usize = 6;

#[derive(Arbitrary, Debug)]
struct Guest {
    limit: Option<u64>,
    growths: Vec<Growth>,
}

#[derive(Arbitrary, Debug)]
struct Growth {
    object: u8,
    by: u64,
    maximum: Option<u64>,
    /// The kernel refuses what the limiter granted.
    fails: bool,
}

wasi_fuzz::target!(|guest: Guest| {
    // The largest number is no limit.
    let limit = guest.limit.filter(|limit| *limit < u64::MAX);
    let (mut limiter, usage) = limiter(limit);
    let mut sizes = [0usize; OBJECTS];
    // What was granted and failed stays counted.
    let (mut counted, mut peak) = (0u128, 0u128);
    for growth in guest.growths {
        let object = usize::from(growth.object) % OBJECTS;
        let (current, is_table) = (sizes[object], object % 2 == 1);
        let desired = current.saturating_add(usize::try_from(growth.by).unwrap());
        let maximum = growth
            .maximum
            .map(|maximum| usize::try_from(maximum).unwrap());
        let answer = if is_table {
            limiter.table_growing(current, desired, maximum)
        } else {
            limiter.memory_growing(current, desired, maximum)
        };
        let element = if is_table { 8 } else { 1 };
        let more = (desired - current) as u128 * element;
        let beyond_limit = |limit: u64| counted + more > u128::from(limit);
        match answer {
            Ok(false) => assert!(maximum.is_some_and(|maximum| desired > maximum)),
            Ok(true) => {
                assert!(!limit.is_some_and(beyond_limit));
                counted += more;
                peak = peak.max(counted);
                if !growth.fails {
                    sizes[object] = desired;
                }
            }
            Err(_) => assert!(limit.is_some_and(beyond_limit)),
        }
        if counted > u128::from(u64::MAX) / 8 {
            // No host has that, and sums beyond a u64 come next.
            break;
        }
        assert_eq!(u128::from(usage.memory()), counted);
        assert_eq!(u128::from(usage.peak()), peak);
    }
    drop(limiter);
    assert_eq!(usage.memory(), 0);
});
