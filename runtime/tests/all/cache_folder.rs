//! What is in a fixture's cache.

use std::path::PathBuf;

use crate::fixture::Fixture;

/// Where the entry of `wasm` is, or would be. There may be others: of what the engine itself needs.
pub(crate) fn entry(fixture: &Fixture, wasm: &[u8]) -> PathBuf {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(wasm);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!(
        "{digest}-{}.cwasm",
        wasi_settings::fingerprint(wasi_settings::Interruption::BEST)
    );
    fixture.path("cache").join(name)
}

/// What is no entry, sorted.
pub(crate) fn leftovers(fixture: &Fixture) -> Vec<String> {
    let names = std::fs::read_dir(fixture.path("cache")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.ends_with(".cwasm")).collect();
    names.sort();
    names
}
