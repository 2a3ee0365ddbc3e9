//! Programs in the text format.

/// A WASI 0.1 program: `body` with the imports, a memory, and a few words.
///
/// `$say FD AT LENGTH` writes bytes of the memory, whatever that takes, and exits with 100 + errno when
/// it fails. `$read AT LENGTH`
/// reads from stdin once and returns how much. The first 64 bytes of the memory are scratch.
pub(crate) fn module(body: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "fd_write"
            (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read"
            (func $fd_read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get"
            (func $environ_sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_sizes_get"
            (func $args_sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (func $say (param $fd i32) (param $at i32) (param $length i32) (local $errno i32)
            (loop $more
                (if (i32.eqz (local.get $length)) (then (return)))
                (i32.store (i32.const 0) (local.get $at))
                (i32.store (i32.const 4) (local.get $length))
                (local.set $errno
                    (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
                (if (local.get $errno)
                    (then (call $exit (i32.add (i32.const 100) (local.get $errno)))))
                (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
                (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
                (br $more)))
        (func $read (param $at i32) (param $length i32) (result i32)
            (i32.store (i32.const 0) (local.get $at))
            (i32.store (i32.const 4) (local.get $length))
            (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))
                (then (call $exit (i32.const 99))))
            (i32.load (i32.const 8)))
        {body})"#
    )
}

/// A WASI 0.1 program that is one function.
pub(crate) fn start(body: &str) -> String {
    module(&format!(r#"(func (export "_start") {body})"#))
}

/// Says `ready`, then does `body`, which has a local `$i`.
pub(crate) fn ready_then(body: &str) -> String {
    module(&format!(
        r#"(data (i32.const 64) "ready\n")
        (func (export "_start") (local $i i32)
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            {body})"#
    ))
}

/// A busy loop without a call.
pub(crate) const SPIN: &str = "(loop $forever (br $forever))";

/// Sleeps for an hour in `poll_oneoff`: one subscription, zeroes being a clock.
pub(crate) const SLEEP: &str = "(i64.store (i32.const 152) (i64.const 3600000000000))
    (i32.store (i32.const 144) (i32.const 1))
    (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 320)))";

/// A WASI 0.2 command: `modules` are core definitions, of which the instance `$main` exports `run`.
pub(crate) fn command(modules: &str) -> String {
    format!(
        r#"(component
        {modules}
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $cli (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    )
}
