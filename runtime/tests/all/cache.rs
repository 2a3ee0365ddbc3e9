//! The artifact cache: compiled once, found whole or compiled again, and closed to others.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Barrier;

use sha2::{Digest as _, Sha256};
use wasi_runtime::{Error, Guest, Loaded, Origin, Outcome};

use crate::fixture::{Fixture, digest, start, wasm_file};
use crate::{locate, wasm};

/// Exits with 42.
fn program() -> Vec<u8> {
    wat::parse_str(wasm::start("(call $exit (i32.const 42))")).unwrap()
}

#[track_caller]
fn runs(loaded: &Loaded) {
    let ran = start(&loaded.artifact, Guest::default()).end();
    assert_eq!(ran.outcome, Outcome::Exited(42), "{ran:?}");
}

/// What was wrong with the entry that was there.
#[track_caller]
fn replaced(loaded: &Loaded) -> Option<&str> {
    let Origin::Compiled { replaced, .. } = &loaded.origin else {
        panic!("it should have been compiled: {loaded:?}");
    };
    replaced.as_deref()
}

/// How often the script that keeps `runs` compiled the program.
fn compilations(fixture: &Fixture) -> usize {
    let runs = fs::read_to_string(fixture.path("runs")).unwrap();
    let ours = digest(&program());
    runs.lines().filter(|line| *line == ours).count()
}

/// Puts other bytes in the place of the entry at `path`.
fn put(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_first_load_compiles_and_the_second_maps() {
    let fixture = Fixture::new();
    let first = fixture.load(&program()).unwrap();
    assert_eq!(replaced(&first), None);
    runs(&first);
    let second = fixture.load(&program()).unwrap();
    assert_eq!(second.origin, Origin::Mapped);
    runs(&second);
}

#[test]
fn a_mapped_entry_needs_no_compiler() {
    let mut fixture = Fixture::with_script(r#"exec "$REAL" "$@""#);
    fixture.load(&program()).unwrap();
    fs::remove_file(fixture.path("compiler.sh")).unwrap();
    fixture.engine = wasi_runtime::Engine::new().unwrap();
    let loaded = fixture.load(&program()).unwrap();
    assert_eq!(loaded.origin, Origin::Mapped);
    runs(&loaded);
}

#[test]
fn what_was_compiled_is_found_by_the_digest_of_its_wasm() {
    let fixture = Fixture::new();
    let wasm = program();
    let sha256 = Sha256::digest(&wasm).into();
    let find = || {
        let cache = fixture.open_cache().unwrap();
        cache.find(&fixture.engine, &sha256).unwrap()
    };
    assert!(find().is_none());
    fixture.load(&wasm).unwrap();
    let ran = start(&find().unwrap(), Guest::default()).end();
    assert_eq!(ran.outcome, Outcome::Exited(42), "{ran:?}");
    put(&fixture.entry_of(&wasm), b"damaged");
    assert!(find().is_none());
}

#[test]
fn each_content_has_an_entry_of_its_own() {
    let fixture = Fixture::new();
    fixture.load(&program()).unwrap();
    let other = wat::parse_str(wasm::start("")).unwrap();
    assert!(!fixture.entry_of(&other).exists());
    assert_eq!(replaced(&fixture.load(&other).unwrap()), None);
    assert!(fixture.entry_of(&other).exists());
}

#[test]
fn an_entry_can_only_be_read_and_by_its_owner() {
    let fixture = Fixture::new();
    fixture.load(&program()).unwrap();
    let metadata = fs::metadata(fixture.entry_of(&program())).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o400);
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    fixture.entry();
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let fixture = Fixture::new();
    fixture.load(&program()).unwrap();
    let whole = fs::read(fixture.entry_of(&program())).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("empty", vec![]),
        ("cut by a byte", whole[..whole.len() - 1].to_vec()),
        ("cut in half", whole[..whole.len() / 2].to_vec()),
        ("cut to a page", whole[..4096.min(whole.len())].to_vec()),
        ("code changed", flipped(whole.len() / 2)),
        ("digest changed", flipped(whole.len() - 20)),
        ("magic changed", flipped(whole.len() - 1)),
        ("garbage", b"garbage".repeat(1000)),
        ("not even sealed", program()),
        ("sealed garbage", sealed(b"garbage".repeat(1000))),
        ("sealed nothing", sealed(vec![])),
        ("another architecture", sealed(foreign(&whole))),
    ] {
        put(&fixture.entry_of(&program()), &bytes);
        let loaded = fixture.load(&program()).unwrap();
        assert!(replaced(&loaded).is_some(), "{what}");
        runs(&loaded);
        assert_eq!(
            fs::read(fixture.entry_of(&program())).unwrap(),
            whole,
            "{what}"
        );
        let again = fixture.load(&program()).unwrap();
        assert_eq!(again.origin, Origin::Mapped, "{what}");
    }
}

/// With the trailer of a whole entry.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes.extend_from_slice(b"WASICWA1");
    bytes
}

/// The artifact in `entry`, for a processor that nobody has: with another letter in the target's name.
fn foreign(entry: &[u8]) -> Vec<u8> {
    let mut artifact = entry[..entry.len() - 40].to_vec();
    let target = format!("{}-unknown-linux", std::env::consts::ARCH).into_bytes();
    let at = artifact
        .windows(target.len())
        .position(|bytes| bytes == target)
        .expect("an artifact names its target");
    artifact[at] = b'z';
    artifact
}

