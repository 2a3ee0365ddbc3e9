//! What containerd is told of one container once it is there. The driver knows when; this knows the
//! messages. `exec` is an exec's id, `None` for the init.

use containerd_shim_protos::events::task::{
    TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::topics;
use protobuf::MessageField;

use crate::events::{Publisher, timestamp};
use crate::lifecycle::Exit;

/// Publishes the events of one container.
pub(crate) struct Announcer {
    id: String,
    events: Publisher,
}

impl Announcer {
    pub(crate) fn new(id: &str, events: Publisher) -> Self {
        Self {
            id: id.to_owned(),
            events,
        }
    }

    /// Before the guest is released.
    pub(crate) async fn started(&self, exec: Option<&str>, pid: u32) {
        let container_id = self.id.clone();
        if let Some(exec_id) = exec {
            let event = TaskExecStarted {
                container_id,
                exec_id: exec_id.to_owned(),
                pid,
                ..TaskExecStarted::default()
            };
            let topic = topics::TASK_EXEC_STARTED_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        } else {
            let event = TaskStart {
                container_id,
                pid,
                ..TaskStart::default()
            };
            let topic = topics::TASK_START_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        }
    }

    /// Before an exec can be asked for anything.
    pub(crate) async fn added(&self, exec_id: &str) {
        let event = TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..TaskExecAdded::default()
        };
        let topic = topics::TASK_EXEC_ADDED_EVENT_TOPIC;
        self.events.publish(topic, &event).await;
    }

    /// After the container was paused, or resumed.
    pub(crate) async fn paused(&self, paused: bool) {
        let container_id = self.id.clone();
        if paused {
            let event = TaskPaused {
                container_id,
                ..TaskPaused::default()
            };
            let topic = topics::TASK_PAUSED_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        } else {
            let event = TaskResumed {
                container_id,
                ..TaskResumed::default()
            };
            let topic = topics::TASK_RESUMED_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        }
    }

    /// Once for each process, when it is gone.
    pub(crate) async fn exited(&self, exec: Option<&str>, pid: u32, exit: &Exit) {
        if exit.oom {
            let event = TaskOOM {
                container_id: self.id.clone(),
                ..TaskOOM::default()
            };
            let topic = topics::TASK_OOM_EVENT_TOPIC;
            self.events.publish(topic, &event).await;
        }
        let event = TaskExit {
            container_id: self.id.clone(),
            id: exec.unwrap_or(&self.id).to_owned(),
            pid,
            exit_status: exit.status,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskExit::default()
        };
        let topic = topics::TASK_EXIT_EVENT_TOPIC;
        self.events.publish(topic, &event).await;
    }
}
