//! `containerd-shim-wasi-v1`: see the library's page for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_shim_wasi::main()
}
