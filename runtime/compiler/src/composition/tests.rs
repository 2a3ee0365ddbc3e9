//! Names first: what is connected, and what is said where that cannot be told. Then whole components.

use super::*;

const RUN: &str = "wasi:cli/run@0.2.6";
const HANDLER: &str = "wasi:http/incoming-handler@0.2.3";

fn face(name: &str, imports: &[&str], exports: &[&str]) -> Face {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Face {
        name: name.to_owned(),
        imports: owned(imports),
        exports: owned(exports),
    }
}

fn complaint(faces: &[Face]) -> String {
    wire(faces).unwrap_err()
}

#[test]
fn what_is_not_wasi_comes_from_the_layer_that_has_it() {
    let library = face(
        "library",
        &["wasi:io/error@0.2.0"],
        &["a:b/c@1.0.0", "a:b/d@1.0.0"],
    );
    let program = face("program", &["wasi:cli/exit@0.2.0", "a:b/c@1.0.0"], &[RUN]);
    let (root, wires) = wire(&[library, program]).unwrap();
    assert_eq!(root, 1);
    let wire = Wire {
        source: 0,
        export: "a:b/c@1.0.0".to_owned(),
        target: 1,
        import: "a:b/c@1.0.0".to_owned(),
    };
    assert_eq!(wires, [wire]);
}

#[test]
fn libraries_have_libraries_and_share_them() {
    let faces = [
        face("program", &["a:a/a", "b:b/b"], &[RUN]),
        face("a", &["c:c/c"], &["a:a/a"]),
        face("b", &["c:c/c"], &["b:b/b"]),
        face("c", &[], &["c:c/c"]),
    ];
    let (root, wires) = wire(&faces).unwrap();
    let wires: Vec<_> = wires
        .iter()
        .map(|wire| (wire.source, wire.target))
        .collect();
    assert_eq!((root, wires), (0, vec![(1, 0), (2, 0), (3, 1), (3, 2)]));
}

/// A handler before a handler: the one that nobody imports is the program.
#[test]
fn a_handler_may_be_another_ones_import() {
    let faces = [
        face("inner", &[], &[HANDLER]),
        face("outer", &["wasi:http/incoming-handler@0.2.0"], &[HANDLER]),
    ];
    let (root, wires) = wire(&faces).unwrap();
    assert_eq!((root, wires.len()), (1, 1));
    assert_eq!(wires[0].export, HANDLER);
}

#[test]
fn versions_are_compatible_on_one_track() {
    for (import, export) in [
        ("a:b/c", "a:b/c"),
        ("a:b/c@1.0.0", "a:b/c@1.0.0"),
        ("a:b/c@1.0.0", "a:b/c@1.7.3"),
        ("a:b/c@1.7.3", "a:b/c@1.0.0"),
        ("a:b/c@0.2.0", "a:b/c@0.2.9"),
        ("a:b/c@0.0.1", "a:b/c@0.0.1"),
        ("a:b/c@1.0.0-rc.1", "a:b/c@1.0.0-rc.1"),
    ] {
        assert!(fits(import, export), "{import} {export}");
    }
    for (import, export) in [
        ("a:b/c", "a:b/c@1.0.0"),
        ("a:b/c@1.0.0", "a:b/c"),
        ("a:b/c@1.0.0", "a:b/c@2.0.0"),
        ("a:b/c@0.2.0", "a:b/c@0.3.0"),
        ("a:b/c@0.0.1", "a:b/c@0.0.2"),
        ("a:b/c@1.0.0-rc.1", "a:b/c@1.0.0"),
        ("a:b/c@1.0.0", "a:b/d@1.0.0"),
        ("a:b/c@one", "a:b/c@two"),
    ] {
        assert!(!fits(import, export), "{import} {export}");
    }
}

#[test]
fn a_missing_import_is_named() {
    let faces = [
        face("program", &["a:b/c@1.0.0"], &[RUN]),
        face("library", &[], &["a:b/c@2.0.0"]),
    ];
    let text = "layer program imports a:b/c@1.0.0, which no other layer exports; add";
    assert!(complaint(&faces).starts_with(text), "{}", complaint(&faces));
}

#[test]
fn two_sources_of_one_import_are_named() {
    let faces = [
        face("program", &["a:b/c@1.0.0"], &[RUN]),
        face("one", &[], &["a:b/c@1.0.0"]),
        face("two", &[], &["a:b/c@1.1.0"]),
    ];
    let text = "layer program imports a:b/c@1.0.0, which several layers export (one, two);";
    assert!(complaint(&faces).starts_with(text), "{}", complaint(&faces));
}

