//! Where the kernel counts a container, as `ctr` asks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::native;
use integration_tests::poll;
use integration_tests::processes::Process;
use integration_tests::run::Run;
use integration_tests::task::Task;
use rustix::process::Signal;

cases![
    the_shim_lives_in_the_containers_cgroup,
    no_cgroup_is_the_one_of_containerd,
    a_share_of_the_processors_is_the_threads,
    a_killed_shim_leaves_no_cgroup,
    a_linux_container_has_its_cgroup_for_itself,
];

fn started<'a>(
    containerd: &'a Containerd,
    id: &str,
    change: impl FnOnce(Run<'a>) -> Run<'a>,
) -> Result<Task<'a>> {
    let image = guests::image("spin")?;
    containerd.import(&image)?;
    let task = change(containerd.run(&image, id)).start()?;
    task.writes("spinning")?;
    Ok(task)
}

fn shim(containerd: &Containerd, id: &str) -> Result<Process> {
    let shims = containerd.shims().into_iter();
    let mut own = shims.filter(|shim| shim.command.contains(&format!("-id {id} ")));
    own.next().with_context(|| format!("{id} has no shim"))
}

/// Where the memory of a process is counted.
fn cgroup(pid: i64) -> Result<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let fields = table
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let v1 = fields
        .clone()
        .find(|(controllers, _)| *controllers == "memory");
    let found = v1.or_else(|| {
        fields
            .clone()
            .find(|(controllers, _)| controllers.is_empty())
    });
    Ok(found.with_context(|| table.clone())?.1.to_owned())
}

/// The folders of a cgroup, in every hierarchy.
fn folders(path: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten();
    let mounts = below.map(|entry| entry.path()).chain([root.to_owned()]);
    mounts
        .map(|mount| mount.join(&path[1..]))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// The shim removes its own when it ends, of which `ctr` is not told.
fn is_gone(path: &str) -> Result<()> {
    poll::until("the cgroup is gone", Duration::from_secs(5), || {
        let left = folders(path);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
}

fn the_shim_lives_in_the_containers_cgroup(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "counted", |run| run)?;
    let path = format!("/{}/counted", containerd.namespace());
    let found = cgroup(shim(containerd, "counted")?.pid.into())?;
    ensure!(found == path, "the shim is in {found}");
    task.end()?;
    is_gone(&path)
}

fn no_cgroup_is_the_one_of_containerd(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "uncounted", |run| run.flag("--cgroup").flag(""))?;
    let found = cgroup(shim(containerd, "uncounted")?.pid.into())?;
    ensure!(
        found == cgroup(containerd.pid().into())?,
        "the shim is in {found}"
    );
    task.end().map(drop)
}

fn a_share_of_the_processors_is_the_threads(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "slow", |run| run.flag("--cpus").flag("0.25"))?;
    let path = format!("/{}/slow/wasi-slow", containerd.namespace());
    let quota = folders(&path).iter().find_map(|folder| {
        let v1 = fs::read_to_string(folder.join("cpu.cfs_quota_us"));
        v1.or_else(|_| fs::read_to_string(folder.join("cpu.max")))
            .ok()
    });
    let quota = quota.with_context(|| format!("no quota in {:?}", folders(&path)))?;
    ensure!(quota.split_whitespace().next() == Some("25000"), "{quota}");
    task.end()?;
    is_gone(&path)
}

fn a_killed_shim_leaves_no_cgroup(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "doomed", |run| run.flag("--cpus").flag("0.25"))?;
    let path = format!("/{}/doomed", containerd.namespace());
    ensure!(!folders(&path).is_empty(), "there is nothing to be left");
    shim(containerd, "doomed")?.signal(Signal::KILL);
    containerd.events().wait_for("delete", "doomed")?;
    is_gone(&path)?;
    task.remove()
}

fn a_linux_container_has_its_cgroup_for_itself(containerd: &Containerd) -> Result<()> {
    let image = native::image()?.renamed("counted-linux:1");
    containerd.import(&image)?;
    let run = containerd.run(&image, "counted-linux");
    let task = run.args(["/hello", "block"]).start()?;
    let path = format!("/{}/counted-linux", containerd.namespace());
    let program = cgroup(task.pid()?.into())?;
    ensure!(program == path, "the program is in {program}");
    let shim = cgroup(shim(containerd, "counted-linux")?.pid.into())?;
    let own = cgroup(containerd.pid().into())?;
    ensure!(
        shim == own,
        "the shim is in {shim}, and containerd in {own}"
    );
    task.end()?;
    is_gone(&path)
}
