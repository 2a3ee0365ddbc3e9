use std::collections::{BTreeMap, BTreeSet};

use wasi_settings::Interruption;
use wasmparser::{Parser, Payload};
use wasmtime::{Engine, Instance, Module, Store, Trap};

use super::bulk::STRIDE;
use super::*;

/// A little more than four strides.
const MEMORY: u64 = 17 << 16;
const LONG: u64 = STRIDE as u64;

fn engine() -> Engine {
    Engine::new(&wasi_settings::config(Interruption::BEST)).unwrap()
}

fn changed(wasm: &[u8]) -> Vec<u8> {
    strided(wasm).expect("it is to be changed").wasm
}

/// With `fill`, `copy`, `across` and `init`, in memories whose addresses are `a` and `b`.
fn module(a: &str, b: &str) -> Vec<u8> {
    let count = if (a, b) == ("i64", "i64") {
        "i64"
    } else {
        "i32"
    };
    let segment: String = (0..1_500_000_u32)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    let text = format!(
        r#"(module
            (memory (export "a") {a} 17) (memory (export "b") {b} 17)
            (data $text "{segment}")
            (func (export "fill") (param {a} i32 {a})
                (memory.fill 0 (local.get 0) (local.get 1) (local.get 2)))
            (func (export "copy") (param {a} {a} {a})
                (memory.copy 0 0 (local.get 0) (local.get 1) (local.get 2)))
            (func (export "across") (param {b} {a} {count})
                (memory.copy 1 0 (local.get 0) (local.get 1) (local.get 2)))
            (func (export "init") (param {a} i32 i32)
                (memory.init 0 $text (local.get 0) (local.get 1) (local.get 2)))
            (func (export "drop") (data.drop $text)))"#
    );
    wat::parse_str(text).unwrap()
}

/// A module that runs.
struct Running {
    store: Store<()>,
    instance: Instance,
}

impl Running {
    fn new(engine: &Engine, wasm: &[u8]) -> Self {
        let mut store = Store::new(engine, ());
        let module = Module::new(engine, wasm).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let mut new = Self { store, instance };
        for (byte, n) in new.memory("a").iter_mut().zip((0..251).cycle()) {
            *byte = n;
        }
        new
    }

    fn memory(&mut self, name: &str) -> &mut [u8] {
        let memory = self.instance.get_memory(&mut self.store, name).unwrap();
        memory.data_mut(&mut self.store)
    }

    fn call(&mut self, name: &str, args: [u64; 3]) -> Option<Trap> {
        let function = self.instance.get_func(&mut self.store, name).unwrap();
        let types: Vec<_> = function.ty(&self.store).params().collect();
        let args = types.iter().zip(args).map(|(ty, number)| {
            let [a, b, c, d, ..] = number.to_le_bytes();
            if ty.is_i64() {
                wasmtime::Val::I64(number.cast_signed())
            } else {
                wasmtime::Val::I32(i32::from_le_bytes([a, b, c, d]))
            }
        });
        let args: Vec<_> = args.collect();
        let called = function.call(&mut self.store, &args, &mut []);
        called.err().map(|error| *error.downcast_ref().unwrap())
    }
}

/// Calls `name` in the module as it is and as it is changed, and compares all there is to see.
fn same(plain: &mut Running, strided: &mut Running, name: &str, args: [u64; 3]) -> Option<Trap> {
    let (expected, trap) = (plain.call(name, args), strided.call(name, args));
    assert_eq!(trap, expected, "{name} {args:?}");
    for memory in ["a", "b"] {
        let is_same = strided.memory(memory) == plain.memory(memory);
        assert!(is_same, "{name} {args:?} leaves another memory {memory}");
    }
    trap
}

