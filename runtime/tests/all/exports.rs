//! Programs that are asked for one of their exports.

use wasi_runtime::{Error, Guest, Outcome};

use crate::fixture::{Fixture, start};
use crate::wasm;

fn asking(export: &str) -> Guest {
    Guest {
        export: Some(export.to_owned()),
        ..Guest::default()
    }
}

/// A component that exports functions by themselves, and `status` in an interface.
const LIBRARY: &str = r#"(component
    (core module $m
        (func (export "nothing"))
        (func (export "zero") (result i32) (i32.const 0))
        (func (export "one") (result i32) (i32.const 1))
        (func (export "seven") (result i32) (i32.const 7))
        (func (export "minus") (result i32) (i32.const -1))
        (func (export "float") (result f64) (f64.const 0))
        (func (export "take") (param i32)))
    (core instance $main (instantiate $m))
    (func $fine (result (result)) (canon lift (core func $main "zero")))
    (func (export "nothing") (canon lift (core func $main "nothing")))
    (func (export "fine") (result (result)) (canon lift (core func $main "zero")))
    (func (export "broken") (result (result)) (canon lift (core func $main "one")))
    (func (export "byte") (result u8) (canon lift (core func $main "seven")))
    (func (export "small") (result s16) (canon lift (core func $main "minus")))
    (func (export "float") (result f64) (canon lift (core func $main "float")))
    (func (export "take") (param "n" u32) (canon lift (core func $main "take")))
    (func $status (result u32) (canon lift (core func $main "seven")))
    (instance $checks (export "status" (func $status)))
    (export "acme:checks/health@1.2.0" (instance $checks)))"#;

#[test]
fn an_export_of_a_module_is_called_and_its_number_is_the_exit_code() {
    let fixture = Fixture::new();
    let program = wasm::module(
        r#"(func (export "_start") (call $exit (i32.const 50)))
        (func (export "quiet"))
        (func (export "status") (result i32) (i32.const 7))
        (func (export "leave") (call $exit (i32.const 9)))
        (func $broken (export "broken") unreachable)"#,
    );
    let artifact = fixture.wat(&program);
    for (export, code) in [("quiet", 0), ("status", 7), ("leave", 9), ("_start", 50)] {
        let ran = start(&artifact, asking(export)).end();
        assert_eq!(ran.outcome, Outcome::Exited(code), "{export}");
    }
    let ran = start(&artifact, asking("broken")).end();
    assert!(ran.trace().contains("broken"), "{ran:?}");
}

#[test]
fn a_reactor_is_initialized_first_and_once() {
    let fixture = Fixture::new();
    let program = wasm::module(
        r#"(global $made (mut i32) (i32.const 0))
        (func (export "_initialize") (global.set $made (i32.add (global.get $made) (i32.const 1))))
        (func (export "made") (result i32) (global.get $made))
        (func (export "_start") (call $exit (i32.add (i32.const 40) (global.get $made))))"#,
    );
    let artifact = fixture.wat(&program);
    let ran = start(&artifact, asking("made")).end();
    assert_eq!(ran.outcome, Outcome::Exited(1));
    // A command brings its own initialization with it.
    let ran = start(&artifact, Guest::default()).end();
    assert_eq!(ran.outcome, Outcome::Exited(40));
}

#[test]
fn an_export_of_a_component_is_called_and_its_answer_is_the_exit_code() {
    let fixture = Fixture::new();
    let artifact = fixture.wat(LIBRARY);
    for (export, code) in [
        ("nothing", 0),
        ("fine", 0),
        ("broken", 1),
        ("byte", 7),
        ("small", u32::MAX),
        ("acme:checks/health@1.2.0#status", 7),
        // What fits by the rules of semver.
        ("acme:checks/health@1.0.0#status", 7),
    ] {
        let ran = start(&artifact, asking(export)).end();
        assert_eq!(ran.outcome, Outcome::Exited(code), "{export}");
    }
    let command = wasm::command(
        r#"(core module $m (func (export "run") (result i32) (i32.const 1)))
        (core instance $main (instantiate $m))"#,
    );
    let ran = start(&fixture.wat(&command), asking("wasi:cli/run@0.2.0#run")).end();
    assert_eq!(ran.outcome, Outcome::Exited(1));
}

#[track_caller]
fn refused(program: &str, export: &str) -> String {
    let error = Fixture::new()
        .wat(program)
        .prepare(asking(export))
        .unwrap_err();
    assert!(matches!(error, Error::NoExport { .. }), "{error:?}");
    assert!(error.is_guest_fault());
    error.to_string()
}

#[test]
fn what_cannot_be_called_is_refused_with_what_can() {
    let module = r#"(module (memory (export "memory") 1) (func (export "run"))
        (func (export "add") (param i32 i32) (result i32) (i32.const 0))
        (func (export "pi") (result f64) (f64.const 3)))"#;
    let can = " (exports that can be asked for: run)";
    assert_eq!(
        refused(module, "launch"),
        format!("its export launch cannot be called: there is no such export{can}")
    );
    assert_eq!(
        refused(module, "memory"),
        format!("its export memory cannot be called: it is no function{can}")
    );
    for (export, of) in [
        ("add", "(func (param i32 i32) (result i32))"),
        ("pi", "(func (result f64))"),
    ] {
        let text = refused(module, export);
        assert!(text.contains(of), "{text}");
    }
}

#[test]
fn what_cannot_be_called_of_a_component_is_refused_with_what_can() {
    for (export, reason) in [
        ("launch", "there is no such export"),
        ("acme:checks/health@2.0.0#status", "there is no such export"),
        ("acme:checks/health@1.2.0#launch", "there is no such export"),
        ("acme:checks/health@1.2.0", "it is no function"),
        (
            "take",
            "it takes parameters, or what it returns is no exit code",
        ),
        (
            "float",
            "it takes parameters, or what it returns is no exit code",
        ),
    ] {
        assert_eq!(
            refused(LIBRARY, export),
            format!(
                "its export {export} cannot be called: {reason} (exports that can be asked for: \
                 acme:checks/health@1.2.0#status, nothing, fine, broken, byte, small)"
            )
        );
    }
}
