//! A file of the cache is mapped and executed if, and only if, it is what was sealed.

#![no_main]
#![allow(
    unsafe_code,
    reason = "`target!` makes the function that libFuzzer calls"
)]
#![allow(
    clippy::unwrap_used,
    reason = "what must not fail and does is a finding"
)]

use std::fs::File;
use std::io::Write;

use arbitrary::Arbitrary;
use rustix::fs::{MemfdFlags, memfd_create};
use wasi_runtime::internals::{check, seal};

#[derive(Arbitrary, Debug)]
struct Entry<'a> {
    artifact: &'a [u8],
    damages: Vec<Damage<'a>>,
}

/// What happens to a disk.
#[derive(Arbitrary, Debug)]
enum Damage<'a> {
    Cut(u16),
    Flip(u16, u8),
    Write(u16, &'a [u8]),
    Append(&'a [u8]),
    /// The end is written again, over something else.
    CopyTrailer(u16),
    Replace(&'a [u8]),
}

fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("entry", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

wasi_fuzz::target!(|entry: Entry<'_>| {
    let mut sealed = file(entry.artifact);
    seal(&mut sealed).unwrap();
    assert_eq!(check(&sealed).unwrap(), Ok(()));
    let mut whole = vec![0; usize::try_from(sealed.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(&sealed, &mut whole, 0).unwrap();
    assert_eq!(&whole[..entry.artifact.len()], entry.artifact);
    let mut damaged = whole.clone();
    for damage in &entry.damages {
        apply(damage, &mut damaged, &whole);
    }
    // Without its trailer or with another artifact's, it would have to be a collision of SHA-256.
    assert_eq!(check(&file(&damaged)).unwrap().is_ok(), damaged == whole);
});

fn apply(damage: &Damage<'_>, bytes: &mut Vec<u8>, whole: &[u8]) {
    let place = |at: u16| usize::from(at) % bytes.len().max(1);
    match *damage {
        Damage::Cut(length) => bytes.truncate(place(length)),
        Damage::Flip(at, bits) => {
            let at = place(at);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
        }
        Damage::Write(at, new) => {
            let at = place(at);
            let end = bytes.len().min(at + new.len());
            bytes.splice(at..end, new.iter().copied());
        }
        Damage::Append(new) => bytes.extend_from_slice(new),
        Damage::CopyTrailer(at) => {
            bytes.truncate(place(at));
            bytes.extend_from_slice(&whole[whole.len() - 40..]);
        }
        Damage::Replace(new) => new.clone_into(bytes),
    }
}
