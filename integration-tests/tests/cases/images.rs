//! Images of every shape: what `ctr` takes of them differs by version (docs/images.md), what the shim reads of
//! them does not. To see the latter everywhere, a container is made from an ordinary image, whose name is
//! then given to another one: the shim looks when the task is made.

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::layout::{Layout, Manifest, lose};
use integration_tests::native;
use integration_tests::task::Task;

cases![
    ctr_runs_wasm_layers_under_an_image_config,
    ctr_runs_the_platform_of_an_index_that_it_is_told,
    ctr_refuses_to_run_an_artifact,
    every_layer_type_runs,
    an_artifact_runs,
    an_index_runs_for_every_wasm_platform,
    attestations_of_an_index_are_passed_over,
    an_exec_finds_the_layer_by_its_name,
    an_export_of_a_layer_runs,
    a_compiled_layer_is_not_read_again,
    a_lost_blob_is_named_with_the_way_out,
    components_in_several_layers_are_composed,
    layers_that_do_not_fit_are_refused_by_name,
    a_plugin_is_named_as_one,
    a_file_wins_over_a_layer,
    an_image_without_wasm_says_what_is_missing,
    annotations_of_crun_change_nothing_for_wasm,
    annotations_of_crun_make_no_wasm_of_a_linux_program,
    an_entrypoint_is_found_as_it_is_by_runwasi_and_crun,
];

const LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// A container named `id`, of an image with nothing in it but `args`, whose name is then given to `image`.
fn made_from<'a>(
    containerd: &'a Containerd,
    id: &str,
    args: &[&str],
    image: impl FnOnce(&str) -> Layout,
) -> Result<Task<'a>> {
    let empty = Image::new(&format!("{id}:1"))
        .folder("/empty", 0o755)
        .entrypoint(args.iter().copied());
    containerd.import(&empty)?;
    let task = containerd.run(&empty, id).create()?;
    image(empty.name()).import(containerd)?;
    Ok(task)
}

/// Starts the task, which writes `line` and ends well.
fn writes(containerd: &Containerd, task: &Task<'_>, line: &str) -> Result<()> {
    task.start()?;
    let exit = containerd.events().wait_for("exit", task.id())?;
    ensure!(exit.exit_status() == 0, "{exit}");
    task.writes(line)
}

/// The task cannot be made, and the message has all of `texts`.
fn fails(task: &Task<'_>, texts: &[&str]) -> Result<()> {
    let error = task.start().err().map(|error| format!("{error:#}"));
    let error = error.unwrap_or_else(|| "it has started".to_owned());
    for text in texts {
        ensure!(error.contains(text), "{text:?} is missing: {error}");
    }
    Ok(())
}

fn artifact(wasm: &[u8]) -> Manifest {
    Manifest::artifact().layer("application/wasm", wasm)
}

/// From containerd 1.6.25 and 1.7.7 on, layers that are no tars are passed over when an image is unpacked.
fn ctr_runs_wasm_layers_under_an_image_config(containerd: &Containerd) -> Result<()> {
    for (number, media_type) in LAYERS.into_iter().enumerate() {
        let line = format!("layer {number} of ctr");
        let id = format!("ctr-layer-{number}");
        let name = format!("example.test/{id}:1");
        let manifest = Manifest::image(("wasip1", "wasm"), &["app.wasm", "one"])
            .layer(media_type, &guests::writes(&line)?);
        Layout::of(&name, manifest).import(containerd)?;
        let image = Image::new(&name).platform("wasip1", "wasm");
        let output = containerd.run(&image, &id).output()?;
        if containerd.version().at_least(1, 7) {
            ensure!(output.success()?.stdout == format!("{line}\n"));
        } else {
            let told = "mismatched image rootfs and manifest layers";
            ensure!(
                output.status != 0 && output.stderr.contains(told),
                "{output}"
            );
        }
    }
    Ok(())
}