#[test]
fn there_is_one_program() {
    let (one, two) = (face("one", &[], &[RUN]), face("two", &[], &[HANDLER]));
    let text = complaint(&[one, two]);
    assert!(
        text.starts_with("several of its layers are programs (one, two);"),
        "{text}"
    );
    let libraries = [face("a", &[], &["a:a/a"]), face("b", &[], &["b:b/b"])];
    let text = complaint(&libraries);
    assert!(
        text.starts_with("none of its layers (a, b) is a program: one has to export wasi:cli/run"),
        "{text}"
    );
    let each_other = [
        face("a", &[HANDLER], &[HANDLER]),
        face("b", &[HANDLER], &[HANDLER]),
    ];
    let text = complaint(&each_other);
    assert!(text.contains("(a, b) is imported by another"), "{text}");
}

#[test]
fn a_layer_that_nobody_needs_is_named() {
    let exports: Vec<String> = (0..9).map(|number| format!("a:b/c{number}")).collect();
    let exports: Vec<&str> = exports.iter().map(String::as_str).collect();
    let faces = [face("program", &[], &[RUN]), face("idle", &[], &exports)];
    let text = complaint(&faces);
    assert!(
        text.contains("from layer idle (it exports a:b/c0, a:b/c1, a:b/c2, a:b/c3, a:b/c4);"),
        "{text}"
    );
}

#[test]
fn a_circle_is_named() {
    let faces = [
        face("program", &["a:a/a"], &[RUN]),
        face("a", &["b:b/b"], &["a:a/a"]),
        face("b", &["a:a/a"], &["b:b/b"]),
    ];
    let text = complaint(&faces);
    // What hangs on the circle is in it, as far as this can tell.
    assert!(text.contains("in a circle (program, a, b)"), "{text}");
}

/// A program that calls `number` of another component as it is run.
fn program(ty: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            (import "a:b/numbers@1.0.0" (instance $numbers (export "number" (func (result {ty})))))
            (core func $number (canon lower (func $numbers "number")))
            (core module $m
                (import "a" "number" (func $number (result i32)))
                (func (export "run") (result i32) (i32.ne (call $number) (i32.const 7))))
            (core instance $i (instantiate $m (with "a" (instance (export "number" (func $number))))))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#
    ))
    .unwrap()
}

fn library() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (core module $m (func (export "number") (result i32) (i32.const 7)))
            (core instance $i (instantiate $m))
            (func $number (result u32) (canon lift (core func $i "number")))
            (instance $numbers (export "number" (func $number)))
            (export "a:b/numbers@1.3.0" (instance $numbers)))"#,
    )
    .unwrap()
}

fn composed(layers: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
    let layers: Vec<Layer<'_>> = layers
        .iter()
        .map(|(name, wasm)| Layer { name, wasm })
        .collect();
    compose(&layers)
}

#[test]
fn two_components_become_one_that_imports_nothing() {
    for order in [[0, 1], [1, 0]] {
        let layers = [("program", program("u32")), ("library", library())];
        let layers = order.map(|layer| (layers[layer].0, &*layers[layer].1));
        let wasm = composed(&layers).unwrap();
        let mut validator = Validator::new_with_features(WasmFeatures::all());
        let component = Component::from_bytes(&mut validator, "all", wasm).unwrap();
        let face = Face::of("all", &component);
        assert_eq!(face.exports, ["wasi:cli/run@0.2.0"]);
        assert!(face.imports.is_empty(), "{face:?}");
    }
}

#[test]
fn other_types_are_told() {
    let (program, library) = (program("s32"), library());
    let wasm = composed(&[("program", &program), ("library", &library)]);
    let text = wasm.unwrap_err();
    assert!(
        text.starts_with(
            "layer program imports a:b/numbers@1.0.0, which layer library exports with other types;"
        ),
        "{text}"
    );
}

#[test]
fn a_module_beside_components_is_named() {
    let (program, module) = (program("u32"), wat::parse_str("(module)").unwrap());
    let text = composed(&[("program", &program), ("module", &module)]).unwrap_err();
    assert!(text.starts_with("layer module is no component"), "{text}");
    // Neither is text, which the library would assemble.
    let text = composed(&[("program", &program), ("text", b"(component)")]).unwrap_err();
    assert!(text.starts_with("layer text is no component"), "{text}");
}

#[test]
fn a_broken_component_is_named() {
    let program = program("u32");
    let text = composed(&[
        ("whole", &library()),
        ("half", &program[..program.len() / 2]),
    ]);
    let text = text.unwrap_err();
    assert!(
        text.starts_with("layer half: failed to parse component"),
        "{text}"
    );
}
