//! Runs a wasm file: `run FILE.wasm [--dir DIR] [--env NAME=VALUE]... [ARGUMENT]...`
//!
//! DIR is the guest's root directory. The compile child is expected beside the example's folder, where
//! `make build` puts it. What it makes is kept in a temporary folder, for this run only.

use std::error::Error;
use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use wasi_runtime::{Cache, Compiler, Engine, Guest, Input, Outcome, Output, Preopen};

const USAGE: &str = "usage: run FILE.wasm [--dir DIR] [--env NAME=VALUE]... [ARGUMENT]...";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let file = words.next().ok_or(USAGE)?;
    // Opened anew: what the shell shares with this process is not to become non-blocking.
    let output = |path| OpenOptions::new().append(true).open(path);
    let mut guest = Guest {
        args: vec![file.clone()],
        stdin: Input::from_fd(File::open("/dev/stdin")?.into())?,
        stdout: Output::from_fd(output("/dev/stdout")?.into())?,
        stderr: Output::from_fd(output("/dev/stderr")?.into())?,
        ..Guest::default()
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--dir" => guest.preopens.push(Preopen {
                directory: File::open(words.next().ok_or(USAGE)?)?.into(),
                name: "/".to_owned(),
            }),
            "--env" => {
                let variable = words.next().ok_or(USAGE)?;
                let (name, value) = variable.split_once('=').ok_or(USAGE)?;
                guest.env.push((name.to_owned(), value.to_owned()));
            }
            _ => guest.args.extend([word].into_iter().chain(words.by_ref())),
        }
    }
    let private = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().permissions(private).tempdir()?;
    let compiler = std::env::current_exe()?.with_file_name("../containerd-shim-wasi-compile");
    let cache = Cache::new(File::open(folder.path())?.into(), Compiler::new(compiler))?;
    let loaded = cache.load(&Engine::new()?, &File::open(file)?)?;
    let prepared = loaded.artifact.prepare(guest)?;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let outcome = runtime.enable_all().build()?.block_on(prepared.run());
    let Outcome::Exited(code) = outcome else {
        // The guest's stderr has the reason already.
        return Ok(ExitCode::from(134));
    };
    Ok(u8::try_from(code).unwrap_or(u8::MAX).into())
}
