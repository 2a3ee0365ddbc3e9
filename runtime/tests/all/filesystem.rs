//! Paths of a guest mean what they mean in a container whose root is its preopen `/`, and lead nowhere
//! else.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use wasi_runtime::{Artifact, Guest, Preopen};

use crate::fixture::{Fixture, open_folder, start};

mod bounds;
mod unseekable;

/// The same program for WASI 0.1, as a component by way of the adapter, and for WASI 0.2; and for 0.3
/// another one that takes the same steps.
const WORLDS: [&str; 3] = ["paths.wasm", "paths.component.wasm", "paths_p2.wasm"];

fn programs(fixture: &Fixture) -> Vec<(&'static str, Artifact)> {
    let mut programs: Vec<_> = WORLDS.map(|name| (name, fixture.real(name))).into();
    programs.push(("paths_p3.wasm", fixture.asynchronous("paths_p3.wasm")));
    programs
}

/// A container's root in a folder, beside which is what no guest may touch.
struct Container {
    folder: tempfile::TempDir,
}

impl Container {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let here = Self { folder };
        for name in ["root/etc", "root/usr/share/zone", "root/data", "root/tmp"] {
            fs::create_dir_all(here.folder.path().join(name)).unwrap();
        }
        fs::write(here.path("usr/share/zone/utc"), "UTC").unwrap();
        fs::write(here.path("usr/share/x"), "x").unwrap();
        fs::write(here.folder.path().join("secret"), "secret").unwrap();
        here.link("/usr/share/zone/utc", "etc/localtime");
        here.link("/usr/share", "etc/share");
        here.link("/etc/share/zone", "zone");
        here.link("../usr/share/x", "etc/x");
        here.link("/nowhere/at/all", "etc/dangling");
        here.link("/data/made", "etc/made");
        here.link("/loop/a", "loop");
        here
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn link(&self, target: &str, name: &str) {
        symlink(target, self.path(name)).unwrap();
    }

    fn secret(&self) -> String {
        self.folder.path().join("secret").display().to_string()
    }

    fn preopen(&self, name: &str, below: &str) -> Preopen {
        Preopen {
            directory: open_folder(&self.path(below)),
            name: name.to_owned(),
        }
    }

    fn answers(&self, artifact: &Artifact, preopens: Vec<Preopen>, steps: &[&str]) -> Vec<String> {
        answers(artifact, preopens, steps)
    }

    fn root(&self) -> Vec<Preopen> {
        vec![self.preopen("/", "")]
    }
}

fn answers(artifact: &Artifact, preopens: Vec<Preopen>, steps: &[&str]) -> Vec<String> {
    let guest = Guest {
        args: ["paths"]
            .iter()
            .chain(steps)
            .map(|&step| step.to_owned())
            .collect(),
        preopens,
        ..Guest::default()
    };
    let said = start(artifact, guest).end().success();
    said.lines().map(str::to_owned).collect()
}

/// Takes steps in a new container of each world, and compares.
#[track_caller]
fn expect(steps: &[(&str, &str)], check: impl Fn(&Container)) {
    let fixture = Fixture::new();
    let (steps, wanted): (Vec<&str>, Vec<&str>) = steps.iter().copied().unzip();
    for (world, artifact) in programs(&fixture) {
        let container = Container::new();
        let found = container.answers(&artifact, container.root(), &steps);
        for ((step, found), wanted) in steps.iter().zip(&found).zip(&wanted) {
            assert_eq!(found, wanted, "{world}: {step}");
        }
        assert_eq!(found.len(), steps.len(), "{world}");
        check(&container);
        let secret = fs::read_to_string(container.secret()).unwrap();
        assert_eq!(secret, "secret", "{world}");
    }
}

#[test]
fn absolute_links_stay_in_the_container() {
    expect(
        &[
            ("read /etc/localtime", "UTC"),
            ("read /etc/share/zone/utc", "UTC"),
            ("read /zone/utc", "UTC"),
            ("read /etc/x", "x"),
            ("stat /etc/localtime", "file 3"),
            ("lstat /etc/localtime", "link"),
            ("stat /zone", "dir"),
            ("lstat /zone", "link"),
            ("lstat /zone/", "dir"),
            ("list /zone", "utc"),
            ("list /zone/", "utc"),
            ("list /zone/.", "utc"),
            ("list /zone/..", "x,zone"),
            ("readlink /etc/localtime", "/usr/share/zone/utc"),
            (
                "readlink /etc/share/zone/../../../etc/localtime",
                "/usr/share/zone/utc",
            ),
            ("read /etc/dangling", "No such file or directory"),
            ("stat /etc/dangling", "No such file or directory"),
            ("lstat /etc/dangling", "link"),
            ("read /etc/localtime/", "Not a directory"),
            ("read /zone/utc/x", "Not a directory"),
            ("read /loop", "Symbolic link loop"),
            ("stat /loop/x", "Symbolic link loop"),
        ],
        |_| {},
    );
}

