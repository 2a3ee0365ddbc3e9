//! Pods that come and go at the same time, and pods that have to go before they are made.

use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::cri::Cri;
use integration_tests::poll;
use k8s_cri::v1::{
    ContainerFilter, ListContainersRequest, ListPodSandboxRequest, RemoveContainerRequest,
};

use super::pods::image;

cases![
    pods_come_and_go_at_the_same_time,
    a_pod_goes_while_a_container_is_made,
];

const AT_ONCE: usize = 4;
const ROUNDS: usize = 2;

/// Does something so many times at once; each time is told its number.
pub(super) fn together(times: usize, each: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let each = &each;
        let threads: Vec<_> = (0..times)
            .map(|number| scope.spawn(move || each(number)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let done = thread.join();
            done.map_err(|_| anyhow!("a panic"))?
        })
    })
}

/// Nothing is left of pods with such names: neither at containerd, nor of their shims and bundles.
pub(super) fn nothing_is_left(
    containerd: &Containerd,
    cri: &Cri,
    names: &str,
    ids: &[String],
) -> Result<()> {
    let listed = cri.ask("list the pods", |mut client| async move {
        let request = ListPodSandboxRequest::default();
        client.list_pod_sandbox(request).await
    })?;
    let known = listed.items.iter().filter_map(|pod| pod.metadata.as_ref());
    let known: Vec<_> = known.filter(|pod| pod.name.starts_with(names)).collect();
    ensure!(known.is_empty(), "{known:?}");
    // A shim ends after its last answer.
    poll::until("the shims are gone", Duration::from_secs(20), || {
        let mut left = containerd.shims();
        left.retain(|shim| ids.iter().any(|id| shim.command.contains(id)));
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })?;
    for id in ids {
        let bundle = containerd.bundle(id);
        ensure!(!bundle.exists(), "{}", bundle.display());
    }
    Ok(())
}

fn pods_come_and_go_at_the_same_time(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "exit")?;
    let ids = std::sync::Mutex::new(Vec::new());
    together(AT_ONCE, |number| {
        let cri = Cri::connect(containerd)?;
        for round in 0..ROUNDS {
            let pod = cri.pod(&format!("rush-{number}-{round}")).run()?;
            let known = ids.lock().map(|mut ids| ids.push(pod.id().to_owned()));
            known.map_err(|error| anyhow!("{error}"))?;
            let container = pod.container("exit", &image).args(["3"]).start()?;
            let status = container.wait()?;
            ensure!(status.exit_code == 3, "{status:?}");
            pod.remove()?;
        }
        Ok(())
    })?;
    let ids = ids.into_inner().map_err(|error| anyhow!("{error}"))?;
    ensure!(ids.len() == AT_ONCE * ROUNDS, "{ids:?}");
    nothing_is_left(containerd, &cri, "rush-", &ids)
}

fn a_pod_goes_while_a_container_is_made(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let image = image(containerd, &cri, "sleep")?;
    let mut ids = Vec::new();
    for round in 0..AT_ONCE {
        let pod = cri.pod(&format!("doomed-{round}")).run()?;
        let id = pod.id().to_owned();
        let begin = Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let other = Cri::connect(containerd);
                    begin.wait();
                    // One is too early, or too late; what is left of it the last one must be able to end.
                    drop(other.map(|other| other.remove_pod(&id)));
                });
            }
            begin.wait();
            drop(pod.container("sleep", &image).start());
        });
        let filter = ContainerFilter {
            pod_sandbox_id: id.clone(),
            ..ContainerFilter::default()
        };
        let listed = cri.ask("list its containers", |mut client| async move {
            let filter = Some(filter);
            client
                .list_containers(ListContainersRequest { filter })
                .await
        })?;
        // As the kubelet does, which finds them without their pod.
        for container in listed.containers {
            let request = RemoveContainerRequest {
                container_id: container.id,
            };
            cri.ask("remove what was made too late", |mut client| async move {
                client.remove_container(request).await
            })?;
        }
        // 1.6 does not know of one that is gone already.
        if pod.status().is_ok() {
            pod.remove()?;
        }
        ids.push(id);
    }
    nothing_is_left(containerd, &cri, "doomed-", &ids)
}
