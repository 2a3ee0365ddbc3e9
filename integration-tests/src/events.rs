//! What containerd publishes, as `ctr events` tells it, in order.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::containerd::Containerd;
use crate::poll;

/// How long an event may take from its cause to us.
const PATIENCE: Duration = Duration::from_secs(20);

/// One published event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The full topic, as `/tasks/start`.
    pub topic: String,
    /// The event as JSON.
    pub body: Value,
}

impl Event {
    /// The container that it is about; empty for other subjects.
    #[must_use]
    pub fn container(&self) -> &str {
        self.body["container_id"].as_str().unwrap_or_default()
    }

    /// The process that it is about: the container's id for its init, else the exec's.
    #[must_use]
    pub fn process(&self) -> &str {
        ["id", "exec_id"]
            .iter()
            .find_map(|key| self.body[key].as_str())
            .unwrap_or_else(|| self.container())
    }

    /// The exit status; an absent one is 0, as protobuf has it.
    #[must_use]
    pub fn exit_status(&self) -> u64 {
        self.body["exit_status"].as_u64().unwrap_or_default()
    }

    /// The pid; an absent one is 0.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.body["pid"].as_u64().unwrap_or_default()
    }

    /// The topic without `/tasks/`, for an event of a task.
    #[must_use]
    pub fn of_task(&self) -> Option<&str> {
        self.topic.strip_prefix("/tasks/")
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.topic, self.body)
    }
}

/// Everything published since the subscription. Clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Events {
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    events: Mutex<Vec<Event>>,
    more: Condvar,
}

/// The running `ctr events`.
#[derive(Debug)]
pub(crate) struct Subscription {
    child: Child,
    pub(crate) events: Events,
}

impl Subscription {
    /// Subscribes, and returns when events arrive: `ctr events` does not say when it is subscribed, so something
    /// is caused until it is told.
    ///
    /// # Errors
    ///
    /// When nothing arrives.
    pub(crate) fn start(containerd: &Containerd) -> Result<Self> {
        let mut child = Command::new(containerd.version().tool("ctr"))
            .arg("--address")
            .arg(containerd.socket())
            .args(["--namespace", containerd.namespace(), "events"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start `ctr events`")?;
        let lines = BufReader::new(child.stdout.take().context("the events' stdout")?).lines();
        let subscription = Self {
            child,
            events: Events::default(),
        };
        let writer = subscription.events.clone();
        std::thread::spawn(move || {
            for event in lines.map_while(Result::ok).filter_map(|line| parse(&line)) {
                writer.lock().push(event);
                writer.seen.more.notify_all();
            }
        });
        let namespace = containerd.namespace();
        // Creating one that exists (after a restart) fails, and the label below does what is needed.
        drop(
            containerd
                .ctr(["namespaces", "create", namespace])
                .output()?,
        );
        let mut round = 0;
        poll::until("`ctr events` is subscribed", PATIENCE, || {
            round += 1;
            let label = format!("probe={round}");
            let labelled = containerd
                .ctr(["namespaces", "label", namespace, &label])
                .success();
            labelled.map_err(|error| format!("{error:#}"))?;
            let events = subscription.events.lock();
            if events.is_empty() {
                Err(format!("{round} labels set, no event"))
            } else {
                Ok(())
            }
        })?;
        Ok(subscription)
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.seen
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far.
    #[must_use]
    pub fn all(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// The events of a container's tasks so far.
    #[must_use]
    pub fn of(&self, id: &str) -> Vec<Event> {
        let mut events = self.all();
        events.retain(|event| event.of_task().is_some() && event.container() == id);
        events
    }

    /// The topics of a container's tasks so far, in order, without `/tasks/`.
    #[must_use]
    pub fn topics_of(&self, id: &str) -> Vec<String> {
        self.of(id)
            .iter()
            .filter_map(Event::of_task)
            .map(str::to_owned)
            .collect()
    }

    /// The first event of this kind (`exit`, `exec-started`, ...) that is about container `id` and was or will
    /// be published.
    ///
    /// # Errors
    ///
    /// When it does not come; the error lists what did.
    pub fn wait_for(&self, topic: &str, id: &str) -> Result<Event> {
        self.wait_until(&format!("{topic} of {id}"), |event| {
            event.of_task() == Some(topic) && event.container() == id
        })
    }

    /// The first event that fits.
    ///
    /// # Errors
    ///
    /// When it does not come; the error lists what did.
    pub fn wait_until(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        let mut events = self.lock();
        loop {
            if let Some(event) = events.iter().find(|event| fits(event)) {
                return Ok(event.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last: Vec<String> = events
                    .iter()
                    .rev()
                    .take(20)
                    .rev()
                    .map(Event::to_string)
                    .collect();
                bail!(
                    "no event {what} within {PATIENCE:?}; the last ones:\n  {}",
                    last.join("\n  ")
                );
            }
            events = self
                .seen
                .more
                .wait_timeout(events, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // It may have ended with its containerd.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A line is `<time, with spaces> <namespace> <topic> <json>`.
fn parse(line: &str) -> Option<Event> {
    let (head, _) = line.split_once('{')?;
    let body = serde_json::from_str(&line[head.len()..]).ok()?;
    Some(Event {
        topic: head.split_whitespace().last()?.to_owned(),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_event() {
        let line = "2026-01-02 03:04:05.6 +0000 UTC ns /tasks/exit {\"container_id\":\"a\",\"id\":\"x\",\"exit_status\":7}";
        let event = parse(line).unwrap();
        assert_eq!(
            (
                event.of_task(),
                event.container(),
                event.process(),
                event.exit_status()
            ),
            (Some("exit"), "a", "x", 7)
        );
    }
}
