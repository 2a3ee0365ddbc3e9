//! Who a guest is to the kernel, and whose names it looks up.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::Invocation;

cases![
    a_guest_owns_what_it_creates,
    a_guest_cannot_read_another_users_file,
    the_containers_thread_has_the_users_credentials,
    names_come_from_the_containers_hosts_file,
    a_library_of_the_image_is_not_loaded_to_look_up_names,
];

fn files(containerd: &Containerd, user: &str) -> Result<Image> {
    let image = Image::new(&format!("files-of-{}:1", user.replace(':', "-")))
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("files")?)
        .user(user)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

fn a_guest_owns_what_it_creates(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    chown(folder.path(), Some(1234), Some(5678))?;
    containerd
        .run(&files(containerd, "1234:5678")?, "owner")
        .bind(folder.path(), "/data", "rbind:rw")
        .args(["/app.wasm", "write", "/data/file", "text"])
        .output()?
        .success()?;
    let made = fs::metadata(folder.path().join("file"))?;
    ensure!((made.uid(), made.gid()) == (1234, 5678), "{made:?}");
    Ok(())
}

fn a_guest_cannot_read_another_users_file(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let secret = folder.path().join("secret");
    fs::write(&secret, "root's")?;
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
    for (user, id, readable) in [("1234:5678", "stranger", false), ("0:0", "root", true)] {
        let output = containerd
            .run(&files(containerd, user)?, &format!("reads-as-{id}"))
            .bind(folder.path(), "/data", "rbind:ro")
            .args(["/app.wasm", "read", "/data/secret"])
            .output()?;
        ensure!((output.status == 0) == readable, "{user}: {output}");
    }
    Ok(())
}

fn the_containers_thread_has_the_users_credentials(containerd: &Containerd) -> Result<()> {
    for (user, id, uid) in [("1234:5678", "plain", "1234"), ("0:0", "privileged", "0")] {
        let image = Image::new(&format!("sleep-{id}:1"))
            .platform("wasi", "wasm")
            .file("/app.wasm", guests::named("sleep")?)
            .user(user)
            .entrypoint(["/app.wasm"]);
        containerd.import(&image)?;
        let task = containerd.run(&image, &format!("is-{id}")).start()?;
        task.writes("sleeping")?;
        let status = fs::read_to_string(format!("/proc/{}/status", task.pid()?))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.split_whitespace().collect::<Vec<_>>())
                .with_context(|| format!("no {name} in {status}"))
        };
        // Real, effective, saved, of the file system: a process of the user must not reach the shim by
        // a signal to its thread, which the real and saved ones would allow.
        ensure!(field("Uid:")? == ["0", uid, "0", uid], "{status}");
        ensure!(field("NoNewPrivs:")? == ["1"], "{status}");
        let capabilities = u64::from_str_radix(field("CapEff:")?[0], 16)?;
        ensure!(uid == "0" || capabilities == 0, "{status}");
        // Of root's, none that is about the system: CAP_SYS_ADMIN is 21, CAP_SYS_PTRACE 19.
        ensure!(capabilities & ((1 << 21) | (1 << 19)) == 0, "{status}");
        task.end()?;
    }
    Ok(())
}

fn resolver(containerd: &Containerd, name: &str) -> Result<Image> {
    let image = Image::new(&format!("resolve-{name}:1"))
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("resolve")?)
        .file("/etc/hosts", "10.11.12.13 only-in-the-image\n")
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    Ok(image)
}

fn names_come_from_the_containers_hosts_file(containerd: &Containerd) -> Result<()> {
    let output = containerd
        .run(&resolver(containerd, "hosts")?, "looks-up")
        .args(["/app.wasm", "only-in-the-image"])
        .output()?
        .success()?;
    ensure!(output.stdout == "10.11.12.13\n", "{output}");
    Ok(())
}

/// A name service library whose constructor leaves a mark on whoever loads it.
fn library(folder: &std::path::Path) -> Result<Vec<u8>> {
    let (source, library) = (folder.join("pwn.c"), folder.join("libnss_pwn.so.2"));
    fs::write(
        &source,
        "#include <fcntl.h>
        __attribute__((constructor)) static void mark(void) { creat(\"/data/loaded\", 0644); }",
    )?;
    Invocation::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .success()?;
    Ok(fs::read(library)?)
}

fn a_library_of_the_image_is_not_loaded_to_look_up_names(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let library = library(folder.path())?;
    let mut image = Image::new("resolve-pwn:1")
        .platform("wasi", "wasm")
        .file("/app.wasm", guests::named("resolve")?)
        .file("/etc/hosts", "10.11.12.13 only-in-the-image\n")
        .file("/etc/nsswitch.conf", "hosts: pwn files\n")
        .entrypoint(["/app.wasm"]);
    for place in [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib",
    ] {
        image = image.executable(&format!("{place}/libnss_pwn.so.2"), &library);
    }
    containerd.import(&image)?;
    let marks = tempfile::tempdir()?;
    let output = containerd
        .run(&image, "not-loaded")
        .bind(marks.path(), "/data", "rbind:rw")
        .args(["/app.wasm", "only-in-the-image"])
        .output()?
        .success()?;
    ensure!(output.stdout == "10.11.12.13\n", "{output}");
    ensure!(
        !marks.path().join("loaded").exists(),
        "the image's library was loaded"
    );
    Ok(())
}
