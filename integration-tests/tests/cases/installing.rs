//! The installer of `deploy/`, as a node runs it: the image of its Containerfile, in a privileged pod of runc's, with the
//! words and the mount of the manifest. What is not real is the host that is mounted there: a folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::image::Image;
use integration_tests::invocation::Invocation;
use integration_tests::native;
use k8s_cri::v1::{LinuxContainerSecurityContext, LinuxSandboxSecurityContext};
use serde_norway::Value;
use tempfile::TempDir;

cases![a_node_is_installed_and_uninstalled_by_the_manifests];

const PROGRAMS: [&str; 2] = ["containerd-shim-wasi-v1", "containerd-shim-wasi-compile"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words after an instruction of the Containerfile.
fn instruction(name: &str) -> Result<String> {
    let file = fs::read_to_string(repository().join("deploy/Containerfile"))?;
    let line = file.lines().find_map(|line| line.strip_prefix(name));
    Ok(line
        .with_context(|| format!("no {name}"))?
        .trim()
        .to_owned())
}

/// What is built of the Containerfile. Its base is there for the C library, which this machine has, too.
fn image() -> Result<Image> {
    let copy = instruction("COPY")?;
    let mut words: Vec<_> = copy.split(' ').skip(1).collect();
    let into = words.pop().context("a destination")?;
    let entrypoint: Vec<String> = serde_json::from_str(&instruction("ENTRYPOINT")?)?;
    let mut image = Image::new("installer:1").platform("linux", "amd64");
    image = image.entrypoint(entrypoint.iter().map(String::as_str));
    for word in words {
        let name = Path::new(word).file_name().context("a file")?;
        // Built where the tests are told to, which is there by default.
        let built = integration_tests::binaries().join(name);
        let program = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
        image = image.executable(&format!("{into}{}", name.display()), program);
        let needed = Invocation::new("ldd").arg(&built).success()?;
        for path in needed.stdout.split_whitespace() {
            if path.starts_with('/') {
                image = image.executable(path, fs::read(path)?);
            }
        }
    }
    Ok(image)
}

/// A node's root directory, with a `systemctl` that says hello.
fn host(containerd: &Containerd) -> Result<TempDir> {
    let host = tempfile::tempdir()?;
    for folder in ["etc/containerd", "usr/bin", "usr/local"] {
        fs::create_dir_all(host.path().join(folder))?;
    }
    let version = if containerd.version().at_least(2, 0) {
        3
    } else {
        2
    };
    let config = host.path().join("etc/containerd/config.toml");
    fs::write(config, format!("version = {version}\n"))?;
    let systemctl = host.path().join("usr/bin/systemctl");
    fs::write(&systemctl, native::program()?)?;
    fs::set_permissions(systemctl, Permissions::from_mode(0o755))?;
    Ok(host)
}

/// Runs the init container of a manifest, in a pod of this name; what it wrote.
fn run(cri: &Cri, image: &Image, host: &Path, pod: &str, manifest: &str) -> Result<String> {
    let path = repository().join("deploy/kubernetes").join(manifest);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let manifest: Value = serde_norway::from_str(&text)?;
    let spec = &manifest["spec"]["template"]["spec"];
    ensure!(spec["volumes"][0]["hostPath"]["path"] == "/");
    let container = &spec["initContainers"][0];
    ensure!(container["securityContext"]["privileged"] == true);
    let mount = container["volumeMounts"][0]["mountPath"].as_str();
    let args = container["args"].as_sequence().context("args")?;
    let args = args.iter().filter_map(Value::as_str);

    let pod = cri.pod(pod).handler("runc").with(|config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context = Some(LinuxSandboxSecurityContext {
            privileged: true,
            ..linux.security_context.take().unwrap_or_default()
        });
    });
    let pod = pod.run()?;
    let installer = pod
        .container("node", image)
        .mount(host, mount.context("mountPath")?)
        .args(args)
        .with(|config| {
            config.linux.get_or_insert_default().security_context =
                Some(LinuxContainerSecurityContext {
                    privileged: true,
                    ..LinuxContainerSecurityContext::default()
                });
        })
        .start()?;
    let exit = installer.wait()?;
    let log = installer.log()?;
    ensure!(exit.exit_code == 0, "{}: {log}", exit.exit_code);
    pod.remove()?;
    Ok(log)
}

fn a_node_is_installed_and_uninstalled_by_the_manifests(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let (image, host) = (image()?, host(containerd)?);
    cri.import(containerd, &image)?;
    let installed = || PROGRAMS.map(|name| host.path().join("usr/local/bin").join(name).is_file());
    let config = || fs::read_to_string(host.path().join("etc/containerd/config.toml"));
    let empty = config()?;
    let run = |pod, manifest| run(&cri, &image, host.path(), pod, manifest);

    let log = run("installs", "installer.yaml")?;
    ensure!(log.contains("hello from linux"), "no systemctl: {log}");
    ensure!(installed() == [true; 2], "{log}");
    ensure!(config()?.contains("io.containerd.wasi.v1"), "{}", config()?);
    // The node's own, as each restart of the pod runs it again.
    let again = run("installs-again", "installer.yaml")?;
    ensure!(
        !again.contains("hello from linux"),
        "restarted for nothing: {again}"
    );

    let log = run("uninstalls", "uninstall/uninstaller.yaml")?;
    ensure!(installed() == [false; 2], "{log}");
    ensure!(config()? == empty, "{}", config()?);
    Ok(())
}
