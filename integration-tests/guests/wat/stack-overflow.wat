;; Calls itself until the stack is used up: a trap, never a fault of the host.
(module
  (memory (export "memory") 1)
  (func $deeper (param i32) (result i32)
    ;; The addition after the call keeps the frame.
    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  (func (export "_start")
    (drop (call $deeper (i32.const 0)))))
