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
        r#"(module (memory (export "memory") 1) (func (export "run") (param i32)))"#,
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
fn a_library_says_what_could_be_asked_of_it() {
    let module = r#"(module (func (export "_initialize")) (func (export "run"))
        (func (export "check") (result i32) (i32.const 0)) (func (export "add") (param i32)))"#;
    assert_eq!(
        refused(module).to_string(),
        "it exports no _start: it is a library, not a program \
         (exports that can be asked for: run, check)"
    );
    let many: String = (0..17)
        .map(|index| format!(r#"(func (export "f{index:02}"))"#))
        .collect();
    let error = refused(&format!("(module {many})")).to_string();
    assert!(error.ends_with("f14, f15, ...)"), "{error}");
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

/// WASI threads are a memory that is shared, and a function beside it.
#[test]
fn a_program_with_threads_is_refused_and_told_so() {
    for program in [
        r#"(module (import "env" "memory" (memory 1 2 shared))
            (import "wasi" "thread-spawn" (func (param i32) (result i32)))
            (func (export "_start")))"#,
        r#"(module (memory (export "memory") 1 2 shared) (func (export "_start")))"#,
    ] {
        let wasm = wat::parse_str(program).unwrap();
        let error = Fixture::new().load(&wasm).unwrap_err();
        assert!(matches!(error, Error::Compile { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("wasi-threads"), "{text}");
    }
    let error = refused(
        r#"(module (import "wasi" "thread-spawn" (func (param i32) (result i32)))
            (func (export "_start")))"#,
    );
    let text = error.to_string();
    assert!(
        text.starts_with("it imports wasi::thread-spawn, which"),
        "{text}"
    );
}
