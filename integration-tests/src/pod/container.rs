//! A container of a pod.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_cri::v1::{
    ContainerState, ContainerStats, ContainerStatsRequest, ContainerStatus, ContainerStatusRequest,
    ExecSyncRequest, ExecSyncResponse, RemoveContainerRequest, StartContainerRequest,
    StopContainerRequest,
};

use crate::cri::Cri;
use crate::poll;

/// For a container to start or end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A container that was created.
#[derive(Debug)]
pub struct PodContainer<'a> {
    pub(super) cri: &'a Cri,
    pub(super) id: String,
    pub(super) log: PathBuf,
}

impl PodContainer<'_> {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn start(&self) -> Result<()> {
        let request = StartContainerRequest {
            container_id: self.id.clone(),
        };
        self.cri
            .ask("start the container", |mut client| async move {
                client.start_container(request).await
            })?;
        Ok(())
    }

    /// What containerd says of it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn status(&self) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: self.id.clone(),
            verbose: false,
        };
        let answer = self
            .cri
            .ask("the container's status", |mut client| async move {
                client.container_status(request).await
            })?;
        answer.status.context("a status of the container")
    }

    /// Waits for its end, and returns how it ended.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn wait(&self) -> Result<ContainerStatus> {
        let ended = poll::until("the container ends", PATIENCE, || {
            let status = self.status();
            match status.map(|status| (status.state(), status)) {
                Ok((ContainerState::ContainerExited, status)) => Ok(status),
                Ok((state, _)) => Err(format!("{state:?}")),
                Err(error) => Err(format!("{error:#}")),
            }
        });
        ended.with_context(|| format!("its log: {:?}", self.log()))
    }

    /// Runs a command in it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn exec<'b>(&self, cmd: impl IntoIterator<Item = &'b str>) -> Result<ExecSyncResponse> {
        self.exec_within(30, cmd)
    }

    /// Runs a command in it, for some seconds at most.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn exec_within<'b>(
        &self,
        seconds: i64,
        cmd: impl IntoIterator<Item = &'b str>,
    ) -> Result<ExecSyncResponse> {
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: cmd.into_iter().map(str::to_owned).collect(),
            timeout: seconds,
        };
        self.cri.ask("execute", |mut client| async move {
            client.exec_sync(request).await
        })
    }

    /// What it uses.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn stats(&self) -> Result<ContainerStats> {
        let request = ContainerStatsRequest {
            container_id: self.id.clone(),
        };
        let answer = self
            .cri
            .ask("the container's stats", |mut client| async move {
                client.container_stats(request).await
            })?;
        answer.stats.context("stats of the container")
    }

    /// Stops it: the stop signal, the grace period, the kill.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn stop(&self, grace: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: self.id.clone(),
            timeout: grace,
        };
        self.cri
            .ask("stop the container", |mut client| async move {
                client.stop_container(request).await
            })?;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// What containerd answers.
    pub fn remove(self) -> Result<()> {
        let request = RemoveContainerRequest {
            container_id: self.id,
        };
        self.cri
            .ask("remove the container", |mut client| async move {
                client.remove_container(request).await
            })?;
        Ok(())
    }

    /// What it has written, both streams, without what CRI puts before each line.
    ///
    /// # Errors
    ///
    /// When there is no log, or one that is none.
    pub fn log(&self) -> Result<String> {
        let text = std::fs::read_to_string(&self.log)
            .with_context(|| format!("read {}", self.log.display()))?;
        let mut log = String::new();
        for line in text.lines() {
            // <time> <stream> <P or F> <text>
            let fields: Vec<_> = line.splitn(4, ' ').collect();
            let [_, _, kind, text] = fields[..] else {
                bail!("{line:?} is no line of a CRI log");
            };
            log.push_str(text);
            if kind == "F" {
                log.push('\n');
            }
        }
        Ok(log)
    }

    /// Waits until it has written `text`.
    ///
    /// # Errors
    ///
    /// When it has not in time.
    pub fn writes(&self, text: &str) -> Result<()> {
        poll::until("the container writes", PATIENCE, || {
            let log = self.log().map_err(|error| format!("{error:#}"))?;
            if log.contains(text) { Ok(()) } else { Err(log) }
        })
    }
}
