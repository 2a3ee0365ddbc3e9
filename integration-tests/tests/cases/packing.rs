//! `pack`, as docs/quickstart.md has it: from source to a container. The blocks of the document are what is run.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::invocation::Invocation;
use integration_tests::layout::lose;
use tempfile::TempDir;

cases![
    rust_of_the_quickstart_runs,
    c_of_the_quickstart_runs,
    go_of_the_quickstart_runs,
    what_pack_was_told_reaches_the_guest,
    an_export_is_an_entrypoint,
    a_packed_layer_runs_where_ctr_takes_layers,
    a_packed_artifact_is_imported,
];

/// The document has one name for the images of all languages.
static HELLO: Mutex<()> = Mutex::new(());

/// The blocks under `## heading`.
fn blocks(heading: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quickstart.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let section = text.split(&format!("\n## {heading}\n")).nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    let blocks = section.with_context(|| format!("{} has no {heading}", path.display()))?;
    let blocks = blocks.split("\n```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("\n```").next().unwrap_or_default().to_owned());
    Ok(blocks.collect())
}

/// Runs shell commands in a folder, with the tools of the project.
fn sh(folder: &TempDir, commands: &str) -> Result<()> {
    let target = integration_tests::target().canonicalize()?;
    let mut path: Vec<_> = ["tools/bin", "release"]
        .map(|tools| target.join(tools))
        .into();
    let rest = std::env::var_os("PATH").unwrap_or_default();
    path.extend(std::env::split_paths(&rest));
    let path: OsString = std::env::join_paths(path)?;
    Invocation::new("bash")
        .args(["-euo", "pipefail", "-c", commands])
        .env("PATH", path)
        .env("GOCACHE", target.join("guests/build/go-cache"))
        .cwd(folder.path())
        .success()
        .map(drop)
}

/// Packs a wasm file as image `name`, and imports it with no flag at all.
fn import(containerd: &Containerd, folder: &TempDir, name: &str, flags: &str) -> Result<Image> {
    let tar = pack(folder, name, flags)?;
    let ctr = containerd.ctr(["image", "import"]).arg(&tar);
    ctr.success()?;
    Ok(Image::new(name))
}

/// Packs the wasm file of a folder as image `name`.
pub(super) fn pack(folder: &TempDir, name: &str, flags: &str) -> Result<PathBuf> {
    let command = "containerd-shim-wasi-v1 pack hello.wasm -o hello.tar";
    sh(folder, &format!("{command} --name {name} {flags}"))?;
    Ok(folder.path().join("hello.tar"))
}

/// A folder with a wasm file to pack.
pub(super) fn folder_of(wasm: &[u8]) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("hello.wasm"), wasm)?;
    Ok(folder)
}

fn of_guest(guest: &str) -> Result<TempDir> {
    folder_of(&guests::named(guest)?)
}

/// How a program of the document is packed.
pub(super) enum Packed {
    /// As a command.
    Command,
    /// As one that has an export for an entrypoint.
    Export,
}

/// Does what the document says for a language, with image and container named by `id`.
pub(super) fn quickstart(
    containerd: &Containerd,
    heading: &str,
    packed: &Packed,
    id: &str,
    line: &str,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = blocks(heading)?;
    sh(&folder, source.first().context("no block")?)?;
    let _one_at_a_time = HELLO.lock().unwrap_or_else(PoisonError::into_inner);
    let run = blocks("Run it")?;
    let [run, export] = run.as_slice() else {
        bail!("{run:?}");
    };
    let mut commands = run.lines();
    let pack = commands.next().context("a command")?;
    sh(
        &folder,
        match packed {
            Packed::Command => pack,
            Packed::Export => export,
        },
    )?;
    for command in commands {
        // Of another daemon, and with its streams where they are found.
        let words = command.split(' ').skip(1);
        let words = words.map(|word| if word == "hello" { id } else { word });
        let fifos = containerd.folder().join("fifo");
        let mut ctr = containerd.ctr([]).cwd(folder.path());
        for word in words {
            ctr = ctr.arg(word);
            if word == "--rm" {
                ctr = ctr.arg("--fifo-dir").arg(&fifos);
            }
        }
        let output = ctr.success()?;
        ensure!(
            !command.contains(" run ") || output.stdout == line,
            "{output}"
        );
    }
    Ok(())
}

fn rust_of_the_quickstart_runs(containerd: &Containerd) -> Result<()> {
    quickstart(
        containerd,
        "Rust",
        &Packed::Command,
        "quick-rust",
        "hello from rust\n",
    )
}

fn c_of_the_quickstart_runs(containerd: &Containerd) -> Result<()> {
    quickstart(
        containerd,
        "C",
        &Packed::Command,
        "quick-c",
        "hello from c\n",
    )
}

fn go_of_the_quickstart_runs(containerd: &Containerd) -> Result<()> {
    quickstart(
        containerd,
        "Go",
        &Packed::Command,
        "quick-go",
        "hello from go\n",
    )
}

fn what_pack_was_told_reaches_the_guest(containerd: &Containerd) -> Result<()> {
    let flags = "--env GREETING=hello=world --entrypoint hello.wasm --entrypoint one --cmd 'two words' --workdir /srv";
    let name = "example.test/packed-env:1";
    let image = import(containerd, &of_guest("env")?, name, flags)?;
    let output = containerd.run(&image, "packed-env").output()?.success()?;
    for line in [
        "arg: hello.wasm\narg: one\narg: two words\n",
        "env: GREETING=hello=world\n",
        "env: PWD=/srv\n",
    ] {
        ensure!(output.stdout.contains(line), "{line:?}: {output}");
    }
    Ok(())
}

fn an_export_is_an_entrypoint(containerd: &Containerd) -> Result<()> {
    let wasm = wat::parse_str(r#"(module (func (export "run") (result i32) i32.const 9))"#)?;
    let folder = folder_of(&wasm)?;
    let flags = "--entrypoint '/hello.wasm#run'";
    let image = import(containerd, &folder, "example.test/packed-export:1", flags)?;
    let output = containerd.run(&image, "packed-export").output()?;
    output.exited(9).map(drop)
}

fn a_packed_layer_runs_where_ctr_takes_layers(containerd: &Containerd) -> Result<()> {
    let (folder, name) = (of_guest("hello")?, "example.test/packed-layer:1");
    if !containerd.version().at_least(1, 7) {
        let error = import(containerd, &folder, name, "--layer").err();
        let text = error.map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(text.contains("mismatched image rootfs"), "{text}");
        return Ok(());
    }
    let image = import(containerd, &folder, name, "--layer")?;
    let output = containerd.run(&image, "packed-layer").output()?.success()?;
    ensure!(output.stdout == "hello from wasi\n", "{output}");
    Ok(())
}

/// That it runs, `images` shows: here it is about what `pack` makes of it.
fn a_packed_artifact_is_imported(containerd: &Containerd) -> Result<()> {
    let (folder, name) = (of_guest("env.component")?, "example.test/packed-artifact:1");
    let imported = import(containerd, &folder, name, "--artifact");
    if containerd.version().at_least(1, 7) {
        imported.map(drop)?;
    }
    // Its content is there, whatever `ctr` thinks of unpacking it.
    lose(containerd, &guests::named("env.component")?)
}
