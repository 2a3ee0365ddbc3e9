//! A container's files: the links of its image and of its volumes, who owns what is made, and which
//! directories a guest is given.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::run::Run;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

cases![
    links_of_the_image_lead_where_they_lead_in_a_container,
    a_config_map_is_read_through_its_links,
    links_lead_through_volumes_and_not_out_of_the_container,
    what_is_read_only_says_so,
    what_a_guest_makes_belongs_to_its_user,
    a_user_is_kept_out_by_modes,
    the_listed_directories_are_given_and_no_others,
    directories_that_cannot_be_given_are_refused,
    a_guest_that_waits_for_a_fifo_is_killed_and_lets_go,
];

/// The same program for both worlds.
const WORLDS: [&str; 2] = ["paths", "paths_p2"];

const PREOPENS: &str = "io.containerd.wasi.v1.preopens";

fn image(containerd: &Containerd, world: &str, user: &str) -> Result<Image> {
    let name = format!("{}-{}:1", world.replace('_', "-"), user.replace(':', "-"));
    let image = Image::new(&name)
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named(world)?)
        .file("/usr/share/zone/utc", "UTC")
        .file("/etc/motd", "hello")
        .folder("/open", 0o777)
        .link("/etc/localtime", "/usr/share/zone/utc")
        .link("/lib", "/usr/share")
        .link("/var/conf", "/data/conf")
        .link("/out", "/../../../../data")
        .user(user)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

/// Takes the steps, and compares what the guest says of each.
fn expect(run: &Run<'_>, steps: &[(&str, &str)]) -> Result<()> {
    let words = steps.iter().map(|(step, _)| *step);
    let output = run
        .clone()
        .args(["/app.wasm"].into_iter().chain(words))
        .output()?
        .success()?;
    let said: Vec<&str> = output.stdout.lines().collect();
    let wanted: Vec<&str> = steps.iter().map(|(_, answer)| *answer).collect();
    ensure!(said == wanted, "said {said:?}, not {wanted:?}: {output}");
    Ok(())
}

fn links_of_the_image_lead_where_they_lead_in_a_container(containerd: &Containerd) -> Result<()> {
    for world in WORLDS {
        let image = image(containerd, world, "0:0")?;
        expect(
            &containerd.run(&image, &format!("links-{world}")),
            &[
                ("read /etc/localtime", "UTC"),
                ("read /lib/zone/utc", "UTC"),
                ("list /lib/", "zone"),
                ("readlink /etc/localtime", "/usr/share/zone/utc"),
                ("write /lib/new text", "ok"),
                ("rename /lib/new /lib/zone/moved", "ok"),
                ("link /lib/zone/moved /etc/hard", "ok"),
                ("read /etc/hard", "text"),
                ("symlink /etc/motd /lib/zone/link", "ok"),
                ("read /lib/zone/link", "hello"),
                ("unlink /lib/zone/link", "ok"),
                ("mkdir /lib/folder", "ok"),
                ("rmdir /lib/folder/", "ok"),
                ("read /lib/../etc/motd", "No such file or directory"),
            ],
        )?;
    }
    Ok(())
}

/// What kubelet makes of a ConfigMap (`pkg/volume/util/atomic_writer.go`).
fn a_config_map_is_read_through_its_links(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    fs::create_dir(folder.path().join("..2026_11_22"))?;
    fs::write(folder.path().join("..2026_11_22/conf"), "value")?;
    symlink("..2026_11_22", folder.path().join("..data"))?;
    symlink("..data/conf", folder.path().join("conf"))?;
    for world in WORLDS {
        let image = image(containerd, world, "1234:5678")?;
        let id = format!("config-map-{world}");
        expect(
            &containerd
                .run(&image, &id)
                .bind(folder.path(), "/data", "rbind:ro"),
            &[
                ("read /data/conf", "value"),
                ("read /data/..data/conf", "value"),
                ("read /var/conf", "value"),
                ("list /data", "..2026_11_22,..data,conf"),
            ],
        )?;
    }
    Ok(())
}