fn ctr_runs_the_platform_of_an_index_that_it_is_told(containerd: &Containerd) -> Result<()> {
    if !containerd.version().at_least(1, 7) {
        // As above.
        return Ok(());
    }
    let name = "example.test/ctr-index:1";
    let linux = Manifest::image(("linux", "amd64"), &["/bin/app"]);
    let wasm = Manifest::image(("wasip1", "wasm"), &["app.wasm"]);
    let wasm = wasm.layer(LAYERS[0], &guests::writes("of an index")?);
    Layout::index(name, [linux, wasm]).import(containerd)?;
    let image = Image::new(name).platform("wasip1", "wasm");
    let output = containerd.run(&image, "ctr-index").output()?.success()?;
    ensure!(output.stdout == "of an index\n", "{output}");
    Ok(())
}

fn ctr_refuses_to_run_an_artifact(containerd: &Containerd) -> Result<()> {
    let name = "example.test/ctr-artifact:1";
    Layout::of(name, artifact(&guests::exits(0)?)).import(containerd)?;
    let output = containerd.run(&Image::new(name), "ctr-artifact").output()?;
    ensure!(output.status != 0, "{output}");
    ensure!(
        !output.stderr.contains("wasi.v1"),
        "it came to the shim: {output}"
    );
    Ok(())
}

fn every_layer_type_runs(containerd: &Containerd) -> Result<()> {
    for (number, media_type) in LAYERS.into_iter().enumerate() {
        let (id, line) = (format!("layer-{number}"), format!("layer {number}"));
        let wasm = guests::writes(&line)?;
        let task = made_from(containerd, &id, &["/any/name.wasm"], |name| {
            let manifest = Manifest::image(("wasi", "wasm"), &["x"]).layer(media_type, &wasm);
            Layout::of(name, manifest)
        })?;
        writes(containerd, &task, &line)?;
    }
    Ok(())
}

fn an_artifact_runs(containerd: &Containerd) -> Result<()> {
    let wasm = guests::named("hello.component")?;
    let task = made_from(containerd, "artifact", &["hello.wasm"], |name| {
        Layout::of(name, artifact(&wasm))
    })?;
    writes(containerd, &task, "hello from wasi\n")
}

fn an_index_runs_for_every_wasm_platform(containerd: &Containerd) -> Result<()> {
    for (os, architecture) in [
        ("wasi", "wasm"),
        ("wasi", "wasm32"),
        ("wasip1", "wasm"),
        ("wasip2", "wasm"),
    ] {
        let (id, line) = (
            format!("index-{os}-{architecture}"),
            format!("on {os}/{architecture}"),
        );
        let wasm = guests::writes(&line)?;
        let task = made_from(containerd, &id, &["app.wasm"], |name| {
            let linux = Manifest::image(("linux", "amd64"), &["/bin/app"]);
            let image = Manifest::image((os, architecture), &["app.wasm"]);
            Layout::index(name, [linux, image.layer("application/wasm", &wasm)])
        })?;
        writes(containerd, &task, &line)?;
    }
    Ok(())
}

fn attestations_of_an_index_are_passed_over(containerd: &Containerd) -> Result<()> {
    let wasm = guests::writes("attested")?;
    let task = made_from(containerd, "attested", &["app.wasm"], |name| {
        let image = Manifest::image(("wasi", "wasm"), &["app.wasm"]);
        let attestation = Manifest::image(("unknown", "unknown"), &[])
            .layer("application/vnd.in-toto+json", b"{}")
            .annotation("vnd.docker.reference.type", "attestation-manifest");
        Layout::index(name, [attestation, image.layer("application/wasm", &wasm)])
    })?;
    writes(containerd, &task, "attested")
}

