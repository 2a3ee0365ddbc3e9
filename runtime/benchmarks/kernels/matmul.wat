;; Two matrices of 256 by 256 numbers, multiplied several times: three nested loops, two loads and an addition.
(module
  (memory (export "memory") 32)
  (func $multiply (local $i i32) (local $j i32) (local $k i32) (local $sum f64)
    (local.set $i (i32.const 0))
    (loop $rows
      (local.set $j (i32.const 0))
      (loop $columns
        (local.set $k (i32.const 0))
        (local.set $sum (f64.const 0))
        (loop $terms
          (local.set $sum (f64.add (local.get $sum) (f64.mul
            (f64.load (i32.shl (i32.add (i32.shl (local.get $i) (i32.const 8)) (local.get $k)) (i32.const 3)))
            (f64.load offset=524288
              (i32.shl (i32.add (i32.shl (local.get $k) (i32.const 8)) (local.get $j)) (i32.const 3))))))
          (local.set $k (i32.add (local.get $k) (i32.const 1)))
          (br_if $terms (i32.lt_u (local.get $k) (i32.const 256))))
        (f64.store offset=1048576
          (i32.shl (i32.add (i32.shl (local.get $i) (i32.const 8)) (local.get $j)) (i32.const 3))
          (local.get $sum))
        (local.set $j (i32.add (local.get $j) (i32.const 1)))
        (br_if $columns (i32.lt_u (local.get $j) (i32.const 256))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $rows (i32.lt_u (local.get $i) (i32.const 256)))))
  (func (export "_start") (local $i i32)
    (loop $fill
      (f64.store (i32.shl (local.get $i) (i32.const 3)) (f64.convert_i32_u (local.get $i)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $fill (i32.lt_u (local.get $i) (i32.const 131072))))
    (local.set $i (i32.const 0))
    (loop $again
      (call $multiply)
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 30))))))