#[test]
fn what_is_copied_and_what_traps_is_the_same() {
    let engine = engine();
    let outside = Some(Trap::MemoryOutOfBounds);
    for (a, b) in [
        ("i32", "i32"),
        ("i32", "i64"),
        ("i64", "i32"),
        ("i64", "i64"),
    ] {
        let wasm = module(a, b);
        let mut plain = Running::new(&engine, &wasm);
        let mut strided = Running::new(&engine, &changed(&wasm));
        let mut same = |name, args| same(&mut plain, &mut strided, name, args);
        for count in [
            0,
            1,
            LONG - 1,
            LONG,
            LONG + 1,
            2 * LONG,
            3 * LONG + 77,
            MEMORY - 100,
        ] {
            assert_eq!(same("fill", [100, count & 0xff, count]), None);
            assert_eq!(same("init", [100, 33, count]), None);
            assert_eq!(same("across", [50, 100, count]), None);
            // Either side of the other, one stride apart and less.
            for (to, from) in [
                (0, 100),
                (100, 0),
                (0, LONG),
                (LONG, 0),
                (7, 7),
                (LONG + 1, 1),
            ] {
                if to.max(from) + count <= MEMORY {
                    assert_eq!(same("copy", [to, from, count]), None);
                }
            }
        }
        assert_eq!(same("fill", [0, 9, MEMORY]), None);
        for (to, count) in [
            (1, MEMORY),
            (MEMORY - LONG, LONG + 1),
            (MEMORY, LONG + 1),
            (0, 1 << 31),
        ] {
            assert_eq!(same("fill", [to, 1, count]), outside);
            assert_eq!(same("copy", [to, 0, count]), outside);
            assert_eq!(same("copy", [0, to, count]), outside);
            assert_eq!(same("across", [to, 0, count]), outside);
            assert_eq!(same("across", [0, to, count]), outside);
        }
        // Beyond all addresses there are.
        for bits in [32, 64] {
            let most = u64::MAX >> (64 - bits);
            for (at, count) in [
                (most, most),
                (2, most),
                (2, most - 1),
                (1, most),
                (most - LONG, LONG + 2),
            ] {
                assert_eq!(same("fill", [at, 5, count]), outside);
                assert_eq!(same("copy", [at, 0, count]), outside);
                assert_eq!(same("copy", [0, at, count]), outside);
                assert_eq!(same("init", [0, at, count]), outside);
            }
        }
        assert_eq!(same("init", [0, 1_000_000, 500_000]), None);
        assert_eq!(same("init", [0, 1_000_000, 500_001]), outside);
        assert_eq!(same("init", [MEMORY - LONG, 0, LONG + 1]), outside);
        plain.call("drop", [0; 3]);
        strided.call("drop", [0; 3]);
        let mut same = |name, args| super::tests::same(&mut plain, &mut strided, name, args);
        assert_eq!(same("init", [0, 0, LONG + 1]), outside);
        assert_eq!(same("init", [0, 0, 0]), None);
    }
}

/// The end of the largest memory is the one address that a 32-bit number cannot tell.
#[test]
fn the_largest_memory_is_filled_to_its_end() {
    let wasm = wat::parse_str(
        r#"(module (memory (export "a") 65536)
            (func (export "fill") (param i32 i32 i32)
                (memory.fill (local.get 0) (local.get 1) (local.get 2))))"#,
    )
    .unwrap();
    let engine = engine();
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, changed(&wasm)).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let fill = instance.get_typed_func::<(u32, u32, u32), ()>(&mut store, "fill");
    let fill = fill.unwrap();
    let start = u32::MAX - 2 * STRIDE;
    fill.call(&mut store, (start, 3, 2 * STRIDE + 1)).unwrap();
    let memory = instance.get_memory(&mut store, "a").unwrap();
    let bytes = memory.data(&store);
    assert_eq!(bytes[start as usize - 1], 0);
    assert!(bytes[start as usize..].iter().all(|&byte| byte == 3));
    fill.call(&mut store, (start, 3, 2 * STRIDE + 2))
        .unwrap_err();
}