fn links_lead_through_volumes_and_not_out_of_the_container(containerd: &Containerd) -> Result<()> {
    let (volume, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::write(other.path().join("secret"), "secret")?;
    symlink(other.path(), volume.path().join("host"))?;
    symlink("/etc/motd", volume.path().join("back"))?;
    symlink("../etc/motd", volume.path().join("up"))?;
    symlink("/../../../../etc/passwd", volume.path().join("above"))?;
    symlink("/proc/1/root", volume.path().join("magic"))?;
    for world in WORLDS {
        let image = image(containerd, world, "0:0")?;
        let id = format!("volume-{world}");
        expect(
            &containerd
                .run(&image, &id)
                .bind(volume.path(), "/data", "rbind:rw"),
            &[
                ("read /data/back", "hello"),
                ("read /data/up", "hello"),
                ("read /out/back", "hello"),
                ("write /out/made text", "ok"),
                ("rename /out/made /etc/made", "Cross-device link"),
                ("read /data/host/secret", "No such file or directory"),
                ("read /data/above", "No such file or directory"),
                ("read /data/magic/etc/passwd", "No such file or directory"),
                ("write /data/host text", "No such file or directory"),
                ("unlink /data/made", "ok"),
            ],
        )?;
        ensure!(fs::read(other.path().join("secret"))? == b"secret");
    }
    Ok(())
}

fn what_is_read_only_says_so(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("file"), "text")?;
    let file = folder.path().join("file");
    for world in WORLDS {
        let image = image(containerd, world, "0:0")?;
        let run = containerd
            .run(&image, &format!("read-only-{world}"))
            .flag("--read-only")
            .bind(folder.path(), "/data", "rbind:rw")
            .bind(folder.path(), "/ro", "rbind:ro")
            .bind(&file, "/data/file", "rbind:ro");
        let refused = "Read-only file system";
        expect(
            &run,
            &[
                ("write /etc/new text", refused),
                ("mkdir /lib/new", refused),
                ("write /ro/new text", refused),
                ("unlink /ro/file", refused),
                ("append /ro/file more", refused),
                // A file can be a mount of its own.
                ("append /data/file more", refused),
                ("write /data/new text", "ok"),
                ("unlink /data/new", "ok"),
            ],
        )?;
    }
    Ok(())
}

fn what_a_guest_makes_belongs_to_its_user(containerd: &Containerd) -> Result<()> {
    for world in WORLDS {
        let folder = tempfile::tempdir()?;
        chown(folder.path(), Some(1234), Some(5678))?;
        let image = image(containerd, world, "1234:5678")?;
        expect(
            &containerd.run(&image, &format!("owner-{world}")).bind(
                folder.path(),
                "/data",
                "rbind:rw",
            ),
            &[
                ("write /data/file text", "ok"),
                ("mkdir /data/folder", "ok"),
                ("new /out/folder/new", "ok"),
                ("symlink /nowhere /data/link", "ok"),
                ("link /data/file /data/hard", "ok"),
            ],
        )?;
        for (name, mode) in [
            ("file", 0o644),
            ("folder", 0o755),
            ("folder/new", 0o644),
            ("link", 0o777),
            ("hard", 0o644),
        ] {
            let made = fs::symlink_metadata(folder.path().join(name))?;
            let owner = (made.uid(), made.gid());
            ensure!(owner == (1234, 5678), "{world}: {name}: {owner:?}");
            let found = made.mode() & 0o7777;
            ensure!(found == mode, "{world}: {name}: {found:o}");
        }
    }
    Ok(())
}

