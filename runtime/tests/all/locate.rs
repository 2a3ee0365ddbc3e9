// Finds what other builds made. The doctests of `lib.rs` include this file, hence no `//!`.

/// The compile child: beside the test program's folder or, for a doctest, which runs anywhere, in
/// the workspace's.
pub(crate) fn compiler() -> std::path::PathBuf {
    built("release/containerd-shim-wasi-compile", "make build")
}

/// A file below the target folder that `command` makes.
pub(crate) fn built(path: &str, command: &str) -> std::path::PathBuf {
    let program = std::env::current_exe().expect("/proc is mounted");
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let chosen = std::env::var_os("CARGO_TARGET_DIR").map(std::path::PathBuf::from);
    program
        .ancestors()
        .skip(3)
        .take(1)
        .map(std::path::Path::to_path_buf)
        .chain(chosen)
        .chain([workspace])
        .map(|target| target.join(path))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("there is no {path} in the target folder: run `{command}`"))
}
