//! `paths STEP...` takes steps with files, in order; a step is one argument, its words separated by spaces:
//!
//! - `read P`, `write P TEXT`, `append P TEXT`, `new P` (must not be there), `list P` (joined by commas)
//! - `stat P`, `lstat P`: `file LENGTH`, `dir`, `link` or `other`
//! - `mkdir P`, `rmdir P`, `unlink P`, `readlink P`, `symlink TARGET P`, `rename A B`, `link A B`
//! - `times N STEP` takes a step N times and tells each different answer once, sorted, joined by `|`
//!
//! Each step's line is what it found or `ok`, or the text of the error.

use std::collections::BTreeSet;
use std::ffi::{CString, c_char, c_int};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};

pub fn main() {
    for step in std::env::args().skip(1) {
        let words: Vec<&str> = step.split(' ').collect();
        println!("{}", take(&words));
    }
}

fn take(words: &[&str]) -> String {
    let done = match *words {
        ["times", times, ref step @ ..] => {
            let times = times.parse().expect("a number");
            let answers: BTreeSet<String> = (0..times).map(|_| take(step)).collect();
            Ok(answers.into_iter().collect::<Vec<_>>().join("|"))
        }
        ["read", path] => fs::read_to_string(path),
        ["write", path, text] => ok(File::create(path).and_then(|file| put(file, text))),
        ["append", path, text] => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            ok(file.and_then(|file| put(file, text)))
        }
        ["new", path] => ok(File::create_new(path).map(drop)),
        ["list", path] => list(path),
        ["stat", path] => fs::metadata(path).map(kind),
        ["lstat", path] => fs::symlink_metadata(path).map(kind),
        ["mkdir", path] => ok(fs::create_dir(path)),
        ["rmdir", path] => ok(fs::remove_dir(path)),
        ["unlink", path] => ok(fs::remove_file(path)),
        ["readlink", path] => fs::read_link(path).map(|target| target.display().to_string()),
        ["symlink", target, path] => ok(make_symlink(target, path)),
        ["rename", old, new] => ok(fs::rename(old, new)),
        ["link", old, new] => ok(fs::hard_link(old, new)),
        _ => panic!("no step: {words:?}"),
    };
    // The kinds of the standard library are fewer than the errors of WASI.
    done.unwrap_or_else(|error| {
        let text = error.to_string();
        text.split(" (os error").next().unwrap_or_default().to_owned()
    })
}

fn ok(done: io::Result<()>) -> io::Result<String> {
    done.map(|()| "ok".to_owned())
}

fn put(mut file: File, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())
}

fn list(path: &str) -> io::Result<String> {
    let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().display().to_string()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.join(","))
}

fn kind(metadata: Metadata) -> String {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        "link".to_owned()
    } else if kind.is_file() {
        format!("file {}", metadata.len())
    } else {
        "other".to_owned()
    }
}

// The standard library's is not stable for WASI; it is wasi-libc's.
unsafe extern "C" {
    fn symlink(target: *const c_char, path: *const c_char) -> c_int;
}

fn make_symlink(target: &str, path: &str) -> io::Result<()> {
    let (target, path) = (CString::new(target)?, CString::new(path)?);
    // SAFETY: two C strings that outlive the call.
    match unsafe { symlink(target.as_ptr(), path.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
