//! The pages that code is on, which a fence takes away one after the other.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mm::{MprotectFlags, mprotect};
use wasi_runtime::Outcome;

use super::{Random, in_a_storm, or_spin, spin};
use crate::fixture::{Fixture, args, start};
use crate::wasm;

const PAGE: usize = 4096;

/// Numbers that are found in a program's code.
const TERM: i64 = 0x0fed_cba9_8765_4321;
const STEP: i64 = 0x1234_5678_9abc_def1;

/// A mapping of this process: where, how it is protected, and what part of a file it is.
struct Mapping {
    at: Range<usize>,
    protection: String,
    offset: usize,
}

/// The mappings of a file.
fn mappings(file: &Path) -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_file = maps
        .lines()
        .filter(|line| line.ends_with(file.to_str().unwrap()));
    let number = |digits: &str| usize::from_str_radix(digits, 16).unwrap();
    of_file
        .map(|line| {
            let mut fields = line.split(' ');
            let (start, end) = fields.next().unwrap().split_once('-').unwrap();
            Mapping {
                at: number(start)..number(end),
                protection: fields.next().unwrap().to_owned(),
                offset: number(fields.next().unwrap()),
            }
        })
        .collect()
}

/// Where memory cannot be protected from being executed, code that may be read runs on: User-Mode Linux,
/// processors on which NX is switched off.
#[test]
fn code_cannot_even_be_read_while_a_fence_is_up() {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let fixture = Fixture::new();
    let artifact = fixture.wat(&or_spin("", ""));
    let file = fixture.entry();
    let mapped = mappings(&file);
    let text = mapped.iter().find(|mapping| mapping.protection == "r-xp");
    let text = text.expect("code is executable").at.start;
    in_a_storm(&artifact, || {
        let begun = Instant::now();
        loop {
            let mapped = mappings(&file);
            let here = mapped.iter().find(|mapping| mapping.at.contains(&text));
            match here.unwrap().protection.as_str() {
                "---p" => break,
                "r-xp" => assert!(
                    begun.elapsed() < Duration::from_secs(60),
                    "no fence was seen"
                ),
                other => panic!("the fence is {other}"),
            }
        }
    });
}

/// Constants are at the end of a function: another page than the loop's that reads them.
#[test]
fn a_guest_that_reads_constants_is_stopped() {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut between = String::new();
    for _ in 0..1000 {
        write!(
            between,
            "(local.set $x (i64.add (i64.xor (local.get $x) (i64.const {})) (i64.const {})))",
            random.next().cast_signed(),
            random.next().cast_signed(),
        )
        .unwrap();
    }
    // An addition has its number in it, and `xor` reads it. The loop ends after centuries, if ever.
    let program = wasm::module(&format!(
        r#"(data (i32.const 64) "ready\n")
        (func (export "_start") (local $x i64)
            (call $say (i32.const 1) (i32.const 64) (i32.const 6))
            (loop $more
                (local.set $x (i64.add
                    (i64.xor (local.get $x) (i64.const {TERM}))
                    (i64.const {STEP})))
                (br_if $more (i64.ne (local.get $x) (i64.const 0))))
            {between}
            (i64.store (i32.const 264) (local.get $x)))"#
    ));
    let fixture = Fixture::new();
    let artifact = fixture.wat(&program);
    let entry = fixture.entry();
    let image = std::fs::read(&entry).unwrap();
    let find = |bytes: [u8; 8]| image.windows(8).position(|window| window == bytes);
    let constant = find(TERM.to_le_bytes()).expect("the constant is in the artifact");
    let turn = find(STEP.to_le_bytes()).expect("the loop has its step in it");
    assert_ne!(constant / PAGE, turn / PAGE, "they are to be on two pages");
    let mapped = mappings(&entry);
    let first = mapped.iter().min_by_key(|mapping| mapping.offset).unwrap();
    let page = (first.at.start - first.offset + constant) & !(PAGE - 1);

    let guest = start(&artifact, args(["guest"]));
    guest.line();
    for _ in 0..200 {
        // As in the midst of a fence that goes up or down. The next one to come down ends it.
        take_away(page);
        spin(random.next() % 20_000);
        guest.interrupter.pause();
        guest.interrupter.resume();
    }
    take_away(page);
    assert_eq!(guest.kill().outcome, Outcome::Killed);
}

#[allow(unsafe_code, reason = "changing a protection has no safe interface")]
fn take_away(page: usize) {
    // SAFETY: a page of machine code, which nobody but its guest accesses.
    unsafe { mprotect(page as *mut _, PAGE, MprotectFlags::empty()) }.unwrap();
}
