//! Images by way of a real registry: what `pack` makes is pushed, pulled and run, by `ctr` and, as a kubelet has
//! it, by CRI.

use anyhow::{Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::layout::{Layout, Manifest};
use integration_tests::registry::Registry;

use super::packing::{folder_of, pack};

cases![what_is_packed_is_pushed_pulled_and_run];

/// By CRI.
pub(crate) const NODE: &[crate::Case] = &[
    ("a_pulled_image_runs_in_a_pod", a_pulled_image_runs_in_a_pod),
    (
        "a_pulled_layer_runs_in_a_pod_where_containerd_takes_layers",
        a_pulled_layer_runs_in_a_pod_where_containerd_takes_layers,
    ),
    (
        "a_pulled_artifact_runs_in_a_pod_that_has_a_command",
        a_pulled_artifact_runs_in_a_pod_that_has_a_command,
    ),
    (
        "an_index_without_the_nodes_platform_is_not_pulled",
        an_index_without_the_nodes_platform_is_not_pulled,
    ),
];

/// Packs a guest, and pushes it as `name`; containerd forgets it then.
fn push(registry: &Registry<'_>, name: &str, wasm: &[u8], flags: &str) -> Result<String> {
    let reference = registry.reference(name);
    let folder = folder_of(wasm)?;
    let tar = pack(&folder, &reference, flags)?.display().to_string();
    // 1.6 has it all then, and yet fails where it cannot unpack.
    drop(registry.ctr(["import", &tar]).output()?);
    move_to(registry, &reference)?;
    Ok(reference)
}

/// Moves an image of containerd into the registry.
fn move_to(registry: &Registry<'_>, reference: &str) -> Result<()> {
    let push = registry.ctr(["push", "--plain-http", reference]);
    push.success()?;
    registry
        .ctr(["rm", "--sync", reference])
        .success()
        .map(drop)
}

fn what_is_packed_is_pushed_pulled_and_run(containerd: &Containerd) -> Result<()> {
    let registry = Registry::beside(containerd, "packed")?;
    for (id, flags) in [("pulled-file", ""), ("pulled-layer", "--layer")] {
        if flags == "--layer" && !containerd.version().at_least(1, 7) {
            // See `packing`.
            continue;
        }
        let wasm = guests::writes(id)?;
        let reference = push(&registry, &format!("{id}:1"), &wasm, flags)?;
        registry
            .ctr(["pull", "--plain-http", &reference])
            .success()?;
        let output = containerd.run(&Image::new(&reference), id).output()?;
        ensure!(output.success()?.stdout == format!("{id}\n"));
    }
    Ok(())
}

/// Makes a pod of a pulled image; what its container has written.
fn in_a_pod(containerd: &Containerd, id: &str, flags: &str, command: &[&str]) -> Result<String> {
    let cri = Cri::connect(containerd)?;
    cri.import_pause(containerd)?;
    let registry = Registry::beside(containerd, id)?;
    let wasm = guests::writes(id)?;
    let reference = push(&registry, &format!("{id}:1"), &wasm, flags)?;
    let image = cri.pull(&reference)?;
    let pod = cri.pod(id).run()?;
    let container = pod.container("app", &image).with(|config| {
        config.command = command.iter().map(|&word| word.to_owned()).collect();
    });
    let container = container.start()?;
    ensure!(container.wait()?.exit_code == 0);
    let log = container.log()?;
    pod.remove()?;
    Ok(log)
}

/// That containerd does not let it come to that, and says `why`.
fn fails(log: Result<String>, why: &str) -> Result<()> {
    let error = log.err().map(|error| format!("{error:#}"));
    let error = error.unwrap_or_else(|| "it ran".to_owned());
    ensure!(error.contains(why), "{error}");
    Ok(())
}

fn a_pulled_image_runs_in_a_pod(containerd: &Containerd) -> Result<()> {
    let log = in_a_pod(containerd, "pulled-by-cri", "", &[])?;
    ensure!(log.contains("pulled-by-cri"), "{log}");
    Ok(())
}

fn a_pulled_layer_runs_in_a_pod_where_containerd_takes_layers(
    containerd: &Containerd,
) -> Result<()> {
    let log = in_a_pod(containerd, "layer-by-cri", "--layer", &[]);
    if !containerd.version().at_least(1, 7) {
        return fails(log, "mismatched image rootfs");
    }
    let log = log?;
    ensure!(log.contains("layer-by-cri"), "{log}");
    Ok(())
}

fn a_pulled_artifact_runs_in_a_pod_that_has_a_command(containerd: &Containerd) -> Result<()> {
    let artifact = "--artifact";
    if !containerd.version().at_least(1, 7) {
        let log = in_a_pod(containerd, "artifact-by-cri", artifact, &["/app.wasm"]);
        return fails(log, "mismatched image rootfs");
    }
    let bare = in_a_pod(containerd, "bare-artifact-by-cri", artifact, &[]);
    fails(bare, "no command specified")?;
    let log = in_a_pod(containerd, "artifact-by-cri", artifact, &["/app.wasm"])?;
    ensure!(log.contains("artifact-by-cri"), "{log}");
    Ok(())
}

/// A kubelet cannot ask for another platform: such an image is to be one manifest, as `pack` makes it.
fn an_index_without_the_nodes_platform_is_not_pulled(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let registry = Registry::beside(containerd, "index-by-cri")?;
    let reference = registry.reference("index-by-cri:1");
    let manifest = Manifest::image(("wasi", "wasm"), &["app.wasm"]);
    let manifest = manifest.layer("application/wasm", &guests::exits(0)?);
    Layout::index(&reference, [manifest]).import(containerd)?;
    move_to(&registry, &reference)?;
    let error = cri.pull(&reference).map(|image| image.name().to_owned());
    fails(error, "no match for platform in manifest")
}
