//! Links libFuzzer, which comes with clang. (Not `libfuzzer-sys`: it builds libFuzzer with features of `cc`
//! that would have wasmtime, which has the same `cc`, built again.)

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let clang = Command::new("clang").arg("--print-resource-dir").output();
    // Checked without being linked, the targets need no libFuzzer. Linked without, the linker names it.
    if let Ok(clang) = clang {
        let folder = String::from_utf8_lossy(&clang.stdout);
        println!("cargo::rustc-link-search={}/lib/linux", folder.trim());
    }
    let architecture = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    println!("cargo::rustc-link-lib=static=clang_rt.fuzzer-{architecture}");
    println!("cargo::rustc-link-lib=stdc++");
}
