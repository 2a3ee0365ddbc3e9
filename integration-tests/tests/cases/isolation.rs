//! A container is a confined thread: what it sees of the host, and the host of it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::{Invocation, Output};
use integration_tests::run::Run;

cases![
    the_task_is_a_thread_of_the_shim_with_namespaces_of_its_own,
    the_container_has_no_process,
    no_mount_appears_on_the_host,
    the_threads_root_is_the_containers,
    the_rootfs_is_read_and_written,
    a_read_only_rootfs_is_read_only,
    a_bind_mount_is_read_and_written,
    a_read_only_bind_mount_is_read_only,
    a_single_file_is_mounted,
    a_mount_point_missing_in_the_image_is_made,
    a_symlink_of_the_image_does_not_misplace_a_mount,
    nothing_of_the_host_is_reachable,
    the_shims_own_proc_is_not_visible,
    a_host_proc_brought_in_by_a_bind_is_covered,
    a_file_of_the_hosts_proc_is_covered,
    masked_paths_are_empty,
    only_recursive_read_only_reaches_what_is_mounted_below,
    default_devices_are_there,
    devices_in_a_volume_cannot_be_opened,
];

fn files(containerd: &Containerd) -> Result<Image> {
    let image = Image::new("files:1")
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("files")?)
        .file("/etc/motd", "from the image\n")
        .link("/data/escape", "/../../../../../../tmp")
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

fn sleeper(containerd: &Containerd) -> Result<Image> {
    let image = guests::image("sleep")?;
    containerd.import(&image)?;
    Ok(image)
}

/// Runs one command of the guest `files`.
fn does(run: Run<'_>, words: &[&str]) -> Result<Output> {
    run.args(["/app.wasm"].iter().chain(words).copied())
        .output()
}

fn the_task_is_a_thread_of_the_shim_with_namespaces_of_its_own(
    containerd: &Containerd,
) -> Result<()> {
    let mut run = containerd.run(&sleeper(containerd)?, "thread");
    // `ctr` of 1.6 has no flag for it and writes no host name.
    let names = containerd.version().at_least(1, 7);
    if names {
        run = run.flag("--hostname").flag("named-by-spec");
    }
    let task = run.start()?;
    task.writes("sleeping")?;
    let pid = task.pid()?;
    let tgid = &task.process()?.to_string();
    ensure!(*tgid != pid.to_string(), "the task is a process of its own");
    let exe = fs::read_link(format!("/proc/{tgid}/exe"))?;
    ensure!(
        exe.ends_with("containerd-shim-wasi-v1"),
        "{}",
        exe.display()
    );
    for namespace in ["mnt", "net", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}"));
        ensure!(
            of(&pid.to_string())? != of(tgid)?,
            "{namespace} is shared with the shim"
        );
        ensure!(
            of(tgid)? == of("self")?,
            "the shim left the host's {namespace}"
        );
    }
    let target = pid.to_string();
    let inside = [
        "-t",
        &target,
        "--uts",
        "--net",
        "sh",
        "-c",
        "hostname; cat /proc/net/dev",
    ];
    let inside = Invocation::new("nsenter").args(inside).success()?;
    ensure!(
        !names || inside.stdout.starts_with("named-by-spec\n"),
        "{inside}"
    );
    ensure!(
        inside.stdout.contains("lo:") && !inside.stdout.contains("eth0:"),
        "{inside}"
    );
    task.end()?;
    Ok(())
}

fn the_container_has_no_process(containerd: &Containerd) -> Result<()> {
    let task = containerd
        .run(&sleeper(containerd)?, "no-process")
        .start()?;
    task.writes("sleeping")?;
    let tgid = task.process()?;
    for thread in fs::read_dir(format!("/proc/{tgid}/task"))? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        ensure!(children.is_empty(), "the shim has children: {children}");
    }
    task.end()?;
    Ok(())
}

fn no_mount_appears_on_the_host(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let task = containerd
        .run(&sleeper(containerd)?, "no-mount")
        .bind(folder.path(), "/data", "rbind:rw")
        .start()?;
    task.writes("sleeping")?;
    let bundle = containerd.bundle("no-mount");
    let bundle = bundle.to_string_lossy();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&*bundle), "{mounts}");
    task.end()?;
    Ok(())
}

