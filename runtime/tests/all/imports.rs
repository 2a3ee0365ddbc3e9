//! What is wrong with a program before it runs.

use wasi_runtime::{Error, Guest};

use crate::fixture::Fixture;

#[track_caller]
fn refused(wat: &str) -> Error {
    let error = Fixture::new()
        .wat(wat)
        .prepare(Guest::default())
        .unwrap_err();
    assert!(error.is_guest_fault(), "{error:?}");
    error
}

#[test]
fn every_unresolved_import_is_named_with_what_is_provided() {
    let error = refused(
        r#"(module
            (import "env" "one" (func))
            (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (import "env" "memory" (memory 1))
            (import "wasi_snapshot_preview1" "no_such_call" (func))
            (func (export "_start")))"#,
    );
    let Error::Unresolved { imports, provided } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        *imports,
        [
            "env::one",
            "env::memory",
            "wasi_snapshot_preview1::no_such_call"
        ]
    );
    assert_eq!(*provided, ["wasi_snapshot_preview1"]);
    assert_eq!(
        error.to_string(),
        "it imports env::one, env::memory, wasi_snapshot_preview1::no_such_call, which this runtime \
         does not provide (it provides: wasi_snapshot_preview1)"
    );
}

#[test]
fn every_unresolved_interface_is_named_with_what_is_provided() {
    let error = refused(
        r#"(component
            (import "wasi:keyvalue/store@0.2.0" (instance))
            (import "wasi:cli/environment@0.2.0" (instance))
            (import "acme:rockets/launch" (instance)))"#,
    );
    let Error::Unresolved { imports, provided } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(
        *imports,
        ["wasi:keyvalue/store@0.2.0", "acme:rockets/launch"]
    );
    assert!(provided.iter().any(|package| package == "wasi:cli"));
}

#[test]
fn a_function_imported_with_another_type_does_not_fit() {
    let error = refused(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_close" (func (param i64)))
            (func (export "_start")))"#,
    );
    assert!(matches!(error, Error::Import { .. }), "{error:?}");
    assert!(error.to_string().contains("fd_close"), "{error}");
}

#[test]
fn a_known_package_without_the_interface_or_function_does_not_fit() {
    for component in [
        r#"(component (import "wasi:cli/no-such-interface@0.2.0" (instance (export "f" (func)))))"#,
        r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "f" (func)))))"#,
        r#"(component (import "wasi:cli/environment@9.0.0" (instance
            (export "initial-cwd" (func (result (option string)))))))"#,
    ] {
        let error = refused(component);
        assert!(matches!(error, Error::Import { .. }), "{error:?}");
        assert!(error.to_string().contains("wasi:cli/"), "{error}");
    }
}

#[test]
fn a_module_without_a_start_function_is_a_library() {
    for module in [
        "(module)",
        r#"(module (memory (export "memory") 1) (func (export "run")))"#,
        r#"(module (memory (export "_start") 1))"#,
    ] {
        let error = refused(module);
        assert!(matches!(error, Error::NoEntrypoint { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "it exports no _start: it is a library, not a program"
        );
    }
}

#[test]
fn a_start_function_of_another_type_is_none() {
    for function in ["(param i32)", "(result i32) (i32.const 0)"] {
        let error = refused(&format!(r#"(module (func (export "_start") {function}))"#));
        assert!(matches!(error, Error::NoEntrypoint { .. }), "{error:?}");
    }
}

#[test]
fn a_component_without_run_is_a_library() {
    let error = refused("(component)");
    assert!(matches!(error, Error::NoEntrypoint { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "it exports no wasi:cli/run@0.2: it is a library, not a program"
    );
}
