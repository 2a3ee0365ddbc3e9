//! Entrypoints of bundles on disk: rules one by one, then random names against a root full of links.

use std::{
    fs,
    io::{Read, Seek},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, mknodat};

use super::*;
use crate::{
    Bundle, NotWasm, Plan,
    testing::{BundleBuilder, COMPONENT, MODULE, TestBundle},
};

fn resolve(bundle: &TestBundle) -> Result<Entrypoint, Error> {
    let plan = Plan::new(&Bundle::open(bundle.path()).unwrap()).unwrap();
    let root = File::open(bundle.rootfs()).unwrap();
    Entrypoint::resolve(root.as_fd(), plan.process())
}

fn found(bundle: BundleBuilder) -> (String, Option<String>) {
    let entrypoint = resolve(&bundle.build()).unwrap();
    (entrypoint.path, entrypoint.export)
}

fn refused(bundle: BundleBuilder) -> String {
    resolve(&bundle.build()).unwrap_err().to_string()
}

#[test]
fn an_absolute_name_is_a_path_in_the_root() {
    let bundle = BundleBuilder::new().build();
    let mut entrypoint = resolve(&bundle).unwrap();
    assert_eq!(entrypoint.path, "/app.wasm");
    assert_eq!(entrypoint.kind, Kind::Module);
    assert_eq!(entrypoint.export, None);
    // The offset is untouched by looking at the preamble.
    assert_eq!(entrypoint.file.stream_position().unwrap(), 0);
    let mut bytes = Vec::new();
    entrypoint.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, MODULE);
}

#[test]
fn a_name_with_a_slash_is_relative_to_the_working_directory() {
    let bundle = || {
        BundleBuilder::new()
            .cwd("/srv")
            .file("/srv/bin/tool.wasm", COMPONENT)
    };
    assert_eq!(
        found(bundle().args(&["bin/tool.wasm"])).0,
        "/srv/bin/tool.wasm"
    );
    assert_eq!(
        found(bundle().args(&["././bin/tool.wasm"])).0,
        "/srv/bin/tool.wasm"
    );
    assert_eq!(found(bundle().args(&["../app.wasm"])).0, "/srv/../app.wasm");
}

#[test]
fn a_bare_name_is_looked_for_in_path_then_the_working_directory_then_the_root() {
    let mut bundle = BundleBuilder::new()
        .args(&["app.wasm"])
        .env("PATH", "/none:/opt/bin:rel")
        .cwd("/srv");
    assert_eq!(found(bundle.clone()).0, "/app.wasm");
    for closer in ["/srv/app.wasm", "/srv/rel/app.wasm", "/opt/bin/app.wasm"] {
        bundle = bundle.file(closer, MODULE);
        assert_eq!(found(bundle.clone()).0, closer);
    }
}

#[test]
fn without_path_the_default_one_is_searched() {
    let bundle = BundleBuilder::new()
        .args(&["tool"])
        .file("/usr/bin/tool", MODULE);
    assert_eq!(found(bundle).0, "/usr/bin/tool");
}

#[test]
fn a_directory_in_path_is_passed_over() {
    let bundle = BundleBuilder::new()
        .args(&["app.wasm"])
        .file("/usr/bin/app.wasm/x", b"");
    assert_eq!(found(bundle).0, "/app.wasm");
}

#[test]
fn what_is_behind_the_hash_is_an_export() {
    for (name, path, export) in [
        ("/app.wasm#run", "/app.wasm", "run"),
        ("app.wasm#run", "/app.wasm", "run"),
        (
            "/app.wasm#wasi:cli/run@0.2.0#run",
            "/app.wasm",
            "wasi:cli/run@0.2.0#run",
        ),
    ] {
        let bundle = BundleBuilder::new().args(&[name]);
        assert_eq!(found(bundle), (path.to_owned(), Some(export.to_owned())));
    }
}

#[test]
fn a_file_with_a_hash_in_its_name_wins_over_the_export() {
    let bundle = BundleBuilder::new()
        .args(&["app.wasm#run"])
        .file("/app.wasm#run", MODULE);
    assert_eq!(found(bundle), ("/app.wasm#run".to_owned(), None));
}

