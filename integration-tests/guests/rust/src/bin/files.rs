//! `files COMMAND PATH [TEXT]` does one thing with a file:
//!
//! - `read PATH` prints its contents
//! - `list PATH` prints a folder's names, sorted, one a line; `/` after a folder's, `@` after a symlink's
//! - `write PATH TEXT` creates or truncates, `append PATH TEXT` needs no file to be there: `ok`
//! - `mkdir PATH`, `remove PATH` (a file or an empty folder): `ok`
//!
//! What fails is told on stderr as `error: KIND: MESSAGE`, KIND being a name of `std::io::ErrorKind`,
//! and exits with 1.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["read", path] => read(path),
        ["list", path] => list(path),
        ["write", path, text] => put(File::create(path), text),
        ["append", path, text] => put(
            OpenOptions::new().append(true).create(true).open(path),
            text,
        ),
        ["mkdir", path] => fs::create_dir(path).and_then(|()| ok()),
        ["remove", path] => remove(path),
        _ => {
            eprintln!("usage: files read|list|mkdir|remove PATH, files write|append PATH TEXT");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {:?}: {error}", error.kind());
            ExitCode::FAILURE
        }
    }
}

fn ok() -> io::Result<()> {
    writeln!(io::stdout(), "ok")
}

fn read(path: &str) -> io::Result<()> {
    io::stdout().write_all(&fs::read(path)?)
}

fn list(path: &str) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        let mark = if kind.is_dir() {
            "/"
        } else if kind.is_symlink() {
            "@"
        } else {
            ""
        };
        names.push(name + mark);
    }
    names.sort();
    for name in names {
        writeln!(io::stdout(), "{name}")?;
    }
    Ok(())
}

fn put(file: io::Result<File>, text: &str) -> io::Result<()> {
    file?.write_all(text.as_bytes())?;
    ok()
}

fn remove(path: &str) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir(path)?;
    } else {
        fs::remove_file(path)?;
    }
    ok()
}
