//! Modules made to hurt: each costs its container a clear error, and the shim nothing.

use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use wasi_runtime::{Cache, Compiler, Error, Progress};

use crate::cache_folder::{entry, leftovers};
use crate::fixture::{Fixture, open_folder, wasm_file};
use crate::{locate, wasm};

/// Far more than any of these takes, far less than the compiler is given.
const PROMPT: Duration = Duration::from_secs(60);

/// The error of loading `wasm`, which leaves nothing behind.
#[track_caller]
fn refused(fixture: &Fixture, wasm: &[u8], words: &str) -> String {
    refused_by(fixture, fixture.open_cache().unwrap(), wasm, words)
}

#[track_caller]
fn refused_by(fixture: &Fixture, cache: Cache, wasm: &[u8], words: &str) -> String {
    let error = cache.load(&fixture.engine, &wasm_file(wasm)).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(words), "{text}");
    assert!(text.len() < 5000 && !text.contains('\n'), "{text}");
    nothing_is_left(fixture, wasm);
    text
}

#[track_caller]
fn nothing_is_left(fixture: &Fixture, wasm: &[u8]) {
    assert!(!entry(fixture, wasm).exists());
    assert_eq!(leftovers(fixture), [""; 0]);
}

/// A fixture whose script compiles the module only: the engine has what it needs for itself.
fn scripted(script: &str) -> Fixture {
    let fixture = Fixture::with_script(script);
    let folder = open_folder(&fixture.path("cache"));
    let real = Cache::new(folder, Compiler::new(locate::compiler())).unwrap();
    let any = wasm_file(&functions(2, &[]));
    real.load(&fixture.engine, &any).unwrap();
    fixture
}

/// A cache whose compiler is the fixture's script, with another limit of time.
fn impatient(fixture: &Fixture, patience: Duration) -> Cache {
    let folder: OwnedFd = open_folder(&fixture.path("cache"));
    let compiler = Compiler::new(fixture.path("compiler.sh")).patience(patience);
    Cache::new(folder, compiler).unwrap()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = vec![];
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id], leb128(content.len()).as_slice(), content].concat()
}

/// `count` functions without parameters, with the same instructions.
fn functions(count: usize, instructions: &[u8]) -> Vec<u8> {
    let body = [&[0], instructions, &[0x0b]].concat();
    let body = [leb128(body.len()), body].concat();
    let count_ = leb128(count);
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[count_.clone(), vec![0; count]].concat()),
        section(10, &[count_, body.repeat(count)].concat()),
    ]
    .concat()
}

/// `depth` blocks in each other.
fn nested(depth: usize) -> Vec<u8> {
    functions(
        1,
        &[[0x02, 0x40].repeat(depth), [0x0b].repeat(depth)].concat(),
    )
}

