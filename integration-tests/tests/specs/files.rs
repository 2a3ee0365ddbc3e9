//! What is odd about the files that a spec names, and about the request that names the bundle.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use anyhow::{Result, ensure};
use containerd_shim_protos::api::Mount;
use integration_tests::guests;
use integration_tests::tasks::code;
use serde_json::{Value, json};
use ttrpc::Code;

use crate::{Shim, mount, tmpfs};

#[test]
fn what_is_no_spec_is_refused_with_its_place() -> Result<()> {
    let shim = Shim::new()?;
    let deep = "[".repeat(100_000);
    for (id, text) in [
        ("empty", &b""[..]),
        ("cut", br#"{"root": {"path": "rootfs"#),
        ("list", b"[1]"),
        ("binary", b"\xff\xfe\0"),
        ("deep", deep.as_bytes()),
    ] {
        let bundle = shim.bundle(id)?.write()?;
        fs::write(bundle.path().join("config.json"), text)?;
        shim.refuses(
            &bundle,
            Code::INVALID_ARGUMENT,
            &["config.json is no OCI runtime spec", "line 1"],
        )?;
    }
    let bundle = shim.bundle("none")?.write()?;
    fs::remove_file(bundle.path().join("config.json"))?;
    shim.refuses(
        &bundle,
        Code::INVALID_ARGUMENT,
        &["cannot read", "config.json"],
    )?;
    shim.ends_well()
}

#[test]
fn a_root_may_be_anywhere_and_a_link_to_it() -> Result<()> {
    let shim = Shim::new()?;
    let elsewhere = shim.fake.folder().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    fs::write(elsewhere.join("main.wasm"), guests::exits(7)?)?;
    // Docker's is absolute, and has no mounts of containerd's.
    let absolute = |spec: &mut Value| spec["root"]["path"] = elsewhere.display().to_string().into();
    shim.runs(&shim.fake.bundle("absolute").edit(absolute).write()?)?;
    // runc refuses a link, whose target may change under it; here it is looked up once.
    let linked = shim
        .fake
        .bundle("linked")
        .edit(|spec| spec["root"]["path"] = "link".into());
    let linked = linked.write()?;
    symlink(&elsewhere, linked.path().join("link"))?;
    shim.runs(&linked)?;
    shim.ends_well()
}

#[test]
fn links_in_an_image_lead_nowhere_else() -> Result<()> {
    let shim = Shim::new()?;
    // Where there is no file, the image is asked for, of which this containerd knows nothing.
    for (id, target, code, words) in [
        ("dangling", "/gone.wasm", Code::INTERNAL, "has no file"),
        (
            "loop",
            "/app.wasm",
            Code::INVALID_ARGUMENT,
            "Too many levels of symbolic links",
        ),
        (
            "outside",
            "../../../../../../../etc/passwd",
            Code::INTERNAL,
            "has no file",
        ),
    ] {
        let bundle = shim.bundle(id)?.args(["/app.wasm"]).write()?;
        symlink(target, bundle.path().join("rootfs/app.wasm"))?;
        shim.refuses(&bundle, code, &[words])?;
    }
    let bundle = shim.bundle("inside")?.args(["/app.wasm"]).write()?;
    symlink("/main.wasm", bundle.path().join("rootfs/app.wasm"))?;
    shim.runs(&bundle)?;
    // A mount point behind links that lead to nothing yet is made where they lead.
    let bundle = shim.bundle("made")?;
    let bundle = bundle
        .edit(|spec| spec["mounts"] = json!([tmpfs("/a/x")]))
        .write()?;
    symlink("/b/missing/../c", bundle.path().join("rootfs/a"))?;
    shim.runs(&bundle)?;
    ensure!(
        bundle.path().join("rootfs/b/c/x").is_dir(),
        "it is not where the link leads"
    );
    shim.ends_well()
}

#[test]
fn a_mount_over_the_program_is_the_program() -> Result<()> {
    let shim = Shim::new()?;
    let other = shim.fake.folder().join("other.wasm");
    fs::write(&other, guests::exits(7)?)?;
    let over = mount(
        "/main.wasm",
        "bind",
        &other.display().to_string(),
        &["bind", "ro"],
    );
    let bundle = shim
        .fake
        .bundle("over")
        .file("/main.wasm", guests::exits(1)?);
    shim.runs(&bundle.edit(|spec| spec["mounts"] = json!([over])).write()?)?;
    shim.ends_well()
}

/// An overlay of a hundred layers, the last of which has the program.
fn overlay(shim: &Shim, name: &str) -> Result<Mount> {
    let snapshots = shim.fake.folder().join(name);
    let layer = |n: usize| snapshots.join(format!("snapshot-with-a-long-name-{n}/fs"));
    for n in 0..100 {
        fs::create_dir_all(layer(n))?;
    }
    fs::write(layer(99).join("main.wasm"), guests::exits(7)?)?;
    for folder in ["upper", "work"] {
        fs::create_dir_all(snapshots.join(folder))?;
    }
    let lower: Vec<_> = (0..100).map(|n| layer(n).display().to_string()).collect();
    let mut overlay = Mount::new();
    overlay.type_ = "overlay".into();
    overlay.source = "overlay".into();
    overlay.options = vec![
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", snapshots.join("upper").display()),
        format!("workdir={}", snapshots.join("work").display()),
    ];
    Ok(overlay)
}

#[test]
fn an_overlay_with_more_options_than_the_kernel_reads_is_mounted() -> Result<()> {
    let shim = Shim::new()?;
    let overlay = overlay(&shim, "s")?;
    ensure!(overlay.options[0].len() > 4096);
    let bundle = shim.fake.bundle("layers").write()?;
    shim.runs_with(&bundle, |request| request.rootfs = vec![overlay])?;
    ensure!(bundle.mounts().is_empty(), "{:?}", bundle.mounts());
    shim.ends_well()
}

#[test]
fn an_overlay_that_cannot_be_shortened_is_refused_with_how_long_it_is() -> Result<()> {
    let shim = Shim::new()?;
    let mut overlay = overlay(&shim, "s")?;
    let twice = overlay.options[0].replace("lowerdir=", "");
    overlay.options[0].extend([":", &twice]);
    let bundle = shim.fake.bundle("layers").write()?;
    let refused = shim
        .tasks
        .create_with(&bundle, |request| request.rootfs = vec![overlay]);
    let text = format!("{refused:?}");
    ensure!(text.contains("of which the kernel reads 4095"), "{text}");
    ensure!(bundle.mounts().is_empty(), "{:?}", bundle.mounts());
    shim.ends_well()
}

/// containerd checks ids and bundles; what else asks, gets an answer.
#[test]
fn odd_requests_are_answered() -> Result<()> {
    let shim = Shim::new()?;
    let bundle = shim.bundle("requested")?.write()?;
    for id in ["", "nul\0", "new\nline", "ü/../..", &"x".repeat(5000)] {
        let created = shim
            .tasks
            .create_with(&bundle, |request| request.id = id.to_owned());
        ensure!(created.is_ok(), "{id:?}: {created:?}");
        ensure!(shim.tasks.delete(id)?.exit_status == 137);
    }
    for path in ["", "/none", "\0", "/dev/null"] {
        let created = shim
            .tasks
            .create_with(&bundle, |request| request.bundle = path.to_owned());
        ensure!(
            code(&created) == Some(Code::INVALID_ARGUMENT),
            "{path:?}: {created:?}"
        );
    }
    shim.runs(&bundle)?;
    shim.ends_well()
}

#[test]
fn what_a_guest_makes_has_the_modes_that_its_umask_leaves() -> Result<()> {
    let shim = Shim::new()?;
    for (id, words, mode) in [
        ("file", &["write", "/made", "text"][..], 0o640),
        ("folder", &["mkdir", "/made"][..], 0o750),
    ] {
        let program = guests::named("files")?;
        let bundle = shim.fake.bundle(id).file("/files.wasm", program);
        let args = std::iter::once("/files.wasm").chain(words.iter().copied());
        let bundle = bundle.args(args).edit(|spec| {
            spec["process"]["user"]["umask"] = 0o27.into();
        });
        let bundle = bundle.write()?;
        shim.tasks.create(&bundle)?;
        shim.tasks.start(id)?;
        ensure!(shim.tasks.wait(id)?.exit_status == 0, "{id}");
        let made = fs::metadata(bundle.path().join("rootfs/made"))?;
        let found = made.permissions().mode() & 0o7777;
        ensure!(found == mode, "{id}: {found:o}");
        shim.tasks.delete(id)?;
    }
    shim.ends_well()
}
