//! Programs of several components, composed by the compile child.

use wasi_runtime::{Composition, Error, Loaded, Origin, Part};

use sha2::{Digest as _, Sha256};

use crate::fixture::{Fixture, args, start, wasm_file};
use crate::locate;

fn real(name: &str) -> Vec<u8> {
    std::fs::read(locate::built(&format!("guests/{name}"), "make guests")).unwrap()
}

fn composition(parts: &[(&str, &[u8])]) -> Composition {
    let part = |(name, wasm): &(&str, &[u8])| Part {
        sha256: Sha256::digest(wasm).into(),
        size: wasm.len() as u64,
        name: (!name.is_empty()).then(|| (*name).to_owned()),
    };
    Composition::new(parts.iter().map(part).collect())
}

fn load(fixture: &Fixture, parts: &[(&str, &[u8])]) -> Result<Loaded, Error> {
    let bytes: Vec<u8> = parts.iter().flat_map(|(_, wasm)| wasm.to_vec()).collect();
    let file = wasm_file(&bytes);
    let cache = fixture.open_cache().unwrap();
    cache.load_composed(&fixture.engine, &composition(parts), &file, &mut |_| {})
}

/// Why the parts make no program.
fn refused(parts: &[(&str, &[u8])]) -> String {
    let error = load(&Fixture::new(), parts).unwrap_err();
    let Error::Compile { reason } = error else {
        panic!("{error:?}");
    };
    reason
}

/// Both are of the standard library, import the same of WASI and give each other a resource; the versions of
/// the interface between them differ.
#[test]
fn a_program_and_its_library_run_as_one_and_are_compiled_once() {
    let fixture = Fixture::new();
    let (program, library) = (real("greets.wasm"), real("greeter.wasm"));
    let parts = [("greets.wasm", &*program), ("greeter.wasm", &*library)];
    let loaded = load(&fixture, &parts).unwrap();
    let ran = start(&loaded.artifact, args(["greets", "you", "all"])).end();
    let lines = "a greeter that says hello\nhello you\nhello all\n";
    assert_eq!(ran.success(), lines);
    assert_eq!(load(&fixture, &parts).unwrap().origin, Origin::Mapped);
    let cache = fixture.open_cache().unwrap();
    let known = cache.find(&fixture.engine, &composition(&parts).key());
    let ran = start(&known.unwrap().unwrap(), args(["greets"])).end();
    assert_eq!(ran.success(), "a greeter that says hello\n");
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let (program, other) = (real("greets.wasm"), real("config.wasm"));
    let text = refused(&[("a.wasm", &program), ("", &other)]);
    let digest = Sha256::digest(&other);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(
        text.starts_with("several of its layers are programs (a.wasm (sha256:"),
        "{text}"
    );
    assert!(text.contains(&format!(", sha256:{digest});")), "{text}");
    let library = wat::parse_str("(component)").unwrap();
    let text = refused(&[("a.wasm", &program), ("b.wasm", &library)]);
    assert!(
        text.contains("imports guests:greetings/greetings@1.0.0, which no other layer exports"),
        "{text}"
    );
}

#[test]
fn other_bytes_than_the_digests_say_are_refused() {
    let fixture = Fixture::new();
    let wasm = wat::parse_str("(component)").unwrap();
    let parts = composition(&[("a", &wasm), ("b", &wasm)]);
    let cache = fixture.open_cache().unwrap();
    for (bytes, text) in [
        (
            &[&wasm[..], &wasm[1..], b"x"].concat(),
            "changed while it was read",
        ),
        (&wasm, "is shorter than"),
        (
            &[&wasm[..], &wasm, &wasm].concat(),
            "bytes follow the last layer",
        ),
    ] {
        let file = wasm_file(bytes);
        let loaded = cache.load_composed(&fixture.engine, &parts, &file, &mut |_| {});
        let error = loaded.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}