fn a_user_is_kept_out_by_modes(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777))?;
    for (name, mode) in [("readable", 0o644), ("secret", 0o600)] {
        fs::write(folder.path().join(name), "root's")?;
        fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode))?;
    }
    fs::create_dir(folder.path().join("closed"))?;
    fs::write(folder.path().join("closed/file"), "")?;
    fs::set_permissions(folder.path().join("closed"), Permissions::from_mode(0o700))?;
    symlink("/data/closed/file", folder.path().join("link"))?;
    for world in WORLDS {
        let image = image(containerd, world, "1234:5678")?;
        let denied = "Permission denied";
        expect(
            &containerd.run(&image, &format!("kept-out-{world}")).bind(
                folder.path(),
                "/data",
                "rbind:rw",
            ),
            &[
                ("read /data/readable", "root's"),
                ("append /data/readable more", denied),
                ("read /data/secret", denied),
                ("read /data/closed/file", denied),
                ("read /data/link", denied),
                ("write /data/closed/new text", denied),
                ("unlink /data/closed/file", denied),
                // The sticky bit of the folder.
                ("unlink /data/readable", "Operation not permitted"),
                ("rename /data/secret /data/mine", "Operation not permitted"),
                ("write /etc/new text", denied),
                ("write /open/new text", "ok"),
            ],
        )?;
    }
    Ok(())
}

fn the_listed_directories_are_given_and_no_others(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    symlink("/conf/motd", folder.path().join("into-conf"))?;
    symlink("/usr/share/zone/utc", folder.path().join("into-usr"))?;
    for world in WORLDS {
        let image = image(containerd, world, "0:0")?;
        let run = containerd.run(&image, &format!("listed-{world}")).bind(
            folder.path(),
            "/data",
            "rbind:rw",
        );
        let listed = run
            .clone()
            .annotation(PREOPENS, "/conf=/etc:ro,/work=/data");
        let denied = "Operation not permitted";
        expect(
            &listed,
            &[
                ("read /conf/motd", "hello"),
                ("write /conf/new text", "Read-only file system"),
                ("write /work/made text", "ok"),
                ("read /work/into-conf", "hello"),
                ("read /work/into-usr", denied),
                ("read /conf/localtime", denied),
                ("read /work/../conf/motd", denied),
                ("unlink /work/made", "ok"),
            ],
        )?;
        // Nothing has the name of what is opened, which a program finds out by itself.
        let nowhere = listed.args(["/app.wasm", "read /etc/motd"]).output()?;
        ensure!(nowhere.stdout != "hello\n", "{nowhere}");
        let readonly = run.annotation(PREOPENS, "/:ro,/data:rw");
        expect(
            &readonly,
            &[
                ("read /etc/localtime", "UTC"),
                ("write /etc/new text", "Read-only file system"),
                ("write /data/made text", "ok"),
                ("unlink /data/made", "ok"),
            ],
        )?;
    }
    Ok(())
}

fn directories_that_cannot_be_given_are_refused(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "paths", "0:0")?;
    for (id, value, part) in [
        ("relative", "data", "start with /"),
        ("missing", "/not-there", "/not-there"),
        ("no-directory", "/etc/motd", "/etc/motd"),
    ] {
        let run = containerd.run(&image, id).annotation(PREOPENS, value);
        let output = run.output()?;
        ensure!(output.status != 0, "{value}: {output}");
        ensure!(output.stderr.contains(part), "{value}: {output}");
    }
    let none = containerd.run(&image, "none").annotation(PREOPENS, "none");
    let output = none.args(["/app.wasm", "read /etc/motd"]).output()?;
    ensure!(output.stdout != "hello\n", "{output}");
    Ok(())
}

fn a_guest_that_waits_for_a_fifo_is_killed_and_lets_go(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fifo = folder.path().join("fifo");
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0)?;
    for world in WORLDS {
        let image = image(containerd, world, "0:0")?;
        let task = containerd
            .run(&image, &format!("fifo-{world}"))
            .bind(folder.path(), "/data", "rbind:rw")
            .args(["/app.wasm", "lstat /data/fifo", "read /data/fifo"])
            .start()?;
        task.writes("other")?;
        task.kill("SIGKILL")?;
        let exit = task.wait()?;
        ensure!(exit.exit_status() == 137, "{exit}");
        // A thread that still waited for a writer would be a reader to this one.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let writer = rustix::fs::open(&fifo, flags, Mode::empty());
        ensure!(
            writer.is_err_and(|errno| errno == Errno::NXIO),
            "{world}: a thread is left"
        );
        task.reaches("STOPPED")?;
        task.delete()?;
        task.remove()?;
    }
    Ok(())
}
