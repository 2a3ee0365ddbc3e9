//! Compiled once on a node, mapped ever after. Which of the two happened is told by the shim's log,
//! which containerd copies into its own.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;

cases![
    a_warm_start_compiles_nothing,
    shims_started_at_once_compile_once,
    a_damaged_entry_is_compiled_again,
    the_cache_is_closed_to_others,
];

/// A program that no other case has, which writes `line`.
fn image(containerd: &Containerd, line: &str) -> Result<Image> {
    let image = Image::new(&format!("{line}:1"))
        .platform("wasi", "wasm")
        .file(&format!("/{line}.wasm"), guests::writes(line)?)
        .entrypoint([format!("/{line}.wasm").as_str()]);
    containerd.import(&image)?;
    Ok(image)
}

fn runs(containerd: &Containerd, image: &Image, id: &str, line: &str) -> Result<()> {
    let output = containerd.run(image, id).output()?.success()?;
    ensure!(output.stdout == format!("{line}\n"), "{output}");
    Ok(())
}

/// How often a shim said that it compiled `line`.
fn compilations(containerd: &Containerd, line: &str) -> usize {
    containerd
        .log_tail(usize::MAX)
        .matches(&format!("compiled /{line}.wasm"))
        .count()
}

fn a_warm_start_compiles_nothing(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "warm")?;
    for n in 0..3 {
        runs(containerd, &image, &format!("warm-{n}"), "warm")?;
    }
    ensure!(
        compilations(containerd, "warm") == 1,
        "{}",
        containerd.log_tail(20)
    );
    Ok(())
}

fn shims_started_at_once_compile_once(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "at-once")?;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6)
            .map(|n| {
                let (image, id) = (&image, format!("at-once-{n}"));
                scope.spawn(move || runs(containerd, image, &id, "at-once"))
            })
            .collect();
        runs.into_iter()
            .try_for_each(|run| run.join().map_err(|_| anyhow::anyhow!("a run panicked"))?)
    })?;
    ensure!(
        compilations(containerd, "at-once") == 1,
        "{}",
        containerd.log_tail(20)
    );
    Ok(())
}

fn a_damaged_entry_is_compiled_again(containerd: &Containerd) -> Result<()> {
    let image = image(containerd, "damaged-entry")?;
    runs(containerd, &image, "damaged-0", "damaged-entry")?;
    let new = entry(containerd, "damaged-entry")?;
    let whole = fs::read(&new)?;
    for (n, damaged) in [&whole[..whole.len() / 2], &[0; 4096][..], b""]
        .into_iter()
        .enumerate()
    {
        fs::remove_file(&new)?;
        fs::write(&new, damaged)?;
        runs(
            containerd,
            &image,
            &format!("damaged-{}", n + 1),
            "damaged-entry",
        )?;
        ensure!(
            fs::read(&new)?.len() == whole.len(),
            "{} is still damaged",
            new.display()
        );
    }
    Ok(())
}

/// The cache's entry of the program that writes `line`.
fn entry(containerd: &Containerd, line: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(containerd.folder().join("cache")).context("list the cache")? {
        let path = entry?.path();
        let holds = |bytes: Vec<u8>| {
            bytes
                .windows(line.len())
                .any(|part| part == line.as_bytes())
        };
        if fs::read(&path).is_ok_and(holds) {
            return Ok(path);
        }
    }
    bail!("no entry of {line}")
}

fn the_cache_is_closed_to_others(containerd: &Containerd) -> Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let line = "closed-to-others";
    let image = image(containerd, line)?;
    runs(containerd, &image, line, line)?;
    let cache = containerd.folder().join("cache");
    let metadata = fs::metadata(&cache)?;
    ensure!(
        metadata.permissions().mode() & 0o7777 == 0o700,
        "{metadata:?}"
    );
    let metadata = fs::metadata(entry(containerd, line)?)?;
    ensure!(
        metadata.uid() == 0 && metadata.mode() & 0o777 == 0o400,
        "{metadata:?}"
    );
    Ok(())
}
