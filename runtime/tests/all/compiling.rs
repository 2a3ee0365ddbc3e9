//! Compilations that fail: whose fault it is, in whose words, and that nothing is left of them.

use std::fs::{self, File};
use std::path::Path;

use wasi_runtime::Error;

use crate::fixture::Fixture;
use crate::wasm;

fn program() -> Vec<u8> {
    wat::parse_str(wasm::start("")).unwrap()
}

/// That a load of `wasm` which failed left neither an entry nor anything else.
#[track_caller]
fn nothing_is_left(fixture: &Fixture, wasm: &[u8]) {
    assert!(!fixture.entry_of(wasm).exists());
    let names = fixture.entries();
    assert!(
        names.iter().all(|name| name.ends_with(".cwasm")),
        "{names:?}"
    );
}

#[test]
fn a_compiler_that_fails_is_quoted_and_leaves_nothing() {
    let fixture = Fixture::with_script("echo half an artifact; echo out of luck >&2; exit 1");
    let error = fixture.load(&program()).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
    assert_eq!(error.to_string(), "cannot compile it: out of luck");
    nothing_is_left(&fixture, &program());
}

#[test]
fn a_compiler_that_is_killed_leaves_nothing() {
    let fixture = Fixture::with_script("echo half an artifact; kill -KILL $$");
    let error = fixture.load(&program()).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
    assert!(error.to_string().contains("signal: 9"), "{error}");
    nothing_is_left(&fixture, &program());
}

#[test]
fn a_compiler_that_is_missing_is_the_hosts_fault_and_leaves_nothing() {
    let fixture = Fixture::with_compiler("/no/such/compiler".into());
    let error = fixture.load(&program()).unwrap_err();
    assert!(matches!(error, Error::Compiler { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "cannot run the compiler /no/such/compiler"
    );
    assert!(!error.is_guest_fault());
    nothing_is_left(&fixture, &program());
}

#[test]
fn a_compiler_that_makes_nonsense_is_the_hosts_fault() {
    let fixture = Fixture::with_script("echo nonsense");
    let error = fixture.load(&program()).unwrap_err();
    assert!(matches!(error, Error::Engine { .. }), "{error:?}");
    assert!(!error.is_guest_fault());
}

#[test]
fn endless_words_of_a_compiler_are_cut() {
    let fixture = Fixture::with_script("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1");
    let error = fixture.load(&program()).unwrap_err();
    assert!(error.to_string().len() < 5000);
}

#[test]
fn the_compiler_is_handed_nothing_of_the_cache_but_the_file_it_fills() {
    let fixture = Fixture::with_script(
        r#"for fd in /proc/$$/fd/*; do readlink "$fd"; done > "$HERE/descriptors"
        exec "$REAL" "$@""#,
    );
    fixture.load(&program()).unwrap();
    let temporary = fixture.entry_of(&program()).with_extension("tmp");
    // Of the last run, which was the program's.
    let descriptors = fs::read_to_string(fixture.path("descriptors")).unwrap();
    let cache = fixture.path("cache");
    let mut handed = descriptors.lines().map(Path::new);
    assert!(
        handed.clone().any(|path| path == temporary),
        "{descriptors}"
    );
    assert!(
        handed.all(|path| path == temporary || !path.starts_with(&cache)),
        "{descriptors}"
    );
}

#[test]
fn wasm_that_changes_after_it_was_hashed_is_refused() {
    let fixture = Fixture::with_script(r#"printf x >> "$HERE/app.wasm"; exec "$REAL" "$@""#);
    let path = fixture.path("app.wasm");
    fs::write(&path, program()).unwrap();
    let error = fixture
        .open_cache()
        .unwrap()
        .load(&fixture.engine, &File::open(&path).unwrap())
        .unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
    assert!(
        error.to_string().contains("changed while it was read"),
        "{error}"
    );
    nothing_is_left(&fixture, &program());
}

#[test]
fn malformed_wasm_is_the_images_fault_in_the_compilers_words() {
    let fixture = Fixture::new();
    let cut = &program()[..40];
    for (wasm, words) in [
        (&b""[..], "unexpected end"),
        (&b"\x7fELF of a stranger"[..], "magic header"),
        (cut, "unexpected end"),
    ] {
        let error = fixture.load(wasm).unwrap_err();
        assert!(matches!(error, Error::Compile { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.is_guest_fault());
    }
    nothing_is_left(&fixture, &program());
}

#[test]
fn a_precompiled_artifact_in_the_place_of_wasm_is_refused() {
    let fixture = Fixture::new();
    fixture.load(&program()).unwrap();
    let entry = fs::read(fixture.entry_of(&program())).unwrap();
    let error = fixture.load(&entry[..entry.len() - 40]).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
}
