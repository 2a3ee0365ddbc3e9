//! Directories that are handed in, and nothing else of the host's.

use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use wasi_runtime::{Error, Guest, Outcome, Preopen};

use crate::fixture::{Fixture, Ran, args, open_folder, pipe, start};

fn with_root<const N: usize>(words: [&str; N], directory: OwnedFd) -> Guest {
    Guest {
        preopens: vec![Preopen {
            directory,
            name: "/".to_owned(),
        }],
        ..args(words)
    }
}

/// A folder with `greeting` in it, and a link out of it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("greeting"), "hello\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../etc/passwd", folder.path().join("relative")).unwrap();
    folder
}

/// Runs the guest `files` as a module and as a component, which have to agree.
fn files(make: impl Fn() -> Guest) -> Ran {
    let fixture = Fixture::new();
    let module = start(&fixture.real("files.wasm"), make()).end();
    let component = start(&fixture.real("files.component.wasm"), make()).end();
    assert_eq!(
        module.outcome, component.outcome,
        "{module:?} {component:?}"
    );
    assert_eq!(module.stdout, component.stdout);
    component
}

#[test]
fn a_directory_lets_the_guest_read_and_write_below_it() {
    let folder = folder();
    let run = |words: [&str; 4]| {
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        files(|| {
            let mut guest = with_root([], open_folder(folder.path()));
            guest.args = words.iter().map(|&word| word.to_owned()).collect();
            guest
        })
        .success()
    };
    assert_eq!(run(["files", "read", "/greeting", ""]), "hello\n");
    assert_eq!(run(["files", "write", "/new", "text"]), "ok\n");
    let written = std::fs::read_to_string(folder.path().join("new")).unwrap();
    assert_eq!(written, "text");
    assert_eq!(
        run(["files", "list", "/", ""]),
        "absolute@\ngreeting\nnew\nrelative@\n"
    );
}

#[test]
fn no_path_and_no_link_leads_out_of_it() {
    let folder = folder();
    for path in [
        "/../etc/passwd",
        "/absolute",
        "/relative",
        "/proc/self/root/etc/passwd",
    ] {
        let ran = files(|| with_root(["files", "read", path], open_folder(folder.path())));
        assert_eq!(ran.outcome, Outcome::Exited(1), "{path}: {ran:?}");
        assert_eq!(ran.stdout, "", "{path}");
    }
}

#[test]
fn without_a_directory_there_are_no_files() {
    let ran = files(|| args(["files", "read", "/etc/passwd"]));
    assert_eq!(ran.outcome, Outcome::Exited(1));
    assert_eq!(ran.stdout, "");
}

#[test]
fn what_the_kernel_forbids_is_an_error_of_the_guests() {
    let ran = files(|| with_root(["files", "write", "/new", "text"], read_only()));
    assert_eq!(ran.outcome, Outcome::Exited(1));
    assert!(ran.stderr.starts_with("error: "), "{ran:?}");
}

/// An empty folder nobody may write to: a detached read-only mount for root, whom modes do not stop.
fn read_only() -> OwnedFd {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen,
    };
    if rustix::process::geteuid().is_root() {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_create(&context).unwrap();
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )
        .unwrap()
    } else {
        let folder = tempfile::tempdir().unwrap();
        let directory = open_folder(folder.path());
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o500)).unwrap();
        // Removed at the end of this block, which refuses new files as well.
        directory
    }
}

#[test]
fn a_descriptor_that_only_names_the_directory_is_enough() {
    let folder = folder();
    let named = || {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(folder.path(), flags, Mode::empty()).unwrap()
    };
    let ran = files(|| with_root(["files", "read", "/greeting"], named()));
    assert_eq!(ran.success(), "hello\n");
}

#[test]
fn what_is_no_directory_cannot_be_handed_over() {
    let artifact = Fixture::new().wat(&crate::wasm::start(""));
    let file = open_folder(Path::new("/proc/self/status"));
    for descriptor in [pipe().0, file] {
        let error = artifact
            .prepare(with_root(["app"], descriptor))
            .unwrap_err();
        assert!(matches!(error, Error::Descriptor { .. }), "{error:?}");
        assert_eq!(error.to_string(), "cannot hand directory / to the guest");
    }
}
