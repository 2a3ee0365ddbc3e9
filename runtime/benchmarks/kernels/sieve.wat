;; The sieve of Eratosthenes below 4 million, several times: the tightest of loops, a store each.
(module
  (memory (export "memory") 64)
  (func $sieve (result i32) (local $i i32) (local $j i32) (local $count i32)
    (memory.fill (i32.const 0) (i32.const 0) (i32.const 4000000))
    (local.set $i (i32.const 2))
    (loop $numbers
      (if (i32.eqz (i32.load8_u (local.get $i)))
        (then
          (local.set $count (i32.add (local.get $count) (i32.const 1)))
          (local.set $j (i32.add (local.get $i) (local.get $i)))
          (if (i32.lt_u (local.get $j) (i32.const 4000000)) (then
            (loop $multiples
              (i32.store8 (local.get $j) (i32.const 1))
              (local.set $j (i32.add (local.get $j) (local.get $i)))
              (br_if $multiples (i32.lt_u (local.get $j) (i32.const 4000000))))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $numbers (i32.lt_u (local.get $i) (i32.const 4000000))))
    (local.get $count))
  (func (export "_start") (local $times i32)
    (loop $again
      (if (i32.ne (call $sieve) (i32.const 283146)) (then unreachable))
      (local.set $times (i32.add (local.get $times) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $times) (i32.const 20))))))