fn an_exec_finds_the_layer_by_its_name(containerd: &Containerd) -> Result<()> {
    // Without an argument it sleeps until it is killed.
    let wasm = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (drop (call $args (i32.const 0) (i32.const 4)))
                (if (i32.gt_u (i32.load (i32.const 0)) (i32.const 1)) (then (call $exit (i32.const 7))))
                (i32.store (i32.const 80) (i32.const 1))
                (i64.store (i32.const 88) (i64.const 3600000000000))
                (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 160)))))"#,
    )?;
    let task = made_from(containerd, "layer-exec", &["app.wasm"], |name| {
        Layout::of(name, artifact(&wasm))
    })?;
    task.start()?;
    task.exec("same-name", ["app.wasm", "again"])?.exited(7)?;
    let output = task.exec("other-name", ["other.wasm"])?;
    ensure!(
        output.stderr.contains("executable file not found"),
        "{output}"
    );
    task.end().map(drop)
}

fn an_export_of_a_layer_runs(containerd: &Containerd) -> Result<()> {
    for (id, name) in [
        ("export-named", "app.wasm#twice"),
        ("export-bare", "#twice"),
    ] {
        let wasm = wat::parse_str(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1) (func (export "twice") i32.const 22 call $exit))"#,
        )?;
        let task = made_from(containerd, id, &[name], |name| {
            Layout::of(name, artifact(&wasm))
        })?;
        task.start()?;
        let exit = containerd.events().wait_for("exit", id)?;
        ensure!(exit.exit_status() == 22, "{exit}");
    }
    Ok(())
}

/// What is not there cannot be read.
fn a_compiled_layer_is_not_read_again(containerd: &Containerd) -> Result<()> {
    let wasm = guests::writes("read once")?;
    for id in ["read-once-1", "read-once-2"] {
        let task = made_from(containerd, id, &["app.wasm"], |name| {
            Layout::of(name, artifact(&wasm))
        })?;
        if id == "read-once-2" {
            lose(containerd, &wasm)?;
        }
        writes(containerd, &task, "read once")?;
    }
    Ok(())
}

fn a_lost_blob_is_named_with_the_way_out(containerd: &Containerd) -> Result<()> {
    let wasm = guests::writes("never read")?;
    let task = made_from(containerd, "lost", &["app.wasm"], |name| {
        Layout::of(name, artifact(&wasm))
    })?;
    lose(containerd, &wasm)?;
    fails(
        &task,
        &[
            "cannot read the wasm layer of image example.test/lost:1",
            "containerd has no content sha256:",
            "pull the image again",
        ],
    )
}

/// The versions of the interface between them differ. Once compiled, neither layer is needed; both are no other test's.
fn components_in_several_layers_are_composed(containerd: &Containerd) -> Result<()> {
    let (program, library) = (guests::own("greets")?, guests::own("greeter")?);
    for id in ["composed-1", "composed-2"] {
        let task = made_from(containerd, id, &["greets.wasm", "you", "all"], |name| {
            Layout::of(name, artifact(&library).layer(LAYERS[2], &program))
        })?;
        if id == "composed-2" {
            lose(containerd, &program)?;
            lose(containerd, &library)?;
        }
        let lines = "a greeter that says hello\nhello you\nhello all\n";
        writes(containerd, &task, lines)?;
    }
    Ok(())
}

fn layers_that_do_not_fit_are_refused_by_name(containerd: &Containerd) -> Result<()> {
    let (program, module) = (guests::named("greets")?, guests::writes("a module")?);
    let other = guests::named("hello.component")?;
    for (number, (other, text)) in [
        (
            &module,
            "is no component, and only components can be composed",
        ),
        (&other, "several of its layers are programs (sha256:"),
    ]
    .into_iter()
    .enumerate()
    {
        let task = made_from(
            containerd,
            &format!("unfit-{number}"),
            &["app.wasm"],
            |name| Layout::of(name, artifact(&program).layer("application/wasm", other)),
        )?;
        fails(&task, &["sha256:", text])?;
    }
    let task = made_from(containerd, "unfit-alone", &["app.wasm"], |name| {
        Layout::of(name, artifact(&program))
    })?;
    fails(&task, &["guests:greetings/greetings@1.0.0"])
}

