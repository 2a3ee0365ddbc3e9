//! The commands for a node, and the name that k3s calls the shim by. The configurations that `install` makes are
//! read by each real containerd (`config dump`), which needs no daemon.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use integration_tests::fake::FakeContainerd;
use integration_tests::guests;
use integration_tests::invocation::{Invocation, Output};
use integration_tests::poll;
use integration_tests::version::Version;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use tempfile::TempDir;

const SHIM: &str = "containerd-shim-wasi-v1";
const COMPILER: &str = "containerd-shim-wasi-compile";
const ALIAS: &str = "containerd-shim-wasmtime-v1";

/// The root directory of a node.
struct Node(TempDir);

impl Node {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    fn config(&self) -> PathBuf {
        self.path("etc/containerd/config.toml")
    }

    fn configure(&self, text: &str) -> Result<()> {
        fs::create_dir_all(self.path("etc/containerd"))?;
        Ok(fs::write(self.config(), text)?)
    }

    fn run(&self, action: &str, words: &[&str]) -> Result<Output> {
        shim()
            .arg(action)
            .arg("--root")
            .arg(self.0.path())
            .args(words)
            .output()
    }

    fn files(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(folder))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

fn shim() -> Invocation {
    Invocation::new(integration_tests::binaries().join(SHIM))
}

/// The configuration as a containerd understands it.
fn dump(version: &Version, config: &Path) -> Result<String> {
    let dump = Invocation::new(version.tool("containerd"))
        .arg("--config")
        .arg(config)
        .args(["config", "dump"])
        .success()?;
    Ok(dump.stdout)
}

#[test]
fn every_containerd_has_the_runtime_after_install_and_runc_still() -> Result<()> {
    for version in Version::found()? {
        let containerd = version.tool("containerd");
        let default = Invocation::new(containerd).args(["config", "default"]);
        let default = default.success()?.stdout;
        let own = "# mine\nversion = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\"\n";
        // The last is what `install` makes where there is nothing.
        for before in [
            None,
            Some(default.as_str()),
            Some(own),
            Some("version = 2\n"),
        ] {
            let node = Node::new()?;
            if let Some(before) = before {
                node.configure(before)?;
            }
            node.run("install", &[])?.success()?;
            let after = fs::read_to_string(node.config())?;
            let dumped = dump(&version, &node.config())?;
            for runtime in ["runc", "wasi"] {
                ensure!(
                    dumped.contains(&format!("containerd.runtimes.{runtime}]")),
                    "{version} has no {runtime} of\n{after}"
                );
            }
            ensure!(dumped.contains("io.containerd.wasi.v1.*"), "{dumped}");
            ensure!(node.files("usr/local/bin")? == [COMPILER, SHIM]);
            let mode = node
                .path("usr/local/bin")
                .join(SHIM)
                .metadata()?
                .permissions()
                .mode();
            ensure!(mode & 0o777 == 0o755, "{mode:o}");

            let again = node.run("install", &[])?.success()?;
            ensure!(
                again.stdout.contains("has the runtime wasi already"),
                "{again}"
            );
            ensure!(
                fs::read_to_string(node.config())? == after,
                "twice is not once"
            );

            node.run("uninstall", &[])?.success()?;
            ensure!(
                fs::read_to_string(node.config()).ok().as_deref() == before,
                "{version}: uninstall left another configuration"
            );
            ensure!(node.files("usr/local/bin")?.is_empty());
            let left = node.files("etc/containerd")?;
            ensure!(left.len() == usize::from(before.is_some()), "{left:?}");
            node.run("uninstall", &[])?.success()?;
        }
    }
    Ok(())
}

#[test]
fn what_was_changed_since_stays_when_the_runtime_goes() -> Result<()> {
    let node = Node::new()?;
    let before = "version = 3\n[debug]\n  level = 'info' # ours\n";
    node.configure(before)?;
    node.run(
        "install",
        &["--prefix", "/opt/wasi", "--runtime-name", "wasm"],
    )?
    .success()?;
    let installed = fs::read_to_string(node.config())?;
    ensure!(
        installed.contains("runtime_path = \"/opt/wasi/bin/containerd-shim-wasi-v1\""),
        "{installed}"
    );
    fs::write(node.config(), installed.replace("'info'", "'debug'"))?;
    node.run(
        "uninstall",
        &["--prefix", "/opt/wasi", "--runtime-name", "wasm"],
    )?
    .success()?;
    let after = fs::read_to_string(node.config())?;
    ensure!(after == before.replace("'info'", "'debug'"), "{after}");
    ensure!(node.files("etc/containerd")? == ["config.toml"]);
    Ok(())
}

#[test]
fn nothing_is_changed_where_the_configuration_is_not_understood() -> Result<()> {
    let node = Node::new()?;
    let before = "disabled_plugins = [\"cri\"]\n";
    node.configure(before)?;
    let refused = node.run("install", &[])?.exited(1)?;
    for part in ["config.toml", "version 1", "config migrate"] {
        ensure!(refused.stderr.contains(part), "{refused}");
    }
    ensure!(fs::read_to_string(node.config())? == before);
    ensure!(
        !node.path("usr").exists(),
        "programs without a configuration"
    );
    Ok(())
}

#[test]
fn a_link_in_the_nodes_root_means_what_it_means_there() -> Result<()> {
    let node = Node::new()?;
    fs::create_dir_all(node.path("data/containerd"))?;
    fs::create_dir(node.path("etc"))?;
    symlink("/data/containerd", node.path("etc/containerd"))?;
    node.run("install", &[])?.success()?;
    ensure!(node.files("data/containerd")? == ["config.toml"]);
    Ok(())
}

#[test]
fn containerd_is_restarted_once_and_a_failure_is_told() -> Result<()> {
    let node = Node::new()?;
    let tools = node.path("tools");
    fs::create_dir(&tools)?;
    let systemctl = tools.join("systemctl");
    let script = |text: &str| -> Result<()> {
        fs::write(&systemctl, format!("#!/bin/sh\n{text}\n"))?;
        Ok(fs::set_permissions(
            &systemctl,
            fs::Permissions::from_mode(0o755),
        )?)
    };
    let told = node.path("told").display().to_string();
    script(&format!("echo \"$@\" >> {told}"))?;
    // In this root, so that the script's shell is there.
    let run = |action: &str| {
        shim()
            .arg(action)
            .arg("--prefix")
            .arg(node.path("usr"))
            .arg("--config")
            .arg(node.config())
            .args(["--restart", "--service", "containerd-test"])
            .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
            .output()
    };
    for action in ["install", "install", "uninstall", "uninstall"] {
        run(action)?.success()?;
    }
    let restarts = fs::read_to_string(&told)?;
    ensure!(
        restarts == "restart containerd-test\n".repeat(2),
        "{restarts}"
    );
    script("exit 5")?;
    let failed = run("install")?.exited(1)?;
    ensure!(
        failed
            .stderr
            .contains("systemctl restart containerd-test failed"),
        "{failed}"
    );
    Ok(())
}

#[test]
fn k3s_gets_its_name_and_no_configuration() -> Result<()> {
    let node = Node::new()?;
    let done = node.run("install", &["--k3s"])?.success()?;
    ensure!(done.stdout.contains("systemctl restart k3s"), "{done}");
    ensure!(node.files("usr/local/bin")? == [COMPILER, SHIM, ALIAS]);
    ensure!(!node.path("etc").exists());
    let alias = node.path("usr/local/bin").join(ALIAS);
    let info = Invocation::new(&alias).arg("-info").success()?;
    let info = RuntimeInfo::parse_from_bytes(&info.bytes)?;
    ensure!(info.name == "io.containerd.wasmtime.v1", "{info}");
    let version = Invocation::new(&alias).arg("-v").success()?;
    ensure!(
        version.stdout.contains("runtime io.containerd.wasmtime.v1"),
        "{version}"
    );
    for restarts in [true, false] {
        let done = node.run("uninstall", &["--k3s"])?.success()?;
        ensure!(done.stdout.contains("restart k3s") == restarts, "{done}");
        ensure!(node.files("usr/local/bin")?.is_empty());
    }
    fs::write(&alias, "another shim")?;
    let refused = node.run("install", &["--k3s"])?.exited(1)?;
    ensure!(refused.stderr.contains("another program"), "{refused}");
    Ok(())
}

#[test]
fn under_k3s_name_a_container_runs_and_odd_options_are_told() -> Result<()> {
    let node = Node::new()?;
    node.run("install", &["--k3s"])?.success()?;
    let mut fake = FakeContainerd::of(&node.path("usr/local/bin").join(ALIAS))?;
    let body = "BinaryName = \"x\"\nSystemdCgroup = true\nFuel = 7\n";
    let mut value = vec![3 << 3 | 2, u8::try_from(body.len())?];
    value.extend(body.as_bytes());
    fake.options = Some(Any {
        type_url: "runtimeoptions.v1.Options".into(),
        value,
        ..Any::default()
    });
    let bundle = fake
        .bundle("k3s")
        .file("/app.wasm", guests::exits(7)?)
        .args(["/app.wasm"])
        .write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    tasks.start(bundle.id())?;
    let status = tasks.wait(bundle.id())?.exit_status;
    ensure!(status == 7, "it ended with {status}");
    let mut log = String::new();
    poll::until(
        "the option is in the log",
        std::time::Duration::from_secs(10),
        || {
            log += &bundle.logged().unwrap_or_default();
            if log.contains("option Fuel") {
                Ok(())
            } else {
                Err(log.clone())
            }
        },
    )?;
    ensure!(!log.contains("option SystemdCgroup"), "{log}");
    Ok(())
}

#[test]
fn check_tells_what_is_missing_until_it_is_there() -> Result<()> {
    let version = Version::newest()?;
    let node = Node::new()?;
    let socket = node.path("s");
    let cache = node.path("cache");
    let check = || {
        shim()
            .arg("check")
            .arg("--containerd-address")
            .arg(&socket)
            .arg("--config")
            .arg(node.config())
            .env("PATH", version.path())
            .env("CONTAINERD_SHIM_WASI_CACHE", &cache)
            .output()
    };
    let bad = check()?.exited(1)?;
    for line in [
        "missing containerd",
        "missing runtime",
        "ok      mounts",
        "ok      compiler",
    ] {
        ensure!(bad.stdout.contains(line), "no {line:?} in {bad}");
    }
    ensure!(bad.stdout.contains("-> "), "{bad}");
    let listener = UnixListener::bind(&socket)?;
    node.run("install", &[])?.success()?;
    let good = check()?.success()?;
    ensure!(!good.stdout.contains("missing"), "{good}");
    ensure!(
        good.stdout.contains("wasi is in the configuration"),
        "{good}"
    );
    drop(listener);
    Ok(())
}
