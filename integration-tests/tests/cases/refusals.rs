//! What cannot run fails at Create, and `ctr` shows what, on what, why, and what to do.

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::run::Run;

cases![
    a_missing_file_is_named_with_where_it_was_looked_for,
    a_precompiled_artifact_is_refused,
    a_missing_import_is_named_with_what_is_provided,
    a_library_is_named_as_one,
    a_damaged_module_is_refused_in_the_compilers_words,
    a_missing_mount_source_is_named,
    nothing_is_left_of_a_failed_create,
];

fn image(containerd: &Containerd, name: &str, bytes: &[u8]) -> Result<Image> {
    let image = Image::new(&format!("{name}:1"))
        .platform("wasi", "wasm")
        .executable("/app", bytes)
        .entrypoint(["/app"]);
    containerd.import(&image)?;
    Ok(image)
}

/// The run fails, and its message has all of `texts`.
fn fails(run: &Run<'_>, texts: &[&str]) -> Result<()> {
    let output = run.output()?;
    ensure!(output.status != 0, "{output}");
    for text in texts {
        ensure!(
            output.stderr.contains(text),
            "{text:?} is missing: {output}"
        );
    }
    Ok(())
}

fn wat(text: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(text)?)
}

fn a_missing_file_is_named_with_where_it_was_looked_for(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "missing", &guests::exits(0)?)?;
    let run = containerd.run(&image, "missing-path").args(["/nope.wasm"]);
    fails(&run, &["has no file `/nope.wasm`"])?;
    let run = containerd.run(&image, "missing-name").args(["nope.wasm"]);
    fails(
        &run,
        &[
            "has no file `nope.wasm`",
            "/usr/local/bin/nope.wasm",
            "/nope.wasm",
        ],
    )
}

fn a_precompiled_artifact_is_refused(containerd: &Containerd) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (wasm, cwasm) = (folder.path().join("a.wasm"), folder.path().join("a.cwasm"));
    std::fs::write(&wasm, guests::exits(0)?)?;
    let wasmtime = integration_tests::target().join("tools/bin/wasmtime");
    integration_tests::invocation::Invocation::new(wasmtime)
        .arg("compile")
        .arg("-o")
        .args([&cwasm, &wasm])
        .success()?;
    let image = image(containerd, "precompiled", &std::fs::read(cwasm)?)?;
    fails(
        &containerd.run(&image, "precompiled"),
        &[
            "/app is a precompiled wasmtime artifact",
            "put the .wasm file into the image",
        ],
    )
}

fn a_missing_import_is_named_with_what_is_provided(containerd: &Containerd) -> Result<()> {
    let module = wat(
        r#"(module (import "env" "frobnicate" (func)) (import "env" "other" (func))
            (memory (export "memory") 1) (func (export "_start")))"#,
    )?;
    let image = image(containerd, "imports", &module)?;
    fails(
        &containerd.run(&image, "imports"),
        &[
            "env::frobnicate",
            "env::other",
            "it provides: wasi_snapshot_preview1",
        ],
    )
}

fn a_library_is_named_as_one(containerd: &Containerd) -> Result<()> {
    let image = image(
        containerd,
        "library",
        &wat(r#"(module (func (export "run")))"#)?,
    )?;
    fails(
        &containerd.run(&image, "library"),
        &["/app", "exports no _start", "a library"],
    )
}

fn a_damaged_module_is_refused_in_the_compilers_words(containerd: &Containerd) -> Result<()> {
    let mut module = guests::exits(0)?;
    module.truncate(module.len() - 3);
    let image = image(containerd, "damaged", &module)?;
    fails(
        &containerd.run(&image, "damaged"),
        &["cannot run /app: cannot compile it: "],
    )
}

fn a_missing_mount_source_is_named(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "mounts", &guests::exits(0)?)?;
    let source = std::path::Path::new("/does/not/exist");
    let run = containerd
        .run(&image, "no-source")
        .bind(source, "/data", "rbind:ro");
    fails(
        &run,
        &["/does/not/exist", "/data", "does not exist on the host"],
    )
}

fn nothing_is_left_of_a_failed_create(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "left", b"\x1f\x8b")?;
    fails(&containerd.run(&image, "left"), &["/app is"])?;
    integration_tests::poll::until(
        "the failed container's shim is gone",
        std::time::Duration::from_secs(20),
        || {
            let bundle = containerd.bundle("left");
            if bundle.exists() {
                Err(format!("{} exists", bundle.display()))
            } else {
                Ok(())
            }
        },
    )?;
    let shims = containerd.shims();
    ensure!(
        !shims.iter().any(|shim| shim.command.contains("-id left ")),
        "{shims:?}"
    );
    Ok(())
}
