//! Wasm or Linux: whose program the file is that a container's `args[0]` names.
//!
//! Content comes first. `\0asm` is wasm whatever anybody says, and a file that Linux executes (ELF, `#!`) is
//! Linux's: crun's annotations are a pod's, and the sidecars in it carry them, too (crun #829). Annotations
//! decide where content does not: of a file that is neither, they say whose mistake it is, and so does a
//! name that ends in `.wasm` or `.wat`.
//!
//! | annotation | crun takes the container for wasm |
//! |---|---|
//! | `run.oci.handler`: `wasm`, or an engine's name | always |
//! | `run.oci.handler`: `wasm-smart` | if `args[0]` ends in `.wasm` or `.wat` |
//! | `module.wasm.image/variant`: `compat` | always |
//! | `module.wasm.image/variant`: `compat-smart` | if `args[0]` ends in `.wasm` or `.wat` |
//! | any, on a pod's sandbox | never |
//!
//! (crun `src/libcrun/handlers/handler-utils.c`, `custom-handler.c`.) runwasi has no such annotation.

use std::collections::HashMap;

use crate::{Kind, NotWasm};

const HANDLER: &str = "run.oci.handler";
const VARIANT: &str = "module.wasm.image/variant";
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// crun's wasm engines, each of which is a handler.
const ENGINES: [&str; 4] = ["wasmtime", "wasmedge", "wasmer", "wamr"];

/// Who runs a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This runtime.
    Wasm(Kind),
    /// Linux: it is a program of its, or at least none of ours.
    Linux {
        /// What makes it one.
        why: NotWasm,
    },
    /// Nobody: it was meant to be wasm, and cannot be run as it is.
    Nobody {
        /// What it is.
        what: NotWasm,
    },
}

/// Whether somebody has said that a container is wasm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Claim {
    /// Nobody has said a thing.
    #[default]
    None,
    /// An annotation says so, or the program's name.
    Wasm,
}

impl Claim {
    /// What the annotations of a container say of a program called `program` (its `args[0]`).
    pub fn of(annotations: Option<&HashMap<String, String>>, program: &str) -> Self {
        let value = |key| annotations.and_then(|all| all.get(key)).map(String::as_str);
        if value(CONTAINER_TYPE) == Some("sandbox") {
            return Self::None;
        }
        let file = program.split_once('#').map_or(program, |(file, _)| file);
        let looks_so = file.ends_with(".wasm") || file.ends_with(".wat");
        let handler = match value(HANDLER) {
            Some("wasm") => true,
            Some("wasm-smart") => looks_so,
            Some(handler) => ENGINES.contains(&handler),
            None => false,
        };
        let variant = match value(VARIANT) {
            Some("compat") => true,
            Some("compat-smart") => looks_so,
            Some(_) | None => false,
        };
        if handler || variant || looks_so {
            Self::Wasm
        } else {
            Self::None
        }
    }
}

impl Choice {
    /// Decides by the first bytes of a file ([`Kind::PREAMBLE`] of them), and by what was said of it.
    pub fn of(preamble: &[u8], claim: Claim) -> Self {
        let what = match Kind::of(preamble) {
            Ok(kind) => return Self::Wasm(kind),
            Err(what) => what,
        };
        match (what, claim) {
            (NotWasm::Elf | NotWasm::Script, Claim::None | Claim::Wasm)
            | (NotWasm::Empty | NotWasm::Unknown, Claim::None) => Self::Linux { why: what },
            // What these were meant to be is plain, and Linux cannot run them either.
            (
                NotWasm::Precompiled
                | NotWasm::WasmVersion(_)
                | NotWasm::Gzip
                | NotWasm::TextFormat,
                Claim::None | Claim::Wasm,
            )
            | (NotWasm::Empty | NotWasm::Unknown, Claim::Wasm) => Self::Nobody { what },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(annotations: &[(&str, &str)], program: &str) -> Claim {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Claim::of(Some(&annotations.iter().map(owned).collect()), program)
    }

    #[test]
    fn annotations_claim_what_they_claim_for_crun() {
        for (key, value, program, claimed) in [
            (HANDLER, "wasm", "/app", Claim::Wasm),
            (HANDLER, "wasm", "/app.wasm", Claim::Wasm),
            (HANDLER, "wasm-smart", "/app.wasm", Claim::Wasm),
            (HANDLER, "wasm-smart", "/app.wat", Claim::Wasm),
            (HANDLER, "wasm-smart", "/app.wasm#run", Claim::Wasm),
            (HANDLER, "wasm-smart", "/app", Claim::None),
            (HANDLER, "wasmtime", "/app", Claim::Wasm),
            (HANDLER, "wasmedge", "/app", Claim::Wasm),
            (HANDLER, "krun", "/app", Claim::None),
            (VARIANT, "compat", "/app", Claim::Wasm),
            (VARIANT, "compat-smart", "/app.wasm", Claim::Wasm),
            (VARIANT, "compat-smart", "/app", Claim::None),
            (VARIANT, "other", "/app", Claim::None),
            ("other", "wasm", "/app", Claim::None),
            ("other", "wasm", "/app.wasm", Claim::Wasm),
        ] {
            assert_eq!(
                claim(&[(key, value)], program),
                claimed,
                "{key}={value} {program}"
            );
        }
        assert_eq!(Claim::of(None, "/app"), Claim::None);
        assert_eq!(
            Claim::of(None, "/app.wasm"),
            Claim::Wasm,
            "its name says it"
        );
    }

    #[test]
    fn a_sandbox_is_not_what_its_pod_says() {
        let annotations = [
            (HANDLER, "wasm"),
            (VARIANT, "compat"),
            (CONTAINER_TYPE, "sandbox"),
        ];
        assert_eq!(claim(&annotations, "/pause"), Claim::None);
    }

    #[test]
    fn content_comes_first() {
        for claim in [Claim::None, Claim::Wasm] {
            let of = |bytes: &[u8]| Choice::of(bytes, claim);
            assert_eq!(of(b"\0asm\x01\0\0\0"), Choice::Wasm(Kind::Module));
            assert_eq!(of(b"\0asm\x0d\0\x01\0"), Choice::Wasm(Kind::Component));
            assert_eq!(
                of(b"\x7fELF\x02\x01\x01\0"),
                Choice::Linux { why: NotWasm::Elf }
            );
            assert_eq!(
                of(b"#!/bin/sh"),
                Choice::Linux {
                    why: NotWasm::Script
                }
            );
            for (bytes, what) in [
                (b"\x7fELF\x02\x01\x01\xc8" as &[u8], NotWasm::Precompiled),
                (b"\0asm\x02\0\0\0", NotWasm::WasmVersion(2)),
                (b"\x1f\x8b", NotWasm::Gzip),
                (b"(module)", NotWasm::TextFormat),
            ] {
                assert_eq!(of(bytes), Choice::Nobody { what });
            }
        }
    }

    #[test]
    fn annotations_say_whose_mistake_a_strange_file_is() {
        for (bytes, what) in [(b"" as &[u8], NotWasm::Empty), (b"MZ", NotWasm::Unknown)] {
            assert_eq!(Choice::of(bytes, Claim::None), Choice::Linux { why: what });
            assert_eq!(Choice::of(bytes, Claim::Wasm), Choice::Nobody { what });
        }
    }
}