fn a_plugin_is_named_as_one(containerd: &Containerd) -> Result<()> {
    let wasm = guests::exits(0)?;
    let task = made_from(containerd, "plugin", &["app.wasm"], |name| {
        let media_type = "application/vnd.module.wasm.content.layer.v1+wasm";
        Layout::of(
            name,
            Manifest::image(("linux", "amd64"), &[]).layer(media_type, &wasm),
        )
    })?;
    fails(
        &task,
        &["a module for the scanner Trivy", "no program itself"],
    )
}

fn a_file_wins_over_a_layer(containerd: &Containerd) -> Result<()> {
    let image = Image::new("file-wins:1")
        .file("/app.wasm", guests::writes("the file")?)
        .entrypoint(["app.wasm"]);
    containerd.import(&image)?;
    let task = containerd.run(&image, "file-wins").create()?;
    Layout::of(image.name(), artifact(&guests::writes("the layer")?)).import(containerd)?;
    writes(containerd, &task, "the file")
}

fn an_image_without_wasm_says_what_is_missing(containerd: &Containerd) -> Result<()> {
    let image = Image::new("no-wasm:1")
        .file("/readme", b"hello")
        .entrypoint(["app.wasm"]);
    containerd.import(&image)?;
    let task = containerd.run(&image, "no-wasm").create()?;
    fails(&task, &["the container has no file `app.wasm` (looked for"])
}

const ANNOTATIONS: [(&str, &str); 4] = [
    ("run.oci.handler", "wasm"),
    ("run.oci.handler", "wasm-smart"),
    ("module.wasm.image/variant", "compat"),
    ("module.wasm.image/variant", "compat-smart"),
];

fn annotations_of_crun_change_nothing_for_wasm(containerd: &Containerd) -> Result<()> {
    // Not named as `-smart` expects it: content comes first.
    let image = Image::new("annotated:1")
        .file("/app", guests::writes("annotated")?)
        .entrypoint(["/app"]);
    containerd.import(&image)?;
    for (number, (name, value)) in ANNOTATIONS.into_iter().enumerate() {
        let run = containerd.run(&image, &format!("annotated-{number}"));
        let output = run.annotation(name, value).output()?.success()?;
        ensure!(output.stdout == "annotated\n", "{name}={value}: {output}");
    }
    Ok(())
}

fn annotations_of_crun_make_no_wasm_of_a_linux_program(containerd: &Containerd) -> Result<()> {
    let image = native::image()?;
    containerd.import(&image)?;
    for (number, (name, value)) in ANNOTATIONS.into_iter().enumerate() {
        let run = containerd.run(&image, &format!("annotated-linux-{number}"));
        let output = run.annotation(name, value).output()?;
        ensure!(
            output.status == 0 && output.stdout == "hello from linux\n",
            "{output}"
        );
    }
    Ok(())
}

/// By a path, by a path without its slash, and by a name; `args[0]` stays what it was.
fn an_entrypoint_is_found_as_it_is_by_runwasi_and_crun(containerd: &Containerd) -> Result<()> {
    let image = Image::new("found:1")
        .file("/app.wasm", guests::named("env")?)
        .file("/usr/bin/tool.wasm", guests::named("env")?)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image)?;
    for (number, name) in [
        "/app.wasm",
        "app.wasm",
        "./app.wasm",
        "tool.wasm",
        "app.wasm#_start",
    ]
    .into_iter()
    .enumerate()
    {
        let run = containerd.run(&image, &format!("found-{number}"));
        let output = run.args([name, "--flag"]).output()?.success()?;
        let args = format!("arg: {name}\narg: --flag\n");
        ensure!(output.stdout.contains(&args), "{output}");
    }
    Ok(())
}
