//! Ways out of a container that are none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Container, programs};
use crate::fixture::Fixture;

#[test]
fn no_path_leads_out() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = Container::new();
        let secret = container.secret();
        container.link(&secret, "absolute");
        container.link("../secret", "relative");
        container.link("/../secret", "above");
        container.link("/../../../../../../../../etc", "etc-of-the-host");
        container.link("/proc/self/root", "magic");
        container.link("..", "up");
        container.link("/..", "up-absolute");
        let steps = [
            "read /absolute",
            "read /relative",
            "read /above",
            "read /up/secret",
            "read /up-absolute/secret",
            "read /../secret",
            "read /tmp/../../secret",
            "read /zone/../../../../../../secret",
            "read /etc-of-the-host/passwd",
            "read /magic/etc/passwd",
            "read /proc/self/fd/0",
            "rename /../secret /tmp/stolen",
            "rename /up-absolute/secret /tmp/stolen",
            "link /up/secret /tmp/stolen",
            "unlink /up/secret",
        ];
        let found = container.answers(&artifact, container.root(), &steps);
        for (step, found) in steps.iter().zip(&found) {
            assert_eq!(found, "No such file or directory", "{world}: {step}");
        }
        let steps = [
            ("write /up-absolute/secret stolen", "ok"),
            ("read /secret", "stolen"),
            ("symlink /../secret /tmp/link", "ok"),
            ("read /tmp/link", "stolen"),
            ("mkdir /../../folder", "ok"),
            ("rename /tmp/../../secret /up/up/../folder/secret", "ok"),
            ("list /folder", "secret"),
        ];
        let (steps, wanted): (Vec<&str>, Vec<&str>) = steps.iter().copied().unzip();
        let found = container.answers(&artifact, container.root(), &steps);
        assert_eq!(found, wanted, "{world}");
        assert_eq!(fs::read_to_string(secret).unwrap(), "secret", "{world}");
        let beside: Vec<_> = fs::read_dir(container.folder.path()).unwrap().collect();
        assert_eq!(beside.len(), 2, "{world}: {beside:?}");
    }
}

/// A program of the container's may change links while a guest's paths are walked.
#[test]
fn links_that_change_on_the_way_do_not_lead_out() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = Container::new();
        let (outside, inside) = (container.folder.path(), container.path(""));
        fs::create_dir(inside.join("a")).unwrap();
        fs::write(inside.join("a/secret"), "inside").unwrap();
        fs::create_dir(inside.join("b")).unwrap();
        // `door` is a folder, a link up, and an absolute link to the host's path, in turn.
        symlink("/door", inside.join("way")).unwrap();
        let done = AtomicBool::new(false);
        let swap = |make: &dyn Fn(&Path)| {
            make(&inside.join("next"));
            fs::rename(inside.join("next"), inside.join("door")).unwrap();
        };
        let found = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    swap(&|next| symlink("..", next).unwrap());
                    swap(&|next| symlink(outside, next).unwrap());
                    swap(&|next| symlink("/a", next).unwrap());
                    swap(&|next| symlink("/b/../..", next).unwrap());
                    fs::remove_file(inside.join("door")).unwrap();
                    fs::rename(inside.join("a"), inside.join("door")).unwrap();
                    fs::rename(inside.join("door"), inside.join("a")).unwrap();
                }
            });
            let steps = [
                "times 500 read /way/secret",
                "times 300 read /way/../secret",
                "times 200 write /way/made text",
                "times 100 rename /way/secret /way/../b/secret",
            ];
            let found = container.answers(&artifact, container.root(), &steps);
            done.store(true, Ordering::Relaxed);
            found
        });
        for answers in &found {
            for answer in answers.split('|') {
                assert_ne!(answer, "secret", "{world}: {found:?}");
            }
        }
        let beside: Vec<_> = fs::read_dir(outside).unwrap().collect();
        assert_eq!(beside.len(), 2, "{world}: {beside:?}");
        assert_eq!(fs::read_to_string(container.secret()).unwrap(), "secret");
    }
}

#[test]
fn without_the_root_a_link_leads_to_other_preopens_only() {
    let fixture = Fixture::new();
    for (world, artifact) in programs(&fixture) {
        let container = Container::new();
        container.link("/usr/share/x", "data/allowed");
        container.link("/etc/x", "data/denied");
        container.link("/data/allowed", "data/chain");
        container.link("../etc/x", "data/up");
        let preopens = vec![
            container.preopen("/data", "data"),
            container.preopen("/usr/share", "usr/share"),
        ];
        let steps = [
            "read /data/allowed",
            "read /data/chain",
            "read /data/denied",
            "read /data/up",
            "read /data/../etc/x",
            "rename /data/allowed /usr/share/zone/moved",
            "read /usr/share/zone/moved",
        ];
        let found = container.answers(&artifact, preopens, &steps);
        let denied = "Operation not permitted";
        assert_eq!(
            found,
            ["x", "x", denied, denied, denied, "ok", "x"],
            "{world}"
        );
    }
}