#[test]
fn a_hash_needs_a_file_before_and_an_export_behind() {
    assert_eq!(
        refused(BundleBuilder::new().args(&["#run"])),
        "the entrypoint `#run` names an export and no file; put the file before #"
    );
    assert_eq!(
        refused(BundleBuilder::new().args(&["/app.wasm#"])),
        "the entrypoint `/app.wasm#` names no export behind #; add one or drop the #"
    );
}

#[test]
fn a_missing_file_is_named_with_the_paths_looked_at() {
    assert_eq!(
        refused(BundleBuilder::new().args(&["/bin/x"])),
        "the container has no file `/bin/x` (looked for /bin/x)"
    );
    let bundle = BundleBuilder::new()
        .args(&["x.wasm#run"])
        .env("PATH", "/bin:/bin")
        .cwd("/srv");
    assert_eq!(
        refused(bundle),
        "the container has no file `x.wasm` (looked for /bin/x.wasm, /srv/x.wasm, /x.wasm)"
    );
}

#[test]
fn what_is_no_wasm_is_named_with_the_way_out() {
    for (bytes, text) in [
        (
            b"\x7fELF\x02\x01\x01\0" as &[u8],
            "/app is an ELF executable, not WebAssembly; this runtime only runs wasm modules and components",
        ),
        (
            b"#!/bin/sh",
            "/app is a script starting with #!, not WebAssembly; this runtime only runs wasm modules and components",
        ),
        (
            b"\x7fELF\x02\x01\x01\xc8",
            "/app is a precompiled wasmtime artifact, which would be native code of a stranger; \
             put the .wasm file into the image: it is compiled once on the node",
        ),
        (
            b"\0asm\x02\0\0\0",
            "/app is WebAssembly of an unknown version (0x00000002); this runtime runs core modules of \
             version 1 and components of version 13, build it with a current toolchain",
        ),
        (
            b"",
            "/app is an empty file, not WebAssembly; this runtime only runs wasm modules and components",
        ),
        (
            b"\x1f\x8b",
            "/app is gzip-compressed, not WebAssembly; put the uncompressed .wasm file into the image",
        ),
        (
            b"(module)",
            "/app is WebAssembly in its text format; convert it to binary with `wasm-tools parse`",
        ),
        (
            b"hello",
            "/app is a file of an unknown format, not WebAssembly; this runtime only runs wasm modules and components",
        ),
    ] {
        let bundle = BundleBuilder::new().args(&["/app"]).file("/app", bytes);
        assert_eq!(refused(bundle), text);
    }
}

#[test]
fn a_linux_program_in_path_is_found_before_wasm_in_the_root() {
    let bundle = BundleBuilder::new()
        .args(&["app.wasm"])
        .file("/bin/app.wasm", b"\x7fELF\x02\x01\x01\0");
    let error = resolve(&bundle.build()).unwrap_err();
    let Error::NotWasm { path, what } = error else {
        panic!("{error:?}");
    };
    assert_eq!((path.as_str(), what), ("/bin/app.wasm", NotWasm::Elf));
}

