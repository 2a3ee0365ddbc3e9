//! Unusual bundles: each runs as it would under runc, or is refused in words that say what, why and what
//! to do. All of them go to one shim, which must be there at the end, without a word of a panic.
//!
//! Where this differs from runc (1.2), the row says so.

mod files;
mod refused;
mod run;

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::api::CreateTaskRequest;
use integration_tests::bundle::{Bundle, BundleBuilder};
use integration_tests::fake::FakeContainerd;
use integration_tests::guests;
use integration_tests::tasks::{Tasks, code};
use serde_json::{Value, json};
use ttrpc::Code;

/// What the guest of these bundles ends with.
const RAN: u32 = 7;

/// Bundles of one shim, each with a guest that ends with [`RAN`].
struct Shim {
    fake: FakeContainerd,
    tasks: Tasks,
    leader: Bundle,
    pid: u32,
}

impl Shim {
    fn new() -> Result<Self> {
        let fake = FakeContainerd::new()?;
        let leader = fake.bundle("leader").write()?;
        let tasks = fake.serve(&leader)?;
        let pid = tasks.connect_task(leader.id())?.shim_pid;
        Ok(Self {
            fake,
            tasks,
            leader,
            pid,
        })
    }

    fn bundle(&self, id: &str) -> Result<BundleBuilder> {
        Ok(self
            .fake
            .bundle(id)
            .file("/main.wasm", guests::exits(u8::try_from(RAN)?)?))
    }

    /// Runs a bundle to its end, which must be [`RAN`].
    fn runs(&self, bundle: &Bundle) -> Result<()> {
        self.runs_with(bundle, |_| ())
            .with_context(|| bundle.id().to_owned())
    }

    fn runs_with(
        &self,
        bundle: &Bundle,
        change: impl FnOnce(&mut CreateTaskRequest),
    ) -> Result<()> {
        self.tasks.create_with(bundle, change)?;
        self.tasks.start(bundle.id())?;
        let exit = self.tasks.wait(bundle.id())?.exit_status;
        self.tasks.delete(bundle.id())?;
        ensure!(exit == RAN, "it ended with {exit}");
        Ok(())
    }

    /// Demands that Create fails with `expected` and all of `words`, and that nothing is left of it.
    fn refuses(&self, bundle: &Bundle, expected: Code, words: &[&str]) -> Result<()> {
        let refused = self.tasks.create(bundle);
        let id = bundle.id();
        ensure!(code(&refused) == Some(expected), "{id}: {refused:?}");
        let text = match refused {
            Err(ttrpc::Error::RpcStatus(status)) => status.message,
            refused => format!("{refused:?}"),
        };
        for word in words {
            ensure!(text.contains(word), "{id}: {word:?} is not in {text:?}");
        }
        ensure!(
            code(&self.tasks.state(id)) == Some(Code::NOT_FOUND),
            "{id} is there"
        );
        ensure!(bundle.mounts().is_empty(), "{id}: {:?}", bundle.mounts());
        Ok(())
    }

    /// It is the same process as ever, and has not said that anything of it panicked.
    fn ends_well(self) -> Result<()> {
        let now = self.tasks.connect_task(self.leader.id())?.shim_pid;
        ensure!(now == self.pid, "another shim answers");
        let log = self.leader.logged()?;
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}

/// Demands that every row holds, and tells of all that do not.
fn all(rows: impl Iterator<Item = Result<()>>) -> Result<()> {
    let failed: Vec<_> = rows
        .filter_map(Result::err)
        .map(|error| format!("{error:#}"))
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

type Edit = fn(&mut Value);

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn tmpfs(destination: &str) -> Value {
    mount(destination, "tmpfs", "tmpfs", &["nosuid", "size=64k"])
}

fn remove(spec: &mut Value, name: &str) {
    if let Some(spec) = spec.as_object_mut() {
        spec.remove(name);
    }
}
