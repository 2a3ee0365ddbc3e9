//! What a shim costs whose containers are at rest. Alone in its process: other tests start programs, which
//! inherit connections to the shim, and it is woken when they close them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Result, bail};
use integration_tests::fake::FakeContainerd;
use integration_tests::{guests, poll};
use serde_json::json;

/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Voluntary context switches of each thread of a process.
fn switches(pid: i32) -> Result<BTreeMap<String, u64>> {
    let mut switches = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let count = field("voluntary_ctxt_switches:").parse()?;
        switches.insert(format!("{} {}", field("Name:"), field("Pid:")), count);
    }
    Ok(switches)
}

/// Lets time pass.
#[allow(
    clippy::disallowed_methods,
    reason = "that nothing happens in it is what is tested"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn a_shim_whose_guests_are_blocked_is_not_woken_in_ten_seconds() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let resources = json!({
        "cpu": {"quota": 5000, "period": 10_000},
        "memory": {"limit": 1 << 24},
    });
    let mut held = Vec::new();
    for number in 0..10 {
        let id = format!("sleeper-{number}");
        let bundle = fake
            .bundle(&id)
            .file("/app.wasm", guests::sleeps()?)
            .args(["/app.wasm"])
            .annotation("io.containerd.runc.v2.group", "idle")
            .annotation("io.containerd.wasi.v1.deadline", "1h")
            .edit(|config| config["linux"]["resources"] = resources.clone())
            .write()?;
        let tasks = fake.serve(&bundle)?;
        tasks.create(&bundle)?;
        tasks.start(&id)?;
        held.push((tasks, bundle));
    }
    let pid = fake.shim()?.pid;
    poll::until("nothing happens", PATIENCE, || {
        let look = || switches(pid).map_err(|error| format!("{error:#}"));
        let before = look()?;
        rest(Duration::from_millis(500));
        if look()? == before {
            Ok(())
        } else {
            Err("it is woken".to_owned())
        }
    })?;
    let before = switches(pid)?;
    rest(Duration::from_secs(10));
    let after = switches(pid)?;
    if before != after {
        let woken: Vec<_> = after
            .iter()
            .filter(|(thread, count)| before.get(*thread) != Some(count))
            .collect();
        bail!("woken: {woken:?}");
    }
    Ok(())
}