fn the_threads_root_is_the_containers(containerd: &Containerd) -> Result<()> {
    let task = containerd.run(&sleeper(containerd)?, "own-root").start()?;
    task.writes("sleeping")?;
    let root = format!("/proc/{}/root", task.pid()?);
    ensure!(
        Path::new(&root).join("app.wasm").exists(),
        "{root} has no app.wasm"
    );
    ensure!(
        !Path::new(&root).join("etc/os-release").exists(),
        "{root} is the host's"
    );
    task.end()?;
    Ok(())
}

fn the_rootfs_is_read_and_written(containerd: &Containerd) -> Result<()> {
    let image = files(containerd)?;
    let read = does(containerd.run(&image, "reads-root"), &["read", "/etc/motd"])?.success()?;
    ensure!(read.stdout == "from the image\n", "{read}");
    let write = ["write", "/etc/new", "text"];
    does(containerd.run(&image, "writes-root"), &write)?.success()?;
    let again = does(containerd.run(&image, "reads-fresh"), &["read", "/etc/new"])?.exited(1)?;
    ensure!(
        again.stderr.contains("NotFound"),
        "containers share a rootfs: {again}"
    );
    Ok(())
}

fn a_read_only_rootfs_is_read_only(containerd: &Containerd) -> Result<()> {
    let run = containerd
        .run(&files(containerd)?, "ro-root")
        .flag("--read-only");
    does(run.clone(), &["read", "/etc/motd"])?.success()?;
    does(run, &["write", "/etc/new", "text"])?.exited(1)?;
    Ok(())
}

fn a_bind_mount_is_read_and_written(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run =
        containerd
            .run(&files(containerd)?, "rw-bind")
            .bind(folder.path(), "/mnt/here", "rbind:rw");
    does(run, &["write", "/mnt/here/file", "text"])?.success()?;
    ensure!(fs::read(folder.path().join("file"))? == b"text");
    Ok(())
}

fn a_read_only_bind_mount_is_read_only(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("file"), "text")?;
    let run =
        containerd
            .run(&files(containerd)?, "ro-bind")
            .bind(folder.path(), "/data", "rbind:ro");
    let read = does(run.clone(), &["read", "/data/file"])?.success()?;
    ensure!(read.stdout == "text", "{read}");
    for words in [
        &["write", "/data/file", "other"][..],
        &["write", "/data/new", "other"],
        &["remove", "/data/file"],
        &["mkdir", "/data/folder"],
    ] {
        does(run.clone(), words)?.exited(1)?;
    }
    ensure!(fs::read(folder.path().join("file"))? == b"text");
    Ok(())
}

fn a_single_file_is_mounted(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("hosts");
    fs::write(&file, "10.0.0.1 db\n")?;
    let run = containerd
        .run(&files(containerd)?, "file-bind")
        .bind(&file, "/etc/hosts", "bind:ro");
    let read = does(run, &["read", "/etc/hosts"])?.success()?;
    ensure!(read.stdout == "10.0.0.1 db\n", "{read}");
    Ok(())
}

fn a_mount_point_missing_in_the_image_is_made(containerd: &Containerd) -> Result<()> {
    let run = containerd
        .run(&files(containerd)?, "made-point")
        .mount("type=tmpfs,src=tmpfs,dst=/a/b/c,options=nosuid:size=1m");
    does(run, &["write", "/a/b/c/file", "text"])?.success()?;
    Ok(())
}

fn a_symlink_of_the_image_does_not_misplace_a_mount(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = "integration-tests-misplaced";
    let run = containerd.run(&files(containerd)?, "symlinked").bind(
        folder.path(),
        &format!("/data/escape/{place}"),
        "rbind:rw",
    );
    let write = ["write", &format!("/tmp/{place}/file"), "text"];
    does(run, &write)?.success()?;
    ensure!(fs::read(folder.path().join("file"))? == b"text");
    ensure!(!Path::new("/tmp").join(place).exists(), "made on the host");
    Ok(())
}

fn nothing_of_the_host_is_reachable(containerd: &Containerd) -> Result<()> {
    let image = files(containerd)?;
    let listed = does(containerd.run(&image, "lists-root"), &["list", "/"])?.success()?;
    for entry in ["root/", "usr/", "home/"] {
        ensure!(!listed.stdout.lines().any(|line| line == entry), "{listed}");
    }
    for path in ["/../../../etc/os-release", "/data/escape/../etc/os-release"] {
        does(containerd.run(&image, "escapes"), &["read", path])?.exited(1)?;
    }
    Ok(())
}

