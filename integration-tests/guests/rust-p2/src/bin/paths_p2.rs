//! `paths`, compiled for WASI 0.2.

#[path = "../../../rust/src/bin/paths.rs"]
mod paths;

fn main() {
    paths::main();
}
