;; No command: `_start` is missing. Its export `run` prints "run".
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; One iovec at 0: 4 bytes at 16. The count written goes to 8.
  (data (i32.const 0) "\10\00\00\00\04\00\00\00")
  (data (i32.const 16) "run\n")
  (func (export "run")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
