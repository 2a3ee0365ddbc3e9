//! On a thread as a container's, with the mounts of a real kernel, for which the tests have to be root.

use std::fs;
use std::os::fd::AsFd;

use rustix::fs::{Access, AtFlags, OFlags, StatVfsMountFlags};
use serde_json::json;
use wasi_bundles::{Bundle, open_in_root};

use super::*;
use crate::namespaces;

/// A bundle whose root holds `/app/file`, at a path with a symlink in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount file systems: run them as root"
        );
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["real/rootfs/app", "real/rootfs/etc", "volume/inner"] {
            fs::create_dir_all(folder.at(name)).unwrap();
        }
        fs::write(folder.at("real/rootfs/app/file"), "text").unwrap();
        std::os::unix::fs::symlink("real", folder.at("link")).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Mounts what `spec` has beside the least there can be, and lets `look` at it.
    fn mounted<T: Send>(
        &self,
        spec: serde_json::Value,
        layers: &[Mount],
        look: impl FnOnce(&Rootfs) -> T + Send,
    ) -> Result<T, Error> {
        let mut config = json!({
            "ociVersion": "1.1.0",
            "root": { "path": "rootfs" },
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/app.wasm"] },
        });
        let (serde_json::Value::Object(config_fields), serde_json::Value::Object(more)) =
            (&mut config, spec)
        else {
            panic!("a spec is an object");
        };
        config_fields.extend(more);
        fs::write(self.at("real/config.json"), config.to_string()).unwrap();
        let plan = Plan::new(&Bundle::open(&self.at("link")).unwrap()).unwrap();
        let born = || {
            namespaces::enter(&plan).unwrap();
            Rootfs::mount(&plan, layers, |_| Ok(())).map(|rootfs| look(&rootfs))
        };
        std::thread::scope(|scope| scope.spawn(born).join().unwrap())
    }
}

fn bind(source: impl AsRef<Path>, destination: &str, options: &[&str]) -> serde_json::Value {
    json!({
        "source": source.as_ref(), "destination": destination, "type": "bind", "options": options,
    })
}

/// What the guest sees at `path`.
fn read(rootfs: &Rootfs, path: &str) -> io::Result<String> {
    let file = open_in_root(rootfs.tree().as_fd(), Path::new(path), OFlags::RDONLY)?;
    io::read_to_string(fs::File::from(file))
}

fn list(rootfs: &Rootfs, path: &str) -> usize {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = open_in_root(rootfs.tree().as_fd(), Path::new(path), flags).unwrap();
    fs::read_dir(descriptor_path(&directory)).unwrap().count()
}

fn is_readonly(rootfs: &Rootfs, path: &str) -> bool {
    let opened = open_in_root(rootfs.tree().as_fd(), Path::new(path), OFlags::PATH).unwrap();
    let flags = rustix::fs::fstatvfs(&opened).unwrap().f_flag;
    flags.contains(StatVfsMountFlags::RDONLY)
}

#[test]
fn procfs_is_covered_whatever_it_was_bound_as() {
    let spec = json!({ "mounts": [
        bind("/proc", "/host/proc", &["rbind"]),
        bind("/proc/sys", "/host/proc/sys", &["bind"]),
        bind("/proc/uptime", "/uptime", &["bind"]),
        bind("/", "/everything", &["rbind", "ro"]),
        bind("/", "/hidden", &["rbind"]),
        { "destination": "/hidden", "type": "tmpfs" },
    ]});
    let looked = Folder::new().mounted(spec, &[], |rootfs| {
        assert_eq!(list(rootfs, "/host/proc"), 0);
        assert_eq!(list(rootfs, "/everything/proc"), 0);
        assert_eq!(list(rootfs, "/hidden"), 0);
        assert_eq!(read(rootfs, "/uptime").unwrap(), "");
        assert_eq!(read(rootfs, "/app/file").unwrap(), "text");
        assert!(is_readonly(rootfs, "/uptime"));
    });
    looked.unwrap();
}

#[test]
fn the_root_may_be_listed_as_a_read_only_path() {
    let spec = json!({ "linux": { "readonlyPaths": ["/", "/app"] } });
    let looked = Folder::new().mounted(spec, &[], |rootfs| {
        assert!(is_readonly(rootfs, "/"));
        assert!(is_readonly(rootfs, "/app/file"));
        assert_eq!(read(rootfs, "/app/file").unwrap(), "text");
    });
    looked.unwrap();
}

#[test]
fn a_procfs_left_uncovered_is_an_error() {
    let folder = Folder::new();
    fs::create_dir(folder.at("real/rootfs/late")).unwrap();
    let looked = folder.mounted(json!({}), &[], |rootfs| {
        rustix::mount::mount_bind("/proc", rootfs.path.join("late")).unwrap();
        let tree = Tree::at(&rootfs.path).unwrap();
        cover::require_covered(&rootfs.path, &tree).unwrap_err()
    });
    assert_eq!(
        looked.unwrap().text(),
        "cannot mount an empty directory at /late: procfs or a cgroup file system is still there"
    );
}