#[test]
fn damage_does_not_reach_a_guest_that_runs() {
    let fixture = Fixture::new();
    let text = wasm::module(
        r#"(data (i32.const 64) "ready\n")
        (func (export "_start")
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            (drop (call $read (i32.const 64) (i32.const 1)))
            (call $exit (i32.const 42)))"#,
    );
    let artifact = fixture.wat(&text);
    let (theirs, ours) = crate::fixture::pipe();
    let guest = Guest {
        stdin: wasi_runtime::Input::from_fd(theirs).unwrap(),
        ..Guest::default()
    };
    let running = start(&artifact, guest);
    assert_eq!(running.line(), "ready\n");
    let wasm = wat::parse_str(&text).unwrap();
    put(&fixture.entry_of(&wasm), b"");
    let again = fixture.load(&wasm).unwrap();
    assert!(replaced(&again).is_some());
    drop(ours);
    assert_eq!(running.end().outcome, Outcome::Exited(42));
}

#[test]
fn a_folder_open_to_others_is_refused() {
    let fixture = Fixture::new();
    for open in [0o755, 0o770, 0o701, 0o1777] {
        fixture.permit(open);
        let error = fixture.open_cache().unwrap_err();
        let Error::CacheOpen { mode, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(mode, open);
        assert!(!error.is_guest_fault());
    }
    fixture.permit(0o700);
    fixture.open_cache().unwrap();
}

#[test]
fn a_folder_of_another_user_is_refused() {
    let us = rustix::process::geteuid().as_raw();
    let error = if us == 0 {
        let fixture = Fixture::new();
        std::os::unix::fs::chown(fixture.path("cache"), Some(65534), None).unwrap();
        fixture.open_cache().unwrap_err()
    } else {
        // Who is not root cannot give a folder away, but there is one of root's.
        let root = crate::fixture::open_folder(Path::new("/"));
        wasi_runtime::Cache::new(root, wasi_runtime::Compiler::new(locate::compiler())).unwrap_err()
    };
    let Error::CacheOpen { uid, wanted, .. } = error else {
        panic!("{error:?}");
    };
    assert_ne!(uid, us);
    assert_eq!(wanted, us);
}

#[test]
fn who_comes_at_once_compiles_once() {
    let fixture = Fixture::with_script(r#"echo "$1" >> "$HERE/runs"; exec "$REAL" "$@""#);
    let barrier = Barrier::new(8);
    let origins: Vec<Origin> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    // A `Cache` each: as far as locks go, another process.
                    let loaded = fixture.load(&program()).unwrap();
                    runs(&loaded);
                    loaded.origin
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mapped = origins.iter().filter(|origin| **origin == Origin::Mapped);
    assert_eq!(mapped.count(), 7);
    assert_eq!(compilations(&fixture), 1);
    fixture.entry();
}

#[test]
fn who_waited_for_a_compilation_that_failed_tries_again() {
    let fixture = Fixture::with_script(
        r#"echo "$1" >> "$HERE/runs"
        if mkdir "$HERE/failed-$1" 2>/dev/null; then echo no >&2; exit 1; fi
        exec "$REAL" "$@""#,
    );
    // What the engine itself needs is not what is counted here.
    drop(fixture.load(b""));
    let barrier = Barrier::new(4);
    let failed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    fixture.load(&program()).is_err()
                })
            })
            .collect();
        let failed = threads.into_iter().map(|thread| thread.join().unwrap());
        failed.filter(|failed| *failed).count()
    });
    assert_eq!(failed, 1);
    assert_eq!(compilations(&fixture), 2);
    fixture.entry();
}

#[test]
fn what_a_dead_process_left_is_replaced() {
    let fixture = Fixture::new();
    fixture.load(&program()).unwrap();
    let entry = fixture.entry_of(&program());
    fs::rename(&entry, entry.with_extension("tmp")).unwrap();
    File::create(entry.with_extension("lock")).unwrap();
    let loaded = fixture.load(&program()).unwrap();
    assert_eq!(replaced(&loaded), None);
    runs(&loaded);
    assert!(entry.exists());
    fixture.entry();
}

#[test]
fn a_link_in_the_place_of_an_entry_is_not_followed() {
    let fixture = Fixture::new();
    fixture.load(&program()).unwrap();
    let entry = fixture.entry_of(&program());
    fs::rename(&entry, fixture.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(fixture.path("elsewhere"), &entry).unwrap();
    let error = fixture.load(&program()).unwrap_err();
    assert!(matches!(error, Error::Cache { .. }), "{error:?}");
}

#[test]
fn the_position_in_the_wasm_file_does_not_matter() {
    let fixture = Fixture::new();
    let mut wasm = wasm_file(b"");
    wasm.write_all(&program()).unwrap();
    let mut magic = [0; 4];
    wasm.read_exact_at(&mut magic, 0).unwrap();
    assert_eq!(&magic, b"\0asm");
    let loaded = fixture.open_cache().unwrap().load(&fixture.engine, &wasm);
    runs(&loaded.unwrap());
}
