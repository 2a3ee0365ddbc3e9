//! A process that has as many mappings as it may have. Alone in its process, which it starves.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

#[path = "all/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fixture;
#[path = "all/locate.rs"]
mod locate;
#[path = "all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use fixture::{Fixture, args, start};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasi_runtime::Outcome;

const PAGE: usize = 4096;

/// A reserved part of the address space, of which every second page can be made a mapping of its own.
struct Reserve {
    at: usize,
    pages: usize,
}

impl Reserve {
    #[allow(unsafe_code, reason = "mapping has no safe interface")]
    fn new(pages: usize) -> Self {
        // SAFETY: a new mapping, which nobody uses as memory.
        let at = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                pages * PAGE,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let at = at.unwrap().addr();
        Self { at, pages }
    }

    /// Makes one page a mapping of its own; `false` when there may be no more.
    #[allow(unsafe_code, reason = "mapping has no safe interface")]
    fn split(&self, page: usize) -> bool {
        assert!(page < self.pages, "the reserve is too small");
        // SAFETY: a page of the reserve, which nobody uses as memory.
        unsafe { mprotect((self.at + page * PAGE) as *mut _, PAGE, MprotectFlags::READ) }.is_ok()
    }

    #[allow(unsafe_code, reason = "mapping has no safe interface")]
    fn release(&self) {
        // SAFETY: the reserve, which nobody uses as memory.
        unsafe { munmap(self.at as *mut _, self.pages * PAGE) }.unwrap();
    }
}

/// While its code is one mapping with what is around it somebody else takes the mapping that this has set
/// free, and the fence cannot come down.
#[test]
fn a_fence_comes_down_when_it_can() {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let reserve = Reserve::new(most.trim().parse::<usize>().unwrap() * 2);
    let artifact = Fixture::new().wat(&wasm::ready_then(wasm::SPIN));
    let [victim, neighbour] = [(); 2].map(|()| start(&artifact, args(["guest"])));
    victim.line();
    neighbour.line();
    let interrupter = victim.interrupter.clone();
    let (full, over, taken) = (
        AtomicBool::new(false),
        AtomicBool::new(false),
        AtomicUsize::new(0),
    );
    // From "full" to "over" nobody allocates anything: the threads are there already.
    let spin = |until: &AtomicBool| {
        while !until.load(SeqCst) {
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            spin(&full);
            interrupter.kill();
        });
        scope.spawn(|| {
            let mut page = 0;
            while reserve.split(page) {
                page += 2;
            }
            full.store(true, SeqCst);
            while !over.load(SeqCst) {
                if reserve.split(page) {
                    page += 2;
                    taken.fetch_add(1, SeqCst);
                }
            }
        });
        spin(&full);
        let begun = Instant::now();
        while taken.load(SeqCst) == 0 && begun.elapsed() < Duration::from_secs(20) {
            std::hint::spin_loop();
        }
        over.store(true, SeqCst);
        reserve.release();
    });
    assert!(
        taken.load(SeqCst) > 0,
        "nothing was to be had while the fence was up"
    );
    assert_eq!(victim.end().outcome, Outcome::Killed);
    assert_eq!(neighbour.kill().outcome, Outcome::Killed);
}
