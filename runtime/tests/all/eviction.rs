//! The bound on the cache: what was not used for the longest time goes, and nobody notices but by
//! compiling again.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use wasi_runtime::{Guest, Loaded, Origin, Outcome};

use crate::cache_folder::{entry, leftovers};
use crate::fixture::{Fixture, start, wasm_file};
use crate::wasm;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Exits with `code`; all of one length.
fn program(code: u8) -> Vec<u8> {
    assert!(code < 64, "one byte of LEB128");
    wat::parse_str(wasm::start(&format!("(call $exit (i32.const {code}))"))).unwrap()
}

/// Loads a program into a cache of `limit` bytes, and runs it.
fn load(fixture: &Fixture, code: u8, limit: u64) -> Origin {
    let cache = fixture.open_cache().unwrap().limit(limit);
    let loaded = cache.load(&fixture.engine, &wasm_file(&program(code)));
    let loaded = loaded.unwrap();
    runs(&loaded, code);
    loaded.origin
}

#[track_caller]
fn runs(loaded: &Loaded, code: u8) {
    let ran = start(&loaded.artifact, Guest::default()).end();
    assert_eq!(ran.outcome, Outcome::Exited(code.into()), "{ran:?}");
}

/// How large all entries are; there may be others than the programs'.
fn total(fixture: &Fixture) -> u64 {
    let entries = fs::read_dir(fixture.path("cache")).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

/// Notes that the entry of a program was used some time ago.
fn used(fixture: &Fixture, code: u8, ago: Duration) {
    let entry = File::open(entry(fixture, &program(code))).unwrap();
    entry.set_modified(SystemTime::now() - ago).unwrap();
}

/// When an entry was used, as far as is noted.
fn noted(fixture: &Fixture, code: u8) -> SystemTime {
    let metadata = fs::metadata(entry(fixture, &program(code))).unwrap();
    metadata.modified().unwrap()
}

fn exists(fixture: &Fixture, code: u8) -> bool {
    entry(fixture, &program(code)).exists()
}

#[test]
fn the_least_recently_used_goes_first() {
    let fixture = Fixture::new();
    for code in 0..4 {
        load(&fixture, code, u64::MAX);
        used(&fixture, code, HOUR * (10 - u32::from(code)));
    }
    // The oldest is used again, so that another is the oldest now.
    assert_eq!(load(&fixture, 0, 0), Origin::Mapped);
    let size = fs::metadata(entry(&fixture, &program(0))).unwrap().len();
    // There is room for one less than there are, and one is added.
    let limit = total(&fixture) - size;
    load(&fixture, 5, limit);
    let left: Vec<u8> = (0..6).filter(|code| exists(&fixture, *code)).collect();
    assert_eq!(left, [0, 3, 5]);
    assert!(total(&fixture) <= limit);
    assert_ne!(load(&fixture, 1, u64::MAX), Origin::Mapped);
}

#[test]
fn a_use_is_noted_once_an_hour() {
    let fixture = Fixture::new();
    load(&fixture, 1, u64::MAX);
    used(&fixture, 1, MINUTE * 50);
    let lately = noted(&fixture, 1);
    assert_eq!(load(&fixture, 1, u64::MAX), Origin::Mapped);
    assert_eq!(noted(&fixture, 1), lately);
    used(&fixture, 1, MINUTE * 70);
    load(&fixture, 1, u64::MAX);
    assert!(noted(&fixture, 1).elapsed().unwrap() < MINUTE);
}

#[test]
fn a_use_in_the_future_is_noted_again() {
    let fixture = Fixture::new();
    load(&fixture, 1, u64::MAX);
    let entry = File::open(entry(&fixture, &program(1))).unwrap();
    let before = SystemTime::now();
    // The clock was turned back since.
    entry.set_modified(before + 2 * HOUR).unwrap();
    load(&fixture, 1, u64::MAX);
    assert!(noted(&fixture, 1) < before + HOUR);
}

#[test]
fn what_was_just_made_stays_however_large() {
    let fixture = Fixture::new();
    assert_ne!(load(&fixture, 1, 0), Origin::Mapped);
    assert_eq!(load(&fixture, 1, 0), Origin::Mapped);
    load(&fixture, 2, 0);
    assert!(!exists(&fixture, 1) && exists(&fixture, 2));
}

#[test]
fn an_entry_that_is_gone_still_runs() {
    let fixture = Fixture::new();
    let loaded = fixture.load(&program(1)).unwrap();
    load(&fixture, 2, 0);
    assert!(!exists(&fixture, 1));
    runs(&loaded, 1);
}

#[test]
fn who_loads_while_others_evict_notices_nothing() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let fixture = &fixture;
            scope.spawn(move || {
                for round in 0..6 {
                    load(fixture, (thread + round) % 4, 0);
                }
            });
        }
    });
    // Who evicted last left its own, unless another one had evicted that before.
    let left = (0..4).filter(|code| exists(&fixture, *code));
    assert!(left.count() <= 1);
    assert_eq!(leftovers(&fixture), [""; 0]);
}

#[test]
fn what_dead_processes_left_goes_and_what_is_being_made_stays() {
    let fixture = Fixture::new();
    let file = |name: &str| File::create(fixture.path("cache").join(name)).unwrap();
    file("dead.tmp");
    file("dead.lock");
    file("died-before-it-began.lock");
    file("alive.tmp");
    let lock = file("alive.lock");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    load(&fixture, 1, u64::MAX);
    assert_eq!(leftovers(&fixture), ["alive.lock", "alive.tmp"]);
}
