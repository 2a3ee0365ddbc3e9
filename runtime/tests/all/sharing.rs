//! One copy of a program's code in a process, for as long as somebody uses it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use wasi_runtime::{Cache, Engine, Guest, Loaded, Origin, Outcome};

use crate::fixture::{Fixture, digest, start, wasm_file};
use crate::wasm;

/// Exits with 42.
fn program() -> Vec<u8> {
    wat::parse_str(wasm::start("(call $exit (i32.const 42))")).unwrap()
}

fn load(fixture: &Fixture, cache: &Cache) -> Loaded {
    let loaded = cache.load(&fixture.engine, &wasm_file(&program()));
    loaded.unwrap()
}

#[track_caller]
fn runs(loaded: &Loaded) {
    let ran = start(&loaded.artifact, Guest::default()).end();
    assert_eq!(ran.outcome, Outcome::Exited(42), "{ran:?}");
}

/// How often this process has mapped the code of the program from this fixture's cache, be its entry still
/// there or not.
fn copies(fixture: &Fixture) -> usize {
    mappings(fixture, &program(), " r-xp ")
}

/// How many mappings with this protection there are of the entry of `wasm`.
fn mappings(fixture: &Fixture, wasm: &[u8], protection: &str) -> usize {
    let folder = fixture.path("cache");
    let name = format!("{}/{}", folder.display(), digest(wasm));
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines();
    lines
        .filter(|line| line.contains(&name) && line.contains(protection))
        .count()
}

#[test]
fn guests_of_a_program_share_its_code_until_the_last_is_gone() {
    for epochs in [false, true] {
        let mut fixture = Fixture::new();
        if epochs {
            fixture.engine = Engine::with_epochs().unwrap();
        }
        let cache = fixture.open_cache().unwrap();
        let compiled = load(&fixture, &cache);
        assert_ne!(compiled.origin, Origin::Mapped);
        let mapped: Vec<_> = (0..5).map(|_| load(&fixture, &cache)).collect();
        assert!(mapped.iter().all(|loaded| loaded.origin == Origin::Mapped));
        assert_eq!(copies(&fixture), 1);
        runs(&compiled);
        drop(compiled);
        runs(&mapped[0]);
        assert_eq!(copies(&fixture), 1);
        // A guest that is prepared has it, too.
        let prepared = mapped[0].artifact.prepare(Guest::default()).unwrap();
        drop(mapped);
        runs(&load(&fixture, &cache));
        assert_eq!(copies(&fixture), 1);
        drop(prepared);
        assert_eq!(copies(&fixture), 0);
        runs(&load(&fixture, &cache));
    }
}

#[test]
fn an_engine_does_not_get_the_code_of_another() {
    let mut fixture = Fixture::new();
    let cache = fixture.open_cache().unwrap();
    let first = load(&fixture, &cache);
    fixture.engine = Engine::new().unwrap();
    let second = load(&fixture, &cache);
    assert_eq!(copies(&fixture), 2);
    runs(&first);
    runs(&second);
}

#[test]
fn who_comes_at_once_shares_in_the_end() {
    let fixture = Fixture::new();
    let cache = fixture.open_cache().unwrap();
    drop(load(&fixture, &cache));
    let barrier = Barrier::new(6);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let loaded = load(&fixture, &cache);
                    runs(&loaded);
                    loaded
                })
            })
            .collect();
        let loaded: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(copies(&fixture), 1);
        loaded.iter().for_each(runs);
    });
    assert_eq!(copies(&fixture), 0);
}

#[test]
fn an_entry_that_was_replaced_or_evicted_is_not_what_runs() {
    let fixture = Fixture::new();
    let cache = fixture.open_cache().unwrap();
    let entry = fixture.entry_of(&program());
    let first = load(&fixture, &cache);
    let whole = fs::read(&entry).unwrap();

    fs::remove_file(&entry).unwrap();
    let made_again = load(&fixture, &cache);
    let Origin::Compiled { replaced: None, .. } = made_again.origin else {
        panic!("{made_again:?}");
    };
    assert_eq!(copies(&fixture), 2);

    fs::remove_file(&entry).unwrap();
    fs::write(&entry, &whole[..whole.len() - 1]).unwrap();
    let repaired = load(&fixture, &cache);
    let Origin::Compiled {
        replaced: Some(_), ..
    } = repaired.origin
    else {
        panic!("{repaired:?}");
    };

    // In place: of another length it is not trusted.
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o600)).unwrap();
    let mut file = OpenOptions::new().append(true).open(&entry).unwrap();
    file.write_all(b"more").unwrap();
    let repaired_again = load(&fixture, &cache);
    let Origin::Compiled {
        replaced: Some(_), ..
    } = repaired_again.origin
    else {
        panic!("{repaired_again:?}");
    };
    assert_eq!(fs::read(&entry).unwrap(), whole);
    for loaded in [&first, &made_again, &repaired, &repaired_again] {
        runs(loaded);
    }
}

#[test]
fn a_guests_first_memory_is_a_private_mapping_of_its_artifact() {
    let fixture = Fixture::new();
    let text = wasm::ready_then(wasm::SPIN);
    let program = wat::parse_str(&text).unwrap();
    let artifact = fixture.artifact(&program);
    assert_eq!(mappings(&fixture, &program, " rw-p "), 0);
    let running = [(); 3].map(|()| start(&artifact, Guest::default()));
    for guest in &running {
        assert_eq!(guest.line(), "ready\n");
    }
    assert_eq!(mappings(&fixture, &program, " rw-p "), 3);
    for guest in running {
        assert_eq!(guest.kill().outcome, Outcome::Killed);
    }
}
