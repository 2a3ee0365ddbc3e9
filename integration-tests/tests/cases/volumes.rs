//! What a kubelet gives a container: its volumes, names, user and namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::guests;
use integration_tests::image::Image;
use integration_tests::pod::PodContainer;
use k8s_cri::v1::{
    ContainerConfig, DnsConfig, Int64Value, LinuxContainerSecurityContext, Mount, NamespaceMode,
};

use super::pods::{namespace, pid};

cases![
    a_config_map_changes_under_a_guest,
    a_secret_is_for_the_group_of_the_pod,
    a_guest_writes_as_its_user,
    a_read_only_root_has_writable_volumes,
    a_pod_says_how_names_are_looked_up,
    a_pod_may_have_the_nodes_ipc,
];

/// A container that sleeps, with a program that does things with files.
fn image(containerd: &Containerd, cri: &Cri) -> Result<Image> {
    let image = Image::new("volumes:1")
        .platform("linux", "amd64")
        .file("/app.wasm", guests::named("sleep")?)
        .file("/bin/files", guests::named("files")?)
        .entrypoint(["/app.wasm"]);
    cri.import(containerd, &image)?;
    Ok(image)
}

/// What the program answers: its output, or its error.
fn files(container: &PodContainer<'_>, args: &[&str]) -> Result<Result<String, String>> {
    let answer = container.exec(["/bin/files"].into_iter().chain(args.iter().copied()))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(match answer.exit_code {
        0 => Ok(text(&answer.stdout)),
        _ => Err(text(&answer.stderr)),
    })
}

fn says(container: &PodContainer<'_>, args: &[&str], wanted: &str) -> Result<()> {
    let said = files(container, args)?;
    ensure!(
        said.as_deref() == Ok(wanted),
        "{args:?}: {said:?}, not {wanted:?}"
    );
    Ok(())
}

fn fails(container: &PodContainer<'_>, args: &[&str], kind: &str) -> Result<()> {
    let said = files(container, args)?;
    let told = said
        .as_ref()
        .err()
        .is_some_and(|error| error.contains(kind));
    ensure!(told, "{args:?}: {said:?}, not {kind}");
    Ok(())
}

fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn user(uid: i64, gid: i64, groups: &[i64]) -> impl FnOnce(&mut ContainerConfig) {
    move |config| {
        let context = security(config);
        context.run_as_user = Some(Int64Value { value: uid });
        context.run_as_group = Some(Int64Value { value: gid });
        context.supplemental_groups = groups.to_vec();
    }
}

fn read_only(host: &Path, container: &str) -> impl FnOnce(&mut ContainerConfig) {
    let mount = Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        readonly: true,
        ..Mount::default()
    };
    move |config| config.mounts.push(mount)
}

/// Writes the files of a volume as the kubelet does (`pkg/volume/util/atomic_writer.go`): into a folder of
/// this version, to which `..data` points from one moment to the next.
fn publish(volume: &Path, version: &str, text: &str) -> Result<()> {
    let folder = volume.join(format!("..{version}"));
    fs::create_dir(&folder)?;
    fs::write(folder.join("key"), text)?;
    let new = volume.join("..data_tmp");
    symlink(format!("..{version}"), &new)?;
    fs::rename(new, volume.join("..data"))?;
    let key = volume.join("key");
    if fs::symlink_metadata(&key).is_err() {
        symlink("..data/key", key)?;
    }
    Ok(())
}

fn a_config_map_changes_under_a_guest(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri)?;
    let volume = tempfile::tempdir()?;
    publish(volume.path(), "2026_01", "old\n")?;
    let pod = cri.pod("config").run()?;
    let container = pod
        .container("reads", &image)
        .with(read_only(volume.path(), "/etc/config"))
        .start()?;
    says(&container, &["read", "/etc/config/key"], "old\n")?;
    says(
        &container,
        &["list", "/etc/config"],
        "..2026_01/\n..data@\nkey@\n",
    )?;
    publish(volume.path(), "2026_02", "new\n")?;
    fs::remove_dir_all(volume.path().join("..2026_01"))?;
    says(&container, &["read", "/etc/config/key"], "new\n")?;
    fails(
        &container,
        &["write", "/etc/config/key", "x"],
        "ReadOnlyFilesystem",
    )?;
    // One file of it, by its real path, does not change (subPath).
    let single = pod
        .container("single", &image)
        .with(read_only(
            &volume.path().join("..2026_02/key"),
            "/etc/app.conf",
        ))
        .start()?;
    publish(volume.path(), "2026_03", "newest\n")?;
    fs::remove_dir_all(volume.path().join("..2026_02"))?;
    says(&single, &["read", "/etc/app.conf"], "new\n")?;
    says(&container, &["read", "/etc/config/key"], "newest\n")?;
    pod.remove()
}

