//! Runs a wasm file: `run FILE.wasm [--dir DIR] [--env NAME=VALUE]... [--cache DIR] [ARGUMENT]...`
//!
//! DIR is the guest's root directory. Without `--cache` the artifact is kept in a temporary folder. The
//! compile child is expected beside the example's folder, where `make build` puts it.

use std::error::Error;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::thread::JoinHandle;

use wasi_runtime::{Cache, Compiler, Engine, Guest, Input, Outcome, Output, Preopen};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let file = words
        .next()
        .ok_or("usage: run FILE.wasm [OPTION]... [ARGUMENT]...")?;
    let temporary = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o700))
        .tempdir()?;
    let mut folder = temporary.path().to_path_buf();
    let (stdout, stdout_copied) = relay(std::io::stdout().as_fd().try_clone_to_owned()?)?;
    let (stderr, stderr_copied) = relay(std::io::stderr().as_fd().try_clone_to_owned()?)?;
    let mut guest = Guest {
        args: vec![file.clone()],
        // Opened anew: what the shell shares with this process is not to become non-blocking.
        stdin: Input::from_fd(File::open("/dev/stdin")?.into())?,
        stdout,
        stderr,
        ..Guest::default()
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--dir" => guest.preopens.push(Preopen {
                directory: File::open(value()?)?.into(),
                name: "/".to_owned(),
            }),
            "--env" => {
                let variable = value()?;
                let (name, value) = variable.split_once('=').ok_or("--env wants NAME=VALUE")?;
                guest.env.push((name.to_owned(), value.to_owned()));
            }
            "--cache" => folder = value()?.into(),
            _ => guest.args.extend([word].into_iter().chain(words.by_ref())),
        }
    }
    let program = std::env::current_exe()?.with_file_name("../containerd-shim-wasi-compile");
    let cache = Cache::new(File::open(folder)?.into(), Compiler::new(program))?;
    let loaded = cache.load(&Engine::new()?, &File::open(file)?)?;
    let prepared = loaded.artifact.prepare(guest)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(prepared.run());
    for copied in [stdout_copied, stderr_copied] {
        copied.join().expect("copying does not panic")?;
    }
    Ok(match outcome {
        Outcome::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX).into(),
        Outcome::Trapped { .. } | Outcome::StackOverflow { .. } | Outcome::TooMany { .. } => {
            ExitCode::from(134)
        }
        Outcome::DeadlineExceeded { .. } => ExitCode::from(124),
        Outcome::OutOfMemory { .. } | Outcome::Killed => ExitCode::from(137),
    })
}

type Copying = JoinHandle<io::Result<u64>>;

/// A pipe for the guest to write to, and the thread that copies it to `to`.
fn relay(to: OwnedFd) -> Result<(Output, Copying), Box<dyn Error>> {
    let (mut reader, writer) = io::pipe()?;
    let thread = std::thread::spawn(move || io::copy(&mut reader, &mut File::from(to)));
    Ok((Output::from_fd(writer.into())?, thread))
}