#[test]
fn what_is_known_to_be_short_stays_as_it_is() {
    let module = |count: u32| {
        let text = format!(
            r#"(module (memory 9) (func
                (memory.copy (i32.const 0) (i32.const 1) (i32.const {count}))
                (memory.fill (i32.const 0) (i32.const 1) (i32.const {count}))))"#
        );
        wat::parse_str(text).unwrap()
    };
    assert!(strided(&module(STRIDE)).is_none());
    assert!(strided(&module(STRIDE + 1)).is_some());
    // The number that comes before it need not be its length: it may have jumped over it.
    let jumps = r#"(module (memory 9) (func (param i32)
        (i32.const 0) (i32.const 1)
        (block (result i32) (local.get 0) (br 0) (drop) (i32.const 5))
        (memory.fill)))"#;
    assert!(strided(&wat::parse_str(jumps).unwrap()).is_some());
}

/// The instructions of all modules, by where they are.
fn instructions(wasm: &[u8]) -> BTreeMap<usize, String> {
    let mut all = BTreeMap::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionEntry(body) = payload.unwrap() {
            for operator in body
                .get_operators_reader()
                .unwrap()
                .into_iter_with_offsets()
            {
                let (operator, offset) = operator.unwrap();
                all.insert(offset, format!("{operator:?}"));
            }
        }
    }
    all
}

#[test]
fn each_instruction_is_known_by_where_it_was() {
    let wasm = wat::parse_str(
        r#"(component
            (component
                (core module (memory 9)
                    (func (param i32) (result i32) (i32.add (local.get 0) (i32.const 77)))
                    (func (param i32) (memory.fill (i32.const 0) (i32.const 1) (local.get 0))
                        (memory.copy (i32.const 0) (i32.const 1) (local.get 0)) unreachable)
                    (func (param i32) (drop (i32.const 88))))
                (core module (func (unreachable))))
            (core module (memory 1)
                (func (param i32) (memory.fill (i32.const 0) (i32.const 1) (local.get 0)))))"#,
    )
    .unwrap();
    let strided = strided(&wasm).unwrap();
    let old = instructions(&wasm);
    let mut found = BTreeSet::new();
    for (offset, instruction) in instructions(&strided.wasm) {
        if let Some(at) = strided.positions.old(offset) {
            let before = &old[&at];
            let called = before.starts_with("Memory") && instruction.starts_with("Call");
            assert!(
                called || *before == instruction,
                "{before} is {instruction}"
            );
            assert!(found.insert((at, called)), "{before} is there twice");
        }
    }
    let kept = found.iter().filter(|(_, called)| !called).count();
    assert_eq!((kept, found.len()), (old.len(), old.len() + 3));
    wasmtime::component::Component::new(&engine(), &strided.wasm).unwrap();
}

#[test]
fn what_is_malformed_is_left_to_the_compiler() {
    let wasm = module("i32", "i32");
    for length in [0, 4, 7, 8, 9, 20, wasm.len() - 1] {
        assert!(strided(&wasm[..length]).is_none(), "{length} bytes");
    }
}

/// What is wrong with it the compiler says; here nothing may panic, and what was understood stays a module.
#[test]
fn a_change_of_any_byte_is_survived() {
    let wasm = wat::parse_str(
        r#"(component (core module (memory 9) (data $text "some")
            (type (func (param i64) (result i32)))
            (func (param i32) (local f32 i64)
                (memory.fill (i32.const 0) (i32.const 1) (local.get 0))
                (memory.init $text (i32.const 0) (i32.const 1) (local.get 0))
                (memory.copy (i32.const 0) (i32.const 1) (local.get 0)))))"#,
    )
    .unwrap();
    assert!(strided(&wasm).is_some());
    for index in 0..wasm.len() {
        for byte in 0..=255 {
            let mut changed = wasm.clone();
            changed[index] = byte;
            if let Some(strided) = strided(&changed) {
                let kept = strided.positions.old(strided.wasm.len() - 1);
                assert!(
                    kept.is_none_or(|old| old < changed.len()),
                    "{index}: {byte}"
                );
            }
        }
    }
}
