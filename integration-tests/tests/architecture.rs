//! The rules of ARCHITECTURE.md that a machine can check: who may depend on whom, and how large a file
//! may be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use integration_tests::invocation::Invocation;

/// A file that is longer holds more than one type.
const MAX_LINES: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The packages that `package` is built from, itself included, without what only its tests need.
fn dependencies(package: &str) -> Result<Vec<String>> {
    let args = [
        "tree",
        "--locked",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
    ];
    let tree = Invocation::new("cargo")
        .cwd(root())
        .args(args)
        .args(["--package", package, "--format", "{p}"])
        .success()?;
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    Ok(tree.stdout.lines().map(name).collect())
}

fn has_none(package: &str, forbidden: &[&str]) -> Result<()> {
    let dependencies = dependencies(package)?;
    ensure!(
        dependencies.len() > 1,
        "{package} depends on nothing, which cannot be"
    );
    for name in &dependencies {
        let matches = |prefix: &&str| name == *prefix || name.starts_with(&format!("{prefix}-"));
        ensure!(
            !forbidden.iter().any(matches),
            "{package} depends on {name}"
        );
    }
    Ok(())
}

fn sources() -> Result<Vec<PathBuf>> {
    let files = Invocation::new("git")
        .cwd(root())
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .success()?;
    Ok(files.stdout.lines().map(|file| root().join(file)).collect())
}

#[test]
fn bundles_knows_no_engine_and_does_no_async() -> Result<()> {
    has_none(
        "wasi-bundles",
        &["wasmtime", "cranelift", "tokio", "ttrpc", "containerd-shim"],
    )
}

#[test]
fn the_runtime_knows_no_containerd_and_no_oci() -> Result<()> {
    has_none(
        "wasi-runtime",
        &[
            "containerd",
            "containerd-shim",
            "ttrpc",
            "oci-spec",
            "wasi-bundles",
        ],
    )
}

#[test]
fn the_shim_has_no_compiler() -> Result<()> {
    let compilers = [
        "cranelift-codegen",
        "wasmtime-internal-cranelift",
        "wasmtime-internal-winch",
    ];
    has_none("containerd-shim-wasi", &compilers)?;
    let compiler = dependencies("wasi-compiler")?;
    ensure!(
        compiler.iter().any(|name| name == "cranelift-codegen"),
        "the check sees nothing"
    );
    Ok(())
}

#[test]
fn the_integration_tests_link_none_of_our_crates() -> Result<()> {
    has_none(
        "integration-tests",
        &["wasi-bundles", "wasi-runtime", "containerd-shim-wasi"],
    )
}

#[test]
fn requests_stay_in_services() -> Result<()> {
    // `delete` is a client of the shim, this shim is one of the shim of Linux containers, and events and
    // questions are requests of ours to containerd.
    const CLIENTS: [&str; 9] = [
        "recover.rs",
        "events.rs",
        "grpc.rs",
        "runc.rs",
        "runc/child.rs",
        "runc/container.rs",
        "runc/pause.rs",
        "containers.rs",
        "containers/linux.rs",
    ];
    let mut seen = 0;
    for file in sources()? {
        let path = file.to_string_lossy().into_owned();
        if !path.contains("/shim/src/") || CLIENTS.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| path.clone())?;
        let words = text.split(|c: char| !c.is_alphanumeric());
        // `Request` alone is the lifecycle's own.
        let found: Vec<_> = words
            .filter(|word| word.ends_with("Request") && *word != "Request")
            .collect();
        if path.contains("/services/") {
            seen += found.len();
        } else {
            ensure!(found.is_empty(), "{path} names {found:?}");
        }
    }
    ensure!(seen > 0, "the check sees nothing");
    Ok(())
}

#[test]
fn no_file_is_too_long_to_read() -> Result<()> {
    let sources = sources()?;
    ensure!(sources.len() > 20, "the check sees nothing");
    for file in sources {
        let lines = fs::read_to_string(&file)?.lines().count();
        ensure!(lines <= MAX_LINES, "{} has {lines} lines", file.display());
    }
    Ok(())
}
