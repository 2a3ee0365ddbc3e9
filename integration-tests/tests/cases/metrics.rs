//! What `ctr task metrics` says of a container, against guests that use a known amount.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration_tests::containerd::Containerd;
use integration_tests::guests;
use integration_tests::poll;
use integration_tests::task::Task;
use serde_json::Value;

cases![
    a_busy_guest_uses_the_processor,
    a_guest_that_sleeps_uses_next_to_none,
    memory_and_its_limit_are_told_in_bytes,
    a_stopped_container_is_still_answered_for,
];

fn started<'a>(containerd: &'a Containerd, id: &str, guest: &str) -> Result<Task<'a>> {
    let image = guests::image(guest)?;
    containerd.import(&image)?;
    containerd.run(&image, id).memory(64 << 20).start()
}

/// The metrics as JSON: of cgroup v1 or v2, as the host has it.
pub(super) fn metrics(containerd: &Containerd, id: &str) -> Result<Value> {
    let told = containerd
        .ctr(["task", "metrics", "--format", "json", id])
        .success()?;
    serde_json::from_str(&told.stdout).with_context(|| told.to_string())
}

/// A number of either version; an absent one is 0.
pub(super) fn number(metrics: &Value, v1: &str, v2: &str) -> u64 {
    let found = metrics.pointer(v1).or_else(|| metrics.pointer(v2));
    found.and_then(Value::as_u64).unwrap_or_default()
}

/// Processor time in nanoseconds.
pub(super) fn cpu(metrics: &Value) -> u64 {
    let v1 = number(metrics, "/cpu/usage/total", "");
    if v1 > 0 {
        v1
    } else {
        number(metrics, "/cpu/usage_usec", "/cpu/usageUsec") * 1000
    }
}

pub(super) fn memory(metrics: &Value) -> u64 {
    number(metrics, "/memory/usage/usage", "/memory/usage")
}

fn a_busy_guest_uses_the_processor(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "burns", "spin")?;
    task.writes("spinning")?;
    let before = cpu(&metrics(containerd, "burns")?);
    poll::until("100 ms more are told", Duration::from_secs(20), || {
        let now = metrics(containerd, "burns").map_err(|error| format!("{error:#}"))?;
        if cpu(&now) > before + 100_000_000 {
            Ok(())
        } else {
            Err(now.to_string())
        }
    })?;
    // The same that the kernel says of the thread, which goes on meanwhile.
    let told = cpu(&metrics(containerd, "burns")?);
    let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", task.pid()?))?;
    let used: u64 = stat
        .split(' ')
        .next()
        .context("an empty schedstat")?
        .parse()?;
    ensure!(told <= used && told > before, "told {told}, used {used}");
    task.end().map(drop)
}

fn a_guest_that_sleeps_uses_next_to_none(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "rests", "sleep")?;
    task.writes("sleeping")?;
    let before = cpu(&metrics(containerd, "rests")?);
    let after = cpu(&metrics(containerd, "rests")?);
    ensure!(before == after, "{before} ns, then {after} ns");
    task.end().map(drop)
}

fn memory_and_its_limit_are_told_in_bytes(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "holds", "sleep")?;
    task.writes("sleeping")?;
    let told = metrics(containerd, "holds")?;
    // A Rust program has 17 pages of 64 KiB at least, and this one little more.
    let used = memory(&told);
    ensure!((1 << 20..4 << 20).contains(&used), "{told}");
    let limit = number(&told, "/memory/usage/limit", "/memory/usage_limit");
    ensure!(limit == 64 << 20, "{told}");
    task.end().map(drop)
}

fn a_stopped_container_is_still_answered_for(containerd: &Containerd) -> Result<()> {
    let task = started(containerd, "stopped", "spin")?;
    task.writes("spinning")?;
    let running = cpu(&metrics(containerd, "stopped")?);
    task.kill("SIGKILL")?;
    task.reaches("STOPPED")?;
    let told = metrics(containerd, "stopped")?;
    ensure!(cpu(&told) >= running && memory(&told) == 0, "{told}");
    task.delete()?;
    task.remove()
}