#[test]
fn what_is_no_file_is_refused_and_a_fifo_does_not_hang() {
    let bundle = BundleBuilder::new()
        .args(&["/thing"])
        .file("/dir/x", b"")
        .build();
    let thing = bundle.rootfs().join("thing");

    symlink("dir", &thing).unwrap();
    assert_eq!(
        resolve(&bundle).unwrap_err().to_string(),
        "/thing is a directory, not a file; name the wasm file itself"
    );

    fs::remove_file(&thing).unwrap();
    mknodat(CWD, &thing, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert_eq!(
        resolve(&bundle).unwrap_err().to_string(),
        "/thing is a FIFO, not a file; name the wasm file itself"
    );
}

#[test]
fn a_link_that_goes_in_circles_cannot_be_opened() {
    let bundle = BundleBuilder::new().args(&["/loop"]).build();
    symlink("loop", bundle.rootfs().join("loop")).unwrap();
    let error = resolve(&bundle).unwrap_err();
    assert!(
        matches!(error, Error::OpenEntrypoint { ref path, .. } if path == "/loop"),
        "{error:?}"
    );
}

#[test]
fn links_mean_what_they_mean_to_the_container() {
    let bundle = BundleBuilder::new().args(&["/bin/app"]).build();
    fs::create_dir(bundle.rootfs().join("bin")).unwrap();
    symlink("../../../../../app.wasm", bundle.rootfs().join("bin/app")).unwrap();
    assert_eq!(resolve(&bundle).unwrap().path, "/bin/app");
    fs::remove_file(bundle.rootfs().join("bin/app")).unwrap();
    symlink("/app.wasm", bundle.rootfs().join("bin/app")).unwrap();
    assert_eq!(resolve(&bundle).unwrap().path, "/bin/app");
}

/// A root with links of every kind to a module that lies beside it.
fn maze() -> TestBundle {
    let bundle = BundleBuilder::new()
        .file("/a/app.wasm", MODULE)
        .file("/a/b/app.wasm#run", MODULE)
        .build();
    let secret = bundle.path().join("secret.wasm");
    fs::write(&secret, MODULE).unwrap();
    let root = bundle.rootfs();
    symlink("..", root.join("up")).unwrap();
    symlink("/", root.join("slash")).unwrap();
    symlink("../../..", root.join("a/up")).unwrap();
    symlink("../secret.wasm", root.join("relative")).unwrap();
    symlink(&secret, root.join("absolute")).unwrap();
    symlink(bundle.path(), root.join("bundle")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    bundle
}

/// The inodes of all files below a directory.
fn inodes(dir: &Path) -> Vec<(u64, u64)> {
    let mut inodes = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            inodes.extend(self::inodes(&entry.path()));
        }
        inodes.push((metadata.dev(), metadata.ino()));
    }
    inodes
}

proptest! {
    #[test]
    fn no_name_escapes_the_root(
        names in prop::collection::vec(
            prop::collection::vec(
                prop::sample::select(vec![
                    "..", ".", "", "a", "b", "up", "slash", "relative", "absolute", "bundle", "magic",
                    "app.wasm", "secret.wasm", "app.wasm#run", "#", "rootfs",
                ]),
                1..7,
            )
            .prop_map(|parts| parts.join("/")),
            24,
        ),
        cwd in "/(a|up|slash/a|bundle|a/b/\\.\\.|magic)?",
        path in "(|:|a:up|/bundle:/up|\\.\\.)",
    ) {
        let bundle = maze();
        let inside = inodes(&bundle.rootfs());
        let root = File::open(bundle.rootfs()).unwrap();
        let parsed = Plan::new(&Bundle::open(bundle.path()).unwrap()).unwrap();
        let secret = bundle.path().join("secret.wasm").to_str().unwrap().to_owned();
        for name in names.into_iter().chain([secret]) {
            let mut process = parsed.process().clone();
            process.args = vec![name];
            process.cwd.clone_from(&cwd);
            process.env = vec![("PATH".to_owned(), path.clone())];
            if let Ok(entrypoint) = Entrypoint::resolve(root.as_fd(), &process) {
                let metadata = entrypoint.file.metadata().unwrap();
                prop_assert!(metadata.is_file());
                prop_assert!(inside.contains(&(metadata.dev(), metadata.ino())), "{}", entrypoint.path);
                prop_assert!(entrypoint.path.starts_with('/'));
                prop_assert!(entrypoint.export.is_none_or(|export| !export.is_empty()));
            }
        }
    }

    #[test]
    fn any_text_is_a_name_or_an_error(name in "\\PC{0,40}|[/.#\\x00-\\x7f]{0,40}", cwd in "/\\PC{0,10}") {
        let bundle = BundleBuilder::new().build();
        let root = File::open(bundle.rootfs()).unwrap();
        let plan = Plan::new(&Bundle::open(bundle.path()).unwrap()).unwrap();
        let mut process = plan.process().clone();
        process.args = vec![name];
        process.cwd = cwd;
        drop(Entrypoint::resolve(root.as_fd(), &process));
    }
}

#[test]
fn the_maze_really_leads_out_without_the_root() {
    // Guards the property above against a maze that proves nothing.
    let bundle = maze();
    for link in [
        "relative",
        "absolute",
        "up/secret.wasm",
        "bundle/secret.wasm",
    ] {
        let path: PathBuf = bundle.rootfs().join(link);
        assert_eq!(fs::read(&path).unwrap(), MODULE, "{link}");
    }
}