#[test]
fn what_is_changed_through_a_link_is_changed_where_it_leads() {
    expect(
        &[
            ("write /etc/made text", "ok"),
            ("read /data/made", "text"),
            ("append /etc/made .more", "ok"),
            ("write /zone/new text", "ok"),
            ("new /zone/new", "File exists"),
            ("new /zone/newer", "ok"),
            ("new /etc/localtime", "File exists"),
            ("new /etc/dangling", "File exists"),
            ("mkdir /etc/share/first/", "ok"),
            ("rename /etc/share/first/ /zone/../folder/", "ok"),
            ("mkdir /etc/share/folder/", "File exists"),
            ("mkdir /etc/localtime", "File exists"),
            ("rename /zone/new /etc/share/folder/new", "ok"),
            ("read /usr/share/folder/new", "text"),
            ("link /zone/utc /etc/share/folder/utc", "ok"),
            ("unlink /etc/share/zone/utc", "ok"),
            ("read /etc/localtime", "No such file or directory"),
            ("read /etc/share/folder/utc", "UTC"),
            ("unlink /etc/share/folder/utc", "ok"),
            ("rmdir /etc/share/folder", "Directory not empty"),
            ("unlink /etc/share/folder/new", "ok"),
            ("rmdir /etc/share/folder/", "ok"),
            ("symlink /usr/share/x /zone/link", "ok"),
            ("read /zone/link", "x"),
            ("readlink /zone/link", "/usr/share/x"),
            ("symlink ../x /etc/share/zone/relative", "ok"),
            ("read /zone/relative", "x"),
            ("symlink /x /zone/link", "File exists"),
            ("symlink /x /missing/link", "No such file or directory"),
        ],
        |container| {
            let made = fs::read_to_string(container.path("data/made")).unwrap();
            assert_eq!(made, "text.more");
        },
    );
}

#[test]
fn a_link_itself_is_moved_and_removed() {
    expect(
        &[
            ("rename /etc/localtime /etc/share/moved", "ok"),
            ("readlink /usr/share/moved", "/usr/share/zone/utc"),
            ("link /usr/share/moved /zone/hard", "ok"),
            ("lstat /zone/hard", "link"),
            ("read /zone/hard", "UTC"),
            ("unlink /zone/hard", "ok"),
            ("write /tmp/file text", "ok"),
            // Over a link: it is gone, what it led to is not.
            ("rename /tmp/file/ /usr/share/moved", "Not a directory"),
            ("rename /tmp/file /usr/share/moved", "ok"),
            ("lstat /usr/share/moved", "file 4"),
            ("read /zone/utc", "UTC"),
            ("unlink /etc/share", "ok"),
            ("list /etc", "dangling,made,x"),
            ("rmdir /zone", "Not a directory"),
            ("rmdir /zone/", "Not a directory"),
            ("unlink /zone", "ok"),
            ("read /usr/share/zone/utc", "UTC"),
        ],
        |_| {},
    );
}

#[test]
fn volumes_of_kubernetes_are_read_through_their_links() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = Container::new();
        fs::create_dir(container.path("data/..2026")).unwrap();
        fs::write(container.path("data/..2026/key"), "value").unwrap();
        container.link("..2026", "data/..data");
        container.link("..data/key", "data/key");
        container.link("/data/key", "etc/key");
        let steps = ["read /data/key", "read /etc/key", "list /data"];
        let found = container.answers(&artifact, container.root(), &steps);
        assert_eq!(found, ["value", "value", "..2026,..data,key"], "{world}");
    }
}

