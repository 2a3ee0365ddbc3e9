//! Running a program: what it is told, and how it ends.

use wasi_runtime::{Error, Guest, Outcome};

use crate::fixture::{Fixture, args, start};
use crate::wasm;

/// Writes all arguments, each with its NUL.
const ECHO_ARGS: &str = "(drop (call $args_sizes (i32.const 64) (i32.const 68)))
    (drop (call $args_get (i32.const 1024) (i32.const 4096)))
    (call $say (i32.const 1) (i32.const 4096) (i32.load (i32.const 68)))";
/// Writes all variables, each with its NUL.
const ECHO_ENV: &str = "(drop (call $environ_sizes (i32.const 64) (i32.const 68)))
    (drop (call $environ_get (i32.const 1024) (i32.const 4096)))
    (call $say (i32.const 1) (i32.const 4096) (i32.load (i32.const 68)))";

fn env<const N: usize>(variables: [(&str, &str); N]) -> Vec<(String, String)> {
    variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

#[test]
fn arguments_arrive_in_order() {
    let ran = Fixture::new().run(&wasm::start(ECHO_ARGS), args(["app", "two words", "", "é"]));
    assert_eq!(ran.success(), "app\0two words\0\0é\0");
}

#[test]
fn without_arguments_there_is_not_even_a_name() {
    let ran = Fixture::new().run(&wasm::start(ECHO_ARGS), Guest::default());
    assert_eq!(ran.success(), "");
}

#[test]
fn variables_arrive_in_order_and_no_other() {
    let guest = Guest {
        env: env([("Z", "1"), ("A", "x=y"), ("EMPTY", "")]),
        ..Guest::default()
    };
    let ran = Fixture::new().run(&wasm::start(ECHO_ENV), guest);
    assert_eq!(ran.success(), "Z=1\0A=x=y\0EMPTY=\0");
}

#[test]
fn a_module_is_told_its_working_directory_as_pwd() {
    let guest = Guest {
        env: env([("A", "1")]),
        cwd: Some("/srv".to_owned()),
        ..Guest::default()
    };
    let ran = Fixture::new().run(&wasm::start(ECHO_ENV), guest);
    assert_eq!(ran.success(), "A=1\0PWD=/srv\0");
}

#[test]
fn a_pwd_of_its_own_is_not_overwritten() {
    let guest = Guest {
        env: env([("PWD", "/own")]),
        cwd: Some("/srv".to_owned()),
        ..Guest::default()
    };
    let ran = Fixture::new().run(&wasm::start(ECHO_ENV), guest);
    assert_eq!(ran.success(), "PWD=/own\0");
}

#[test]
fn a_component_has_arguments_variables_and_a_call_for_its_working_directory() {
    let fixture = Fixture::new();
    let guest = Guest {
        env: env([("B", "2"), ("A", "1")]),
        cwd: Some("/srv".to_owned()),
        ..args(["env", "x"])
    };
    let mut guest = guest;
    let component = fixture.wat(&cwd_component());
    guest.stdin = wasi_runtime::Input::default();
    assert_eq!(
        start(&fixture.real("env.component.wasm"), guest)
            .end()
            .success()
            .lines()
            .filter(|line| !line.starts_with("cwd"))
            .collect::<Vec<_>>(),
        ["arg: env", "arg: x", "env: A=1", "env: B=2"]
    );
    let told = |cwd: Option<&str>| {
        let guest = Guest {
            cwd: cwd.map(str::to_owned),
            ..Guest::default()
        };
        start(&component, guest).end().outcome
    };
    assert_eq!(told(Some("/srv")), Outcome::Exited(0));
    assert_eq!(told(None), Outcome::Exited(1));
}

/// Ends with `err` unless `initial-cwd` is there.
fn cwd_component() -> String {
    r#"(component
        (import "wasi:cli/environment@0.2.0" (instance $environment
            (export "initial-cwd" (func (result (option string))))))
        (core module $memory
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
        (core instance $memory (instantiate $memory))
        (core func $cwd (canon lower (func $environment "initial-cwd")
            (memory $memory "memory") (realloc (func $memory "realloc"))))
        (core module $program
            (import "" "cwd" (func $cwd (param i32)))
            (import "" "memory" (memory 1))
            (func (export "run") (result i32)
                (call $cwd (i32.const 0))
                (i32.eqz (i32.load8_u (i32.const 0)))))
        (core instance $main (instantiate $program (with "" (instance
            (export "cwd" (func $cwd))
            (export "memory" (memory $memory "memory"))))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#
        .to_owned()
}

#[test]
fn an_exit_code_is_the_programs_own() {
    let fixture = Fixture::new();
    for code in [0, 1, 42, 125, 126, 255] {
        let ran = fixture.run(
            &wasm::start(&format!("(call $exit (i32.const {code}))")),
            Guest::default(),
        );
        assert_eq!(ran.outcome, Outcome::Exited(code));
        assert_eq!(ran.stderr, "");
    }
}

#[test]
fn to_return_is_success() {
    let ran = Fixture::new().run(&wasm::start(""), Guest::default());
    assert_eq!(ran.success(), "");
}

#[test]
fn a_components_result_is_its_exit_code() {
    let fixture = Fixture::new();
    for code in [0, 1] {
        let component = wasm::command(&format!(
            r#"(core module $m (func (export "run") (result i32) (i32.const {code})))
            (core instance $main (instantiate $m))"#
        ));
        let ran = fixture.run(&component, Guest::default());
        assert_eq!(ran.outcome, Outcome::Exited(code));
    }
}

#[test]
fn exit_in_a_component_ends_it() {
    let fixture = Fixture::new();
    let ran = start(&fixture.real("exit.component.wasm"), args(["exit", "1"])).end();
    assert_eq!(ran.outcome, Outcome::Exited(1));
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_trap_names_the_functions_and_comes_after_what_was_written() {
    let program = wasm::module(
        r#"(data (i32.const 64) "last words\n")
        (func $inner unreachable)
        (func $outer (call $inner))
        (func (export "_start")
            (call $say (i32.const 2) (i32.const 64) (i32.const 11))
            (call $outer))"#,
    );
    let ran = Fixture::new().run(&program, Guest::default());
    let trace = ran.trace();
    assert_eq!(ran.stderr, format!("last words\n{trace}"));
    assert!(trace.starts_with("wasm trap: wasm `unreachable` instruction executed\n"));
    let (inner, outer) = (trace.find("inner"), trace.find("outer"));
    assert!(inner.is_some() && inner < outer, "{trace}");
}

/// Long copies are made in strides, by functions that the compiler adds and calls in the place of instructions.
#[test]
fn a_trap_is_told_by_its_place_in_the_module_that_people_have() {
    let program = wasm::module(
        r#"(func $fills (param i32) (memory.fill (i32.const 0) (i32.const 1) (local.get 0)))
        (func (export "_start")
            (call $fills (i32.const 100000))
            (drop (i32.const 77777))
            (call $fills (i32.const 1000000)))"#,
    );
    let wasm = wat::parse_str(&program).unwrap();
    let at = |bytes: &[u8], after| {
        let found = wasm.windows(bytes.len()).position(|window| window == bytes);
        format!("{:#x} - ", found.unwrap() + after)
    };
    // The instruction itself; the call after `i32.const 77777`, `drop` and `i32.const 1000000`.
    let fill = at(&[0xfc, 0x0b, 0], 0);
    let call = at(&[0x41, 0xd1, 0xdf, 0x04, 0x1a], 9);
    for fixture in [Fixture::new(), Fixture::with_epochs()] {
        let ran = fixture.run(&program, Guest::default());
        let trace = ran.trace();
        let lines: Vec<&str> = trace.lines().map(str::trim_start).collect();
        let [cause, _, first, second] = lines[..] else {
            panic!("{trace}");
        };
        assert_eq!(cause, "wasm trap: out of bounds memory access");
        assert!(first.contains(&fill) && first.contains("fills"), "{trace}");
        assert!(second.contains(&call), "{trace}");
    }
}

#[test]
fn a_trap_of_a_component_is_told_as_well() {
    let component = wasm::command(
        r#"(core module $m (func $broken (export "run") (result i32) unreachable))
        (core instance $main (instantiate $m))"#,
    );
    let ran = Fixture::new().run(&component, Guest::default());
    assert!(ran.trace().contains("broken"), "{ran:?}");
}

#[test]
fn faults_of_the_machine_are_traps() {
    let fixture = Fixture::new();
    for (body, trap) in [
        (
            "(drop (i32.load (i32.const -4)))",
            "out of bounds memory access",
        ),
        (
            "(drop (i32.div_s (i32.const 1) (i32.const 0)))",
            "integer divide by zero",
        ),
    ] {
        let ran = fixture.run(&wasm::start(body), Guest::default());
        assert!(ran.trace().contains(trap), "{ran:?}");
    }
}

#[test]
fn a_trap_in_the_start_section_is_a_trap_of_the_run() {
    let program =
        wasm::module(r#"(func $init unreachable) (start $init) (func (export "_start"))"#);
    let ran = Fixture::new().run(&program, Guest::default());
    assert!(ran.trace().contains("unreachable"), "{ran:?}");
}

#[test]
fn one_artifact_runs_many_times_from_the_start() {
    let fixture = Fixture::new();
    let artifact = fixture.wat(&wasm::module(
        r#"(global $count (mut i32) (i32.const 0))
        (func (export "_start")
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (call $exit (global.get $count)))"#,
    ));
    for _ in 0..3 {
        let ran = start(&artifact, Guest::default()).end();
        assert_eq!(ran.outcome, Outcome::Exited(1));
    }
}

#[test]
fn a_go_program_runs() {
    let fixture = Fixture::new();
    let ran = start(&fixture.real("hello-go.wasm"), args(["hello", "gopher"])).end();
    assert_eq!(ran.success(), "hello from go\narg: hello\narg: gopher\n");
}

#[test]
fn a_nul_byte_is_refused_with_its_place() {
    let artifact = Fixture::new().wat(&wasm::start(""));
    let variable = |name: &str, value: &str| Guest {
        env: env([(name, value)]),
        ..Guest::default()
    };
    let cwd = Guest {
        cwd: Some("/a\0b".to_owned()),
        ..Guest::default()
    };
    for (guest, told) in [
        (args(["app", "a\0b"]), "argument 1 contains a NUL byte"),
        (variable("A", "\0"), "variable A contains a NUL byte"),
        (
            variable("A\0", ""),
            "the name of variable \"A\\0\" contains a NUL byte",
        ),
        (cwd, "variable PWD contains a NUL byte"),
    ] {
        let error = artifact.prepare(guest).unwrap_err();
        assert!(matches!(error, Error::Nul { .. }), "{error:?}");
        assert!(error.is_guest_fault());
        assert_eq!(error.to_string(), told);
    }
}
