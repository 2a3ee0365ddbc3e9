//! Programs that import anything: linked or refused by name, at the program's cost. Each is compiled by the
//! real compile child.

#![no_main]
#![allow(
    unsafe_code,
    reason = "`target!` makes the function that libFuzzer calls"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what must not fail and does is a finding"
)]

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use wasi_runtime::{Cache, Compiler, Engine, Error, Guest};

#[derive(Arbitrary, Debug)]
enum Program {
    Module { imports: Vec<Import>, entry: Entry },
    Component { imports: Vec<Interface> },
}

#[derive(Arbitrary, Debug)]
struct Import {
    module: Name,
    name: Name,
    kind: Kind,
}

#[derive(Arbitrary, Debug)]
enum Name {
    Preview1,
    Env,
    Known(u8),
    Other(String),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Kind {
    Function { parameters: u8, results: bool },
    Memory,
    Table,
    Global,
}

#[derive(Arbitrary, Debug)]
enum Entry {
    None,
    Start,
    WithParameter,
    Memory,
}

#[derive(Arbitrary, Debug)]
struct Interface {
    package: u8,
    interface: u8,
    version: u8,
}

const FUNCTIONS: [&str; 6] = [
    "fd_write",
    "fd_read",
    "proc_exit",
    "sched_yield",
    "sock_accept",
    "args_get",
];
const PACKAGES: [&str; 6] = [
    "wasi:cli",
    "wasi:io",
    "wasi:clocks",
    "wasi:nn",
    "wasi:http",
    "acme:wasi",
];
const INTERFACES: [&str; 4] = ["stdin", "streams", "poll", "types"];
const VERSIONS: [&str; 4] = ["", "@0.2.0", "@0.2.99", "@0.3.0"];

fn pick<'a>(names: &[&'a str], index: u8) -> &'a str {
    names[usize::from(index) % names.len()]
}

impl Name {
    /// As a string of the text format.
    fn text(&self) -> String {
        let name = match self {
            Self::Preview1 => "wasi_snapshot_preview1",
            Self::Env => "env",
            Self::Known(index) => pick(&FUNCTIONS, *index),
            Self::Other(name) => name,
        };
        let bytes = name.bytes().map(|byte| format!("\\{byte:02x}"));
        format!("\"{}\"", bytes.collect::<String>())
    }
}

impl Program {
    fn text(&self) -> String {
        match self {
            Self::Module { imports, entry } => {
                let imports: String = imports.iter().map(Import::text).collect();
                let entry = match entry {
                    Entry::None => "",
                    Entry::Start => "(func (export \"_start\"))",
                    Entry::WithParameter => "(func (export \"_start\") (param i32))",
                    Entry::Memory => "(memory (export \"_start\") 1)",
                };
                format!("(module {imports} {entry})")
            }
            Self::Component { imports } => {
                let imports: String = imports.iter().map(Interface::text).collect();
                format!("(component {imports})")
            }
        }
    }
}

impl Import {
    fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Function {
                parameters,
                results,
            } => {
                let parameters = "i32 ".repeat(usize::from(parameters % 6));
                let results = if results { "(result i32)" } else { "" };
                format!("(func (param {parameters}) {results})")
            }
            Kind::Memory => "(memory 1)".to_owned(),
            Kind::Table => "(table 1 funcref)".to_owned(),
            Kind::Global => "(global i32)".to_owned(),
        };
        format!(
            "(import {} {} {kind})",
            self.module.text(),
            self.name.text()
        )
    }
}

impl Interface {
    fn text(&self) -> String {
        let package = pick(&PACKAGES, self.package);
        let interface = pick(&INTERFACES, self.interface);
        let version = pick(&VERSIONS, self.version);
        format!("(import \"{package}/{interface}{version}\" (instance))")
    }
}

struct Host {
    engine: Engine,
    cache: Cache,
    _folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let mode = Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new()
            .permissions(mode)
            .tempdir()
            .unwrap();
        let program = std::env::current_exe().unwrap();
        let compiler = Compiler::new(program.with_file_name("containerd-shim-wasi-compile"));
        let directory = File::open(folder.path()).unwrap();
        Self {
            engine: Engine::new().unwrap(),
            // What was compiled is not wanted again.
            cache: Cache::new(directory.into(), compiler)
                .unwrap()
                .limit(1 << 20),
            _folder: folder,
        }
    }
}

static HOST: OnceLock<Host> = OnceLock::new();

wasi_fuzz::target!(|program: Program| {
    // One name twice in a component is no component.
    let Ok(wasm) = wat::parse_str(program.text()) else {
        return;
    };
    let mut file = File::from(memfd_create("program", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&wasm).unwrap();
    let host = HOST.get_or_init(Host::new);
    let loaded = match host.cache.load(&host.engine, &file) {
        Ok(loaded) => loaded,
        Err(error) => return assert!(error.is_guest_fault(), "{error}"),
    };
    let foreign = match &program {
        Program::Module { imports, .. } => imports
            .iter()
            .any(|import| matches!(import.module, Name::Env)),
        Program::Component { imports } => {
            let mut packages = imports.iter().map(|import| pick(&PACKAGES, import.package));
            packages.any(|package| ["wasi:nn", "acme:wasi"].contains(&package))
        }
    };
    match loaded.artifact.prepare(Guest::default()) {
        Ok(_prepared) => assert!(!foreign, "{program:?}"),
        Err(error) => {
            assert!(error.is_guest_fault(), "{error}");
            let named = matches!(&error, Error::Unresolved { imports, .. } if !imports.is_empty());
            assert!(named || !foreign, "{error}");
        }
    }
});