#[test]
fn a_huge_file_is_not_even_read() {
    let fixture = scripted(r#"touch "$HERE/ran""#);
    let wasm = tempfile::tempfile().unwrap();
    wasm.set_len(1 << 40).unwrap();
    let error = fixture.open_cache().unwrap().load(&fixture.engine, &wasm);
    assert_eq!(
        error.unwrap_err().to_string(),
        "cannot compile it: the module is larger than 256 MiB"
    );
    assert!(!fixture.path("ran").exists());
    assert_eq!(leftovers(&fixture), [""; 0]);
}

#[test]
fn more_functions_than_allowed_are_refused_and_thousands_are_compiled() {
    let fixture = Fixture::new();
    refused(
        &fixture,
        &functions(1_000_001, &[]),
        "functions count exceeds limit",
    );
    fixture.artifact(&functions(5_000, &[]));
}

#[test]
fn a_function_larger_than_allowed_is_refused() {
    let fixture = Fixture::new();
    refused(&fixture, &nested(4_000_000), "size");
}

#[test]
fn deep_nesting_is_compiled_in_bounded_memory() {
    let fixture = Fixture::new();
    fixture.artifact(&nested(50_000));
    let fixture = scripted(r#"ulimit -v 600000; exec "$REAL" "$@""#);
    refused(&fixture, &nested(2_000_000), "memory");
}

#[test]
fn components_in_components_do_not_exhaust_a_stack() {
    let preamble = b"\0asm\x0d\0\x01\0";
    let mut component = preamble.to_vec();
    for _ in 0..2_000 {
        component = [preamble.to_vec(), section(4, &component)].concat();
    }
    Fixture::new().artifact(&component);
}

#[test]
fn types_in_types_are_refused() {
    // Lists of lists: each is 0x70 and the type before; the first is of bytes.
    let lists = (0..50).flat_map(|of| [0x70, of]);
    let types: Vec<u8> = [51, 0x70, 0x7d].into_iter().chain(lists).collect();
    let component = |types: &[u8]| [b"\0asm\x0d\0\x01\0", section(7, types).as_slice()].concat();
    Fixture::new().artifact(&component(&types));
    let lists = (0..150).flat_map(|of| [[0x70].as_slice(), &signed(of)].concat());
    let types = [leb128(151), vec![0x70, 0x7d], lists.collect()].concat();
    refused(&Fixture::new(), &component(&types), "nesting is too deep");
}

/// LEB128 with a sign, which is in the way from 64 on.
fn signed(number: u8) -> Vec<u8> {
    match number {
        0..64 => vec![number],
        64.. => vec![number | 0x80, number >> 7],
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let fixture = Fixture::new();
    let module = |rest: &[u8]| [b"\0asm\x01\0\0\0", rest].concat();
    for (wasm, words) in [
        (module(&[1, 0xff, 0xff, 0xff, 0xff, 0x0f]), "unexpected end"),
        (module(&[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]), "integer"),
        (module(&[1, 0]), "unexpected end"),
        (module(&[1, 5, 1, 0x60, 0, 0, 0]), "section size mismatch"),
        (
            module(&[3, 0x05, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            "exceeds limit",
        ),
        (
            module(&[10, 0x05, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            "code section",
        ),
        (module(&[0xff, 0]), "section"),
    ] {
        refused(&fixture, &wasm, words);
    }
}

#[test]
fn a_name_cannot_write_to_the_log_as_it_likes() {
    let export = r#"(export "\1b[2J\0aforged" (func 0))"#;
    let wasm = wat::parse_str(format!("(module (func) {export} {export})")).unwrap();
    let text = refused(&Fixture::new(), &wasm, "duplicate export name");
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[test]
fn processor_time_is_limited() {
    let fixture = scripted(r#"ulimit -t 1; exec "$REAL" "$@""#);
    let words = "takes too much memory or time";
    refused(&fixture, &functions(400_000, &[]), words);
}

#[test]
fn a_compiler_that_hangs_is_killed() {
    let fixture = scripted(r#"echo $$ > "$HERE/pid"; exec sleep 1000"#);
    let begun = Instant::now();
    let cache = impatient(&fixture, Duration::from_millis(500));
    refused_by(&fixture, cache, &functions(1, &[]), "stopped after 500ms");
    assert!(begun.elapsed() < PROMPT);
    let pid = std::fs::read_to_string(fixture.path("pid")).unwrap();
    let gone = std::path::Path::new("/proc").join(pid.trim());
    assert!(!gone.exists(), "it is killed and reaped");
}

#[test]
fn a_compiler_that_babbles_is_killed() {
    let fixture = scripted("exec yes >&2");
    let cache = impatient(&fixture, Duration::from_millis(500));
    refused_by(&fixture, cache, &functions(1, &[]), "stopped after 500ms");
}

#[test]
fn who_else_holds_stderr_is_not_waited_for() {
    let fixture = scripted("sleep 100 & echo $! > \"$HERE/pid\"; echo no >&2; exit 1");
    let begun = Instant::now();
    refused(&fixture, &functions(1, &[]), "cannot compile it: no");
    assert!(begun.elapsed() < PROMPT);
    let pid = std::fs::read_to_string(fixture.path("pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn who_waits_is_told_why() {
    let fixture = scripted(r#"read line < "$HERE/gate"; exec "$REAL" "$@""#);
    let gate = fixture.path("gate");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &gate, kind, mode, 0).unwrap();
    let program = wat::parse_str(wasm::start("")).unwrap();
    let load = |watch: &mut dyn FnMut(Progress)| {
        let cache = fixture.open_cache().unwrap();
        let loaded = cache.load_watched(&fixture.engine, &wasm_file(&program), watch);
        loaded.unwrap().origin
    };
    let (sender, told) = channel();
    std::thread::scope(|scope| {
        let compiling = sender.clone();
        scope.spawn(move || load(&mut |progress| compiling.send(progress).unwrap()));
        let Progress::Compiling { elapsed, size } = told.recv_timeout(PROMPT).unwrap() else {
            panic!("nobody else compiles it");
        };
        assert!(elapsed >= Duration::from_secs(2));
        assert_eq!(size, program.len() as u64);
        scope.spawn(move || load(&mut |progress| sender.send(progress).unwrap()));
        let waiting = told.iter().find(|progress| *progress == Progress::Waiting);
        std::fs::write(&gate, "open\n").unwrap();
        assert!(waiting.is_some());
    });
}