fn a_secret_is_for_the_group_of_the_pod(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri)?;
    let volume = tempfile::tempdir()?;
    publish(volume.path(), "2026_01", "secret\n")?;
    // As with fsGroup 2000 and defaultMode 0400.
    for (path, mode) in [
        ("", 0o2750),
        ("..2026_01", 0o2750),
        ("..2026_01/key", 0o440),
    ] {
        let path = volume.path().join(path);
        chown(&path, None, Some(2000))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let pod = cri.pod("secret").run()?;
    let make = |name, groups: &[i64]| {
        let container = pod.container(name, &image).with(user(1000, 3000, groups));
        container
            .with(read_only(volume.path(), "/run/secret"))
            .start()
    };
    let (member, stranger) = (make("member", &[2000])?, make("stranger", &[2001])?);
    says(&member, &["read", "/run/secret/key"], "secret\n")?;
    fails(&stranger, &["read", "/run/secret/key"], "PermissionDenied")?;
    pod.remove()
}

fn a_guest_writes_as_its_user(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri)?;
    let volume = tempfile::tempdir()?;
    chown(volume.path(), None, Some(2000))?;
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o2770))?;
    let pod = cri.pod("writes").run()?;
    let container = pod
        .container("writes", &image)
        .mount(volume.path(), "/data")
        .with(user(1000, 3000, &[2000]))
        .start()?;
    says(&container, &["write", "/data/made", "text"], "ok\n")?;
    let made = fs::metadata(volume.path().join("made"))?;
    // The folder gives its group on.
    ensure!((made.uid(), made.gid()) == (1000, 2000), "{made:?}");
    fails(&container, &["write", "/made", "text"], "PermissionDenied")?;
    pod.remove()
}

fn a_read_only_root_has_writable_volumes(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri)?;
    let folder = tempfile::tempdir()?;
    let (log, data) = (folder.path().join("log"), folder.path().join("data"));
    fs::write(&log, "")?;
    fs::create_dir(&data)?;
    let pod = cri.pod("fixed").run()?;
    let container = pod
        .container("fixed", &image)
        .mount(&log, "/dev/termination-log")
        .mount(&data, "/data")
        .with(|config| security(config).readonly_rootfs = true)
        .start()?;
    fails(&container, &["write", "/made", "x"], "ReadOnlyFilesystem")?;
    says(&container, &["write", "/data/made", "kept"], "ok\n")?;
    says(
        &container,
        &["write", "/dev/termination-log", "because"],
        "ok\n",
    )?;
    says(
        &container,
        &["append", "/dev/termination-log", " of this"],
        "ok\n",
    )?;
    let written = fs::read_to_string(&log)?;
    ensure!(written == "because of this", "{written}");
    says(&container, &["write", "/dev/shm/made", "x"], "ok\n")?;
    pod.remove()?;
    ensure!(fs::read_to_string(data.join("made"))? == "kept");
    Ok(())
}

fn a_pod_says_how_names_are_looked_up(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri)?;
    let pod = cri
        .pod("names")
        .with(|config| {
            config.dns_config = Some(DnsConfig {
                servers: vec!["10.96.0.10".to_owned()],
                searches: vec!["tests.svc.cluster.test".to_owned()],
                options: vec!["ndots:5".to_owned()],
            });
        })
        .run()?;
    let hosts = tempfile::NamedTempFile::new()?;
    fs::write(hosts.path(), "10.88.0.77 names\n")?;
    let container = pod
        .container("reads", &image)
        .mount(hosts.path(), "/etc/hosts")
        .start()?;
    let resolver = "search tests.svc.cluster.test\nnameserver 10.96.0.10\noptions ndots:5\n";
    says(&container, &["read", "/etc/resolv.conf"], resolver)?;
    says(&container, &["read", "/etc/hostname"], "names\n")?;
    says(&container, &["read", "/etc/hosts"], "10.88.0.77 names\n")?;
    pod.remove()
}

fn a_pod_may_have_the_nodes_ipc(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri)?;
    let node = NamespaceMode::Node.into();
    let pod = cri
        .pod("ipc")
        .with(|config| {
            let context = config
                .linux
                .as_mut()
                .and_then(|linux| linux.security_context.as_mut());
            if let Some(options) = context.and_then(|context| context.namespace_options.as_mut()) {
                options.ipc = node;
            }
        })
        .run()?;
    let container = pod
        .container("sleep", &image)
        .with(|config| {
            if let Some(options) = &mut security(config).namespace_options {
                options.ipc = node;
            }
        })
        .start()?;
    let (host, network) = (
        namespace(containerd.pid(), "ipc")?,
        namespace(containerd.pid(), "net")?,
    );
    for id in [pod.id(), container.id()] {
        let pid = pid(containerd, id)?;
        ensure!(namespace(pid, "ipc")? == host, "{id} has another");
        ensure!(
            namespace(pid, "net")? != network,
            "{id} has the node's network, too"
        );
    }
    // The node's, seen by its name.
    let name = tempfile::Builder::new()
        .prefix("wasi-ipc-")
        .tempfile_in("/dev/shm")?;
    fs::write(name.path(), "shared")?;
    fs::set_permissions(name.path(), fs::Permissions::from_mode(0o644))?;
    let path = name.path().to_str().context("a name")?;
    says(&container, &["read", path], "shared")?;
    pod.remove()
}
