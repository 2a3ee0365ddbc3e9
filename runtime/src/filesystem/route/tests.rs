use std::fs;
use std::os::unix::fs::symlink as link;
use std::path::Path;
use std::sync::Arc;

use wasmtime_wasi::FsPerms;
use wasmtime_wasi::filesystem::{Dir, OpenMode};

use super::*;

/// A folder with `a/b/file`, `data/`, and the links that are named.
fn tree(links: &[(&str, &str)]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir_all(tree.path().join("a/b")).unwrap();
    fs::create_dir(tree.path().join("data")).unwrap();
    fs::write(tree.path().join("a/b/file"), "").unwrap();
    for (name, target) in links {
        link(target, tree.path().join(name)).unwrap();
    }
    tree
}

fn preopen(name: &str, path: &Path) -> Preopen {
    let mode = OpenMode::READ | OpenMode::WRITE;
    let directory = Dir::new(File::open(path).unwrap(), FsPerms::ReadWrite, mode, false);
    Preopen {
        name: name.to_owned(),
        directory,
    }
}

/// The way from the root, preopen 0, as `index:path`; preopen 1 is `/data`.
fn way(tree: &tempfile::TempDir, path: &str, last: Last) -> Option<String> {
    let preopens = [
        preopen("/", tree.path()),
        preopen("/data", &tree.path().join("data")),
    ];
    let root = Arc::clone(&preopens[0].directory.dir);
    written(find(&preopens, &root, path, last).unwrap())
}

fn written(route: Option<Route>) -> Option<String> {
    route.map(|route| match route.start {
        Start::Given => route.path,
        Start::Preopen(index) => format!("{index}:{}", route.path),
    })
}

#[test]
fn what_upstream_finds_by_itself_is_no_detour() {
    let tree = tree(&[("relative", "a/b")]);
    for path in [
        "a/b/file",
        "relative/file",
        "a/../a/b",
        "missing/x",
        ".",
        "a//b/./file",
    ] {
        assert_eq!(way(&tree, path, Last::Follow), None, "{path}");
    }
}

#[test]
fn an_absolute_link_starts_at_the_preopen_it_lies_in() {
    let tree = tree(&[
        ("l", "/a/b"),
        ("d", "/data/x"),
        ("r", "/"),
        ("dd", "/database"),
    ]);
    for (path, wanted) in [
        ("l/file", "0:a/b/file"),
        ("l", "0:a/b"),
        ("l/", "0:a/b/"),
        ("l/.", "0:a/b/."),
        ("l/../b/new", "0:a/b/new"),
        ("r", "0:."),
        ("r/a/", "0:a/"),
        ("d", "1:x"),
        ("dd", "0:database"),
        ("d/../../../../a", "0:a"),
    ] {
        let found = way(&tree, path, Last::Follow);
        // `x` is missing, and what comes after it is left to upstream.
        let wanted = if path == "d/../../../../a" {
            "1:x/../../../../a"
        } else {
            wanted
        };
        assert_eq!(found.as_deref(), Some(wanted), "{path}");
    }
}

#[test]
fn the_last_name_is_followed_only_by_who_wants_what_is_there() {
    let tree = tree(&[("l", "/a/b"), ("a/l", "/a/b/file")]);
    assert_eq!(way(&tree, "l", Last::Keep), None);
    assert_eq!(way(&tree, "l", Last::Name), None);
    assert_eq!(way(&tree, "l/", Last::Keep).as_deref(), Some("0:a/b/"));
    assert_eq!(way(&tree, "l/", Last::Name), None);
    let chain = way(&tree, "l/../l", Last::Name);
    assert_eq!(chain.as_deref(), Some("0:a/l"));
    let followed = way(&tree, "l/../l", Last::Follow);
    assert_eq!(followed.as_deref(), Some("0:a/b/file"));
}

#[test]
fn the_root_is_its_own_parent_and_other_directories_have_none() {
    let tree = tree(&[("up", "../../../a/b"), ("a/up", "../../a/b")]);
    assert_eq!(way(&tree, "../../a", Last::Follow).as_deref(), Some("0:a"));
    assert_eq!(
        way(&tree, "up/file", Last::Follow).as_deref(),
        Some("0:a/b/file")
    );
    assert_eq!(way(&tree, "..", Last::Follow).as_deref(), Some("0:."));
    let preopens = [
        preopen("/", tree.path()),
        preopen("/x/data", &tree.path().join("data")),
    ];
    let below = File::open(tree.path().join("a")).unwrap();
    assert_eq!(find(&preopens, &below, "..", Last::Follow), Ok(None));
    assert_eq!(find(&preopens, &below, "up", Last::Follow), Ok(None));
    // That of a preopen is in the root.
    let data = &preopens[1].directory.dir;
    let found = find(&preopens, data, "../y", Last::Follow).unwrap();
    assert_eq!(written(found).as_deref(), Some("0:x/y"));
    // If there is one.
    let alone = [preopen("/data", &tree.path().join("data"))];
    let data = &alone[0].directory.dir;
    assert_eq!(find(&alone, data, "../a", Last::Follow), Ok(None));
}

#[test]
fn a_link_out_of_all_preopens_leads_nowhere() {
    let tree = tree(&[("data/out", "/a/b"), ("data/in", "/data/x")]);
    let alone = [preopen("/data", &tree.path().join("data"))];
    let data = &alone[0].directory.dir;
    assert_eq!(find(&alone, data, "out", Last::Follow), Ok(None));
    let inside = find(&alone, data, "in", Last::Follow).unwrap();
    assert_eq!(written(inside).as_deref(), Some("0:x"));
    let relative = [preopen("data", &tree.path().join("data"))];
    assert_eq!(find(&relative, data, "in", Last::Follow), Ok(None));
}

#[test]
fn a_loop_of_links_has_an_end() {
    let tree = tree(&[("x", "/y"), ("y", "/x"), ("self", "/self/self/self")]);
    let preopens = [preopen("/", tree.path())];
    let root = &preopens[0].directory.dir;
    for path in ["x", "y/z", "self"] {
        let found = find(&preopens, root, path, Last::Follow);
        assert_eq!(found, Err(Errno::LOOP), "{path}");
    }
}

#[test]
fn paths_that_are_none_are_left_to_upstream() {
    let tree = tree(&[]);
    for path in ["", "/a", "/", "a\0b"] {
        assert_eq!(way(&tree, path, Last::Follow), None, "{path:?}");
    }
}

#[test]
fn a_path_is_split_before_its_last_name() {
    for (path, parent, name) in [
        ("x", ".", "x"),
        ("a/x", "a", "x"),
        ("a/b/x//", "a/b", "x//"),
        ("..", ".", ".."),
        ("/x", "/", "x"),
    ] {
        assert_eq!(split(path), (parent, name), "{path}");
    }
}
