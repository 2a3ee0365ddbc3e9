;; Asks for a function that no host has, beside one that every host has.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "env" "frobnicate" (func $frobnicate (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (call $proc_exit (call $frobnicate (i32.const 1)))))
