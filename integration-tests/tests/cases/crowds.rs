//! A node full of pods. It is the same for every containerd, so one is asked.

use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::poll;
use integration_tests::processes::Process;
use k8s_cri::v1::{ListContainerStatsRequest, ListPodSandboxStatsRequest};

use super::pods::image;
use super::races::{nothing_is_left, together};

cases![a_hundred_pods_are_a_hundred_processes];

/// What a kubelet takes is 110.
const PODS: usize = 100;
const MAKERS: usize = 4;
/// Of a shim that has nothing to do: the one that answers, the sandbox's and the container's.
const THREADS: usize = 3;

fn a_hundred_pods_are_a_hundred_processes(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let ids = Mutex::new(Vec::new());
    together(MAKERS, |maker| {
        let cri = Cri::connect(containerd)?;
        for number in (maker..PODS).step_by(MAKERS) {
            let pod = cri.pod(&format!("crowd-{number}")).run()?;
            let known = ids.lock().map(|mut ids| ids.push(pod.id().to_owned()));
            known.map_err(|error| anyhow!("{error}"))?;
            let container = pod.container("sleep", &image).start()?;
            container.writes("sleeping")?;
        }
        Ok(())
    })?;
    let ids = ids.into_inner().map_err(|error| anyhow!("{error}"))?;
    let tag = containerd.tag();
    let mut processes = Process::all();
    processes.retain(|process| process.is_in_cgroup(tag));
    ensure!(
        processes.len() == PODS,
        "{} processes: {processes:?}",
        processes.len()
    );
    // Those that a pod was made with leave when they have had nothing to do for a while.
    poll::until(
        "no shim has a thread too many",
        Duration::from_secs(30),
        || {
            let threads = processes.iter().map(|process| {
                let tasks = fs::read_dir(format!("/proc/{}/task", process.pid));
                tasks.map_or(0, Iterator::count)
            });
            let most = threads.max().unwrap_or_default();
            if most <= THREADS {
                Ok(())
            } else {
                Err(format!("{most} threads"))
            }
        },
    )?;
    let listed = cri.ask("list what all use", |mut client| async move {
        let request = ListContainerStatsRequest::default();
        client.list_container_stats(request).await
    })?;
    ensure!(
        listed.stats.len() == PODS,
        "{} containers",
        listed.stats.len()
    );
    let listed = cri.ask("list what all pods use", |mut client| async move {
        let request = ListPodSandboxStatsRequest::default();
        client.list_pod_sandbox_stats(request).await
    })?;
    ensure!(listed.stats.len() == PODS, "{} pods", listed.stats.len());
    together(MAKERS, |maker| {
        let cri = Cri::connect(containerd)?;
        let own = ids.iter().skip(maker).step_by(MAKERS);
        own.map(String::as_str)
            .try_for_each(|id| cri.remove_pod(id))
    })?;
    nothing_is_left(containerd, &cri, "crowd-", &ids)
}