fn the_shims_own_proc_is_not_visible(containerd: &Containerd) -> Result<()> {
    let run = containerd.run(&files(containerd)?, "no-proc");
    let listed = does(run.clone(), &["list", "/proc"])?.success()?;
    ensure!(listed.stdout.is_empty(), "{listed}");
    does(run, &["write", "/proc/file", "text"])?.exited(1)?;
    Ok(())
}

fn a_host_proc_brought_in_by_a_bind_is_covered(containerd: &Containerd) -> Result<()> {
    let run = containerd.run(&files(containerd)?, "bound-proc");
    let proc = run.clone().bind(Path::new("/proc"), "/host", "rbind:rw");
    let listed = does(proc, &["list", "/host"])?.success()?;
    ensure!(listed.stdout.is_empty(), "{listed}");
    let root = run.bind(Path::new("/"), "/host", "rbind:ro");
    let listed = does(root, &["list", "/host/proc"])?.success()?;
    ensure!(listed.stdout.is_empty(), "{listed}");
    Ok(())
}

fn a_file_of_the_hosts_proc_is_covered(containerd: &Containerd) -> Result<()> {
    let run = containerd
        .run(&files(containerd)?, "bound-proc-file")
        .bind(Path::new("/proc/uptime"), "/etc/uptime", "bind:rw")
        .bind(Path::new("/proc"), "/host/proc", "rbind:rw")
        .bind(Path::new("/proc/sys"), "/host/proc/sys", "rbind:rw");
    let read = does(run.clone(), &["read", "/etc/uptime"])?.success()?;
    ensure!(read.stdout.is_empty(), "{read}");
    does(run.clone(), &["write", "/etc/uptime", "text"])?.exited(1)?;
    let listed = does(run, &["list", "/host/proc"])?.success()?;
    ensure!(listed.stdout.is_empty(), "{listed}");
    Ok(())
}

/// `/sys/firmware` is in every spec that `ctr` writes.
fn masked_paths_are_empty(containerd: &Containerd) -> Result<()> {
    let run = containerd.run(&files(containerd)?, "masked");
    let listed = does(run.clone(), &["list", "/sys"])?.success()?;
    ensure!(listed.stdout.contains("kernel/"), "no sysfs: {listed}");
    if Path::new("/sys/firmware").exists() {
        let listed = does(run, &["list", "/sys/firmware"])?.success()?;
        ensure!(listed.stdout.is_empty(), "{listed}");
    }
    Ok(())
}

/// `/dev/shm` is a mount of the host's `/dev`.
fn only_recursive_read_only_reaches_what_is_mounted_below(containerd: &Containerd) -> Result<()> {
    let image = files(containerd)?;
    let name = format!("integration-tests-{}", containerd.version());
    let write = ["write", &format!("/host/shm/{name}"), "text"];
    let bound = |id, options| {
        let run = containerd.run(&image, id);
        does(run.bind(Path::new("/dev"), "/host", options), &write)
    };
    bound("recursive-ro", "rbind:rro:rslave")?.exited(1)?;
    ensure!(!Path::new("/dev/shm").join(&name).exists());
    bound("plain-ro", "rbind:ro")?.success()?;
    fs::remove_file(Path::new("/dev/shm").join(&name))?;
    Ok(())
}

fn default_devices_are_there(containerd: &Containerd) -> Result<()> {
    let run = containerd.run(&files(containerd)?, "devices");
    let listed = does(run, &["list", "/dev"])?.success()?;
    for device in ["null", "zero", "urandom"] {
        ensure!(listed.stdout.lines().any(|line| line == device), "{listed}");
    }
    Ok(())
}

fn devices_in_a_volume_cannot_be_opened(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("zero");
    let disk = disk.to_str().context("a path that is no text")?;
    Invocation::new("mknod")
        .args([disk, "c", "1", "5"])
        .success()?;
    let run = containerd
        .run(&files(containerd)?, "volume-device")
        .bind(folder.path(), "/data", "rbind:rw:dev")
        .bind(Path::new("/dev/null"), "/etc/null", "bind:rw");
    for command in [&["read", "/data/zero"][..], &["append", "/data/zero", "x"]] {
        let refused = does(run.clone(), command)?.exited(1)?;
        ensure!(refused.stderr.contains("PermissionDenied"), "{refused}");
    }
    for device in ["/dev/null", "/etc/null"] {
        let read = does(run.clone(), &["read", device])?.success()?;
        ensure!(read.stdout.is_empty(), "{read}");
    }
    Ok(())
}