#[test]
fn a_device_can_be_opened_only_where_it_was_asked_for() {
    let folder = Folder::new();
    for name in ["real/rootfs/zero", "volume/zero"] {
        let mode = Mode::from_raw_mode(0o666);
        let zero = rustix::fs::makedev(1, 5);
        rustix::fs::mknodat(CWD, folder.at(name), FileType::CharacterDevice, mode, zero).unwrap();
    }
    let spec = json!({ "mounts": [
        { "destination": "/dev", "type": "tmpfs", "options": ["nosuid", "mode=755"] },
        bind("/dev/null", "/etc/null", &["bind"]),
        bind(folder.at("volume"), "/volume", &["rbind", "dev"]),
        bind("/dev", "/hostdev", &["rbind"]),
    ]});
    let looked = folder.mounted(spec, &[], |rootfs| {
        for device in ["/zero", "/volume/zero", "/hostdev/null"] {
            let error = read(rootfs, device).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{device}");
        }
        for device in ["/dev/null", "/etc/null"] {
            assert_eq!(read(rootfs, device).unwrap(), "", "{device}");
        }
    });
    looked.unwrap();
}

#[test]
fn only_rro_is_read_only_all_the_way_down() {
    let folder = Folder::new();
    let volume = folder.at("volume");
    let spec = json!({ "mounts": [
        bind(&volume, "/ro", &["rbind", "ro"]),
        bind(&volume, "/rro", &["rbind", "rro", "rslave"]),
    ]});
    // A mount in the volume, on a thread of its own as everything here. The folder outlives the thread,
    // and can be removed when the mount is gone with it.
    let readonly = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let inner = volume.join("inner");
        rustix::mount::mount("tmpfs", &inner, "tmpfs", MountFlags::empty(), None).unwrap();
        folder.mounted(spec, &[], |rootfs| {
            let paths = ["/ro", "/ro/inner", "/rro", "/rro/inner"];
            paths.map(|path| is_readonly(rootfs, path))
        })
    };
    let looked = std::thread::scope(|scope| scope.spawn(readonly).join().unwrap());
    assert_eq!(looked.unwrap(), [true, false, true, true]);
}

#[test]
fn a_layer_keeps_its_flags_and_its_place() {
    let folder = Folder::new();
    let layer = |source: &str, target: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let source = folder.at(source).display().to_string();
        let target = folder.at("link/rootfs").join(target);
        Mount::from_options("bind", &source, &target, &options, Path::new("/")).unwrap()
    };
    fs::create_dir_all(folder.at("committed/data")).unwrap();
    std::os::unix::fs::symlink("/../../../data", folder.at("committed/link")).unwrap();
    fs::write(folder.at("volume/file"), "volume").unwrap();
    let layers = [
        layer("committed", "", &["ro", "rbind"]),
        layer("volume", "link", &["rbind"]),
    ];
    let looked = folder.mounted(json!({}), &layers, |rootfs| {
        assert!(is_readonly(rootfs, "/"));
        assert!(!is_readonly(rootfs, "/data"));
        assert_eq!(read(rootfs, "/data/file").unwrap(), "volume");
    });
    looked.unwrap();
}

#[test]
fn an_overlay_of_many_layers_is_mounted_whole() {
    let folder = Folder::new();
    let mut lower = Vec::new();
    for number in 0..60 {
        let name = format!("snapshots-with-a-long-name/{number}/fs-{}", "x".repeat(40));
        fs::create_dir_all(folder.at(&name)).unwrap();
        fs::write(folder.at(&name).join(format!("file{number}")), "text").unwrap();
        lower.push(folder.at(&name).display().to_string());
    }
    let options = [format!("lowerdir={}", lower.join(":"))];
    assert!(options[0].len() > overlay::LIMIT);
    let target = folder.at("link/rootfs");
    let layer = |options: &[String]| {
        Mount::from_options("overlay", "overlay", &target, options, Path::new("/")).unwrap()
    };
    // Without work directory it is read-only, and there is nothing to make in it.
    let looked = folder.mounted(json!({}), &[layer(&options)], |rootfs| {
        assert_eq!(read(rootfs, "/file0").unwrap(), "text");
        assert_eq!(read(rootfs, "/file59").unwrap(), "text");
    });
    looked.unwrap();

    let options = [format!("lowerdir=/{}:/b", "a/".repeat(3000))];
    let refused = folder.mounted(json!({}), &[layer(&options)], |_| ());
    let text = refused.unwrap_err().text();
    assert!(text.contains("of which the kernel reads 4095"), "{text}");
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_read_only() {
    let folder = Folder::new();
    fs::write(folder.at("real/rootfs/etc/secret"), "secret").unwrap();
    let spec = json!({ "linux": {
        "maskedPaths": ["/app", "/etc/secret", "/sys/firmware", "/proc/kcore/none"],
        "readonlyPaths": ["/etc", "/proc/sys"],
    }});
    let looked = folder.mounted(spec, &[], |rootfs| {
        assert_eq!(list(rootfs, "/app"), 0);
        assert_eq!(read(rootfs, "/etc/secret").unwrap(), "");
        assert!(is_readonly(rootfs, "/etc"));
        assert!(!is_readonly(rootfs, "/"));
    });
    looked.unwrap();
    let unseen = rustix::fs::accessat(
        CWD,
        folder.at("real/rootfs/app/file"),
        Access::EXISTS,
        AtFlags::empty(),
    );
    assert!(unseen.is_ok(), "the host's file is gone");
}
