//! Hooks under containerd: a spec of one's own is how `ctr` gets them into a bundle.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::invocation::Output;
use integration_tests::processes::Process;
use rustix::process::Signal;
use serde_json::{Value, json};

cases![
    hooks_run_around_a_container,
    a_hook_that_fails_is_told_to_the_client,
    poststop_runs_after_a_killed_shim,
];

/// A root file system and a spec, and what the hooks have written.
struct Spec<'a> {
    containerd: &'a Containerd,
    folder: PathBuf,
    id: &'static str,
}

impl<'a> Spec<'a> {
    fn new(
        containerd: &'a Containerd,
        id: &'static str,
        hooks: &[(&str, &str)],
        module: &[u8],
    ) -> Result<Self> {
        let folder = containerd.folder().join("specs").join(id);
        let rootfs = folder.join("rootfs");
        fs::create_dir_all(&rootfs).context("a root file system")?;
        fs::write(rootfs.join("main.wasm"), module)?;
        let told = folder.join("told");
        let hook = |name: &str, script: &str| -> Value {
            // One line for each: the name, the status that it was told, and whether the pid is a thread's.
            let script = format!(
                r#"s=$(cat); status=${{s##*\"status\":\"}}; echo "{name} ${{status%%\"*}}" >> {}; {script}"#,
                told.display()
            );
            json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 10 }])
        };
        let mut listed = json!({});
        for (name, script) in hooks {
            listed[*name] = hook(name, script);
        }
        let spec = json!({
            "ociVersion": "1.1.0",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": ["/main.wasm"], "cwd": "/" },
            "root": { "path": rootfs },
            "hooks": listed,
            "linux": { "namespaces": [{ "type": "mount" }, { "type": "network" }] },
        });
        fs::write(folder.join("config.json"), spec.to_string())?;
        Ok(Self {
            containerd,
            folder,
            id,
        })
    }

    fn run(&self, how: &str) -> Result<Output> {
        let config = self.folder.join("config.json").display().to_string();
        let fifos = self.containerd.folder().join("fifo").display().to_string();
        let ctr = self
            .containerd
            .ctr(["run", how, "--runtime", integration_tests::WASI]);
        ctr.args(["--fifo-dir", &fifos, "--config", &config, self.id])
            .output()
    }

    fn told(&self) -> Vec<String> {
        let told = fs::read_to_string(self.folder.join("told")).unwrap_or_default();
        told.lines().map(str::to_owned).collect()
    }
}

fn hooks_run_around_a_container(containerd: &Containerd) -> Result<()> {
    let hooks = [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ];
    let spec = Spec::new(
        containerd,
        "hooked",
        &hooks.map(|name| (name, "true")),
        &guests::exits(6)?,
    )?;
    spec.run("--rm")?.exited(6)?;
    let wanted = [
        "prestart creating",
        "createRuntime creating",
        "createContainer creating",
        "poststart running",
        "poststop stopped",
    ];
    ensure!(spec.told() == wanted, "{:?}", spec.told());
    Ok(())
}

fn a_hook_that_fails_is_told_to_the_client(containerd: &Containerd) -> Result<()> {
    let hooks = [
        ("createRuntime", "echo no network >&2; exit 1"),
        ("poststop", "true"),
    ];
    let spec = Spec::new(containerd, "unhooked", &hooks, &guests::exits(0)?)?;
    let output = spec.run("--rm")?;
    ensure!(output.status != 0, "{output}");
    let wanted = "the createRuntime hook /bin/sh failed (exit status: 1): no network";
    ensure!(output.stderr.contains(wanted), "{output}");
    ensure!(
        spec.told() == ["createRuntime creating", "poststop stopped"],
        "{:?}",
        spec.told()
    );
    // `ctr` leaves the container to be removed when its task was not made.
    drop(containerd.ctr(["container", "delete", spec.id]).output()?);
    Ok(())
}

fn poststop_runs_after_a_killed_shim(containerd: &Containerd) -> Result<()> {
    let spec = Spec::new(
        containerd,
        "unshimmed",
        &[("poststop", "true")],
        &guests::spins()?,
    )?;
    spec.run("--detach")?.success()?;
    let shims = containerd.shims();
    let shim = shims
        .iter()
        .find(|shim| shim.command.contains("-id unshimmed "));
    Process::signal(shim.context("no shim")?, Signal::KILL);
    containerd.events().wait_for("delete", spec.id)?;
    ensure!(spec.told() == ["poststop stopped"], "{:?}", spec.told());
    containerd
        .ctr(["container", "delete", spec.id])
        .success()
        .map(drop)
}