/// C programs have directories open; what is above such a one is not theirs by way of it.
#[test]
fn a_directory_that_a_guest_opened_is_where_its_paths_start() {
    let fixture = Fixture::new();
    let artifact = fixture.real("handles-c.wasm");
    let container = Container::new();
    fs::write(container.path("usr/share/zone/long"), "long").unwrap();
    let steps = [
        ("open localtime", "UTC"),
        ("open share/zone/utc", "UTC"),
        ("open share/zone/../x", "x"),
        ("open dangling", "No such file or directory"),
        ("open ../etc/x", "Operation not permitted"),
        ("open x", "Operation not permitted"),
        ("lstat localtime", "link"),
        ("lstat share/", "dir"),
        ("readlink localtime", "/usr/"),
        (
            "readlink share/../share/zone/../../../etc/localtime",
            "/usr/",
        ),
        ("symlink /usr/share/x share/zone/made", "ok"),
        ("open share/zone/made", "x"),
        ("rename share/zone/made share/made", "ok"),
        ("link share/made share/zone/hard", "ok"),
        ("open share/zone/hard", "x"),
        ("mkdir share/folder", "ok"),
        ("rename share/folder folder", "ok"),
        ("rmdir folder", "ok"),
        ("unlink share/zone/hard", "ok"),
    ];
    let (steps, wanted): (Vec<&str>, Vec<&str>) = steps.iter().copied().unzip();
    let words = ["handles", "/etc"].into_iter();
    let words = words.chain(steps.iter().flat_map(|step| step.split(' ')));
    let guest = Guest {
        args: words.map(str::to_owned).collect(),
        preopens: container.root(),
        ..Guest::default()
    };
    let said = start(&artifact, guest).end().success();
    let found: Vec<&str> = said.lines().collect();
    for ((step, found), wanted) in steps.iter().zip(&found).zip(&wanted) {
        assert_eq!(found, wanted, "{step}");
    }
    assert_eq!(found.len(), steps.len());
}

/// An empty file system in memory; needs root.
fn memory(attributes: MountAttrFlags) -> OwnedFd {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_create(&context).unwrap();
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).unwrap()
}

#[test]
fn a_read_only_file_system_and_another_one_are_told_as_such() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = Container::new();
        container.link("/ro", "to-ro");
        container.link("/other", "to-other");
        let mut preopens = container.root();
        for (name, attributes) in [
            ("/ro", MountAttrFlags::MOUNT_ATTR_RDONLY),
            ("/other", MountAttrFlags::empty()),
        ] {
            preopens.push(Preopen {
                directory: memory(attributes),
                name: name.to_owned(),
            });
        }
        let steps = [
            ("new /ro/file", "Read-only file system"),
            ("write /ro/file text", "Read-only file system"),
            ("write /to-ro/file text", "Read-only file system"),
            ("mkdir /ro/folder", "Read-only file system"),
            ("mkdir /to-ro/folder", "Read-only file system"),
            ("symlink /x /ro/link", "Read-only file system"),
            ("symlink x /to-ro/link", "Read-only file system"),
            ("rename /ro/a /ro/b", "Read-only file system"),
            ("list /to-ro", ""),
            ("read /ro/file", "No such file or directory"),
            ("write /to-other/file text", "ok"),
            ("rename /other/file /tmp/file", "Cross-device link"),
            ("rename /to-other/file /to-ro/file", "Cross-device link"),
            ("link /to-other/file /tmp/file", "Cross-device link"),
            ("rename /to-other/file /other/moved", "ok"),
            ("read /other/moved", "text"),
        ];
        let (steps, wanted): (Vec<&str>, Vec<&str>) = steps.iter().copied().unzip();
        let found = container.answers(&artifact, preopens, &steps);
        for ((step, found), wanted) in steps.iter().zip(&found).zip(&wanted) {
            assert_eq!(found, wanted, "{world}: {step}");
        }
        assert_eq!(found.len(), steps.len(), "{world}");
    }
}

/// The sockets are laid over WASI 0.1, the files too, and neither may hide the other.
#[test]
fn a_guest_with_listening_sockets_has_the_same_files() {
    let container = Container::new();
    let guest = Guest {
        args: [
            "paths",
            "read /etc/localtime",
            "write /etc/made text",
            "read /data/made",
        ]
        .map(str::to_owned)
        .to_vec(),
        preopens: container.root(),
        listeners: vec![std::net::TcpListener::bind("127.0.0.1:0").unwrap()],
        ..Guest::default()
    };
    let said = start(&Fixture::new().real("paths.wasm"), guest)
        .end()
        .success();
    assert_eq!(said, "UTC\nok\ntext\n");
}
