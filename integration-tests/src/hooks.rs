//! Hooks that write down what they saw, for tests of the built shim.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::bundle::{Bundle, BundleBuilder};
use crate::fake::FakeContainerd;
use crate::tasks::Tasks;
use crate::{guests, native, poll};

const KILL: u32 = 9;
const PATIENCE: Duration = Duration::from_secs(20);

/// What each recording hook does: its state, environment and namespaces into files named for it, and its name
/// into the one list.
const RECORD: &str = r#"
cat > "$FOLDER/$NAME.state"
tr '\0' '\n' < /proc/$$/environ > "$FOLDER/$NAME.env"
for n in net ipc uts mnt pid; do readlink /proc/$$/ns/$n; done > "$FOLDER/$NAME.ns"
for n in 3 4 5 6 7 8 9; do [ ! -e /proc/$$/fd/$n ] || echo "$n"; done > "$FOLDER/$NAME.fds"
echo "$NAME" >> "$FOLDER/order"
"#;

/// Where hooks write to, and the making of them.
#[derive(Debug)]
pub struct Notes(PathBuf);

impl Notes {
    /// In the folder of a fake.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn new(fake: &FakeContainerd) -> Result<Self> {
        let folder = fake.folder().join("notes");
        fs::create_dir(&folder).context("a folder for the hooks")?;
        Ok(Self(folder))
    }

    /// A hook that records, and then does what `script` says.
    #[must_use]
    pub fn hook(&self, name: &str, script: &str) -> Value {
        json!({
            "path": "/bin/sh",
            "args": ["a-hook", "-c", format!("{RECORD}{script}"), "zeroth"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", format!("FOLDER={}", self.0.display()), format!("NAME={name}")],
        })
    }

    /// A hook that writes its name into the list, and no more.
    #[must_use]
    pub fn brief(&self, name: &str) -> Value {
        json!({
            "path": "/bin/sh",
            "args": ["a-hook", "-c", "cat > /dev/null; echo \"$NAME\" >> \"$FOLDER/order\""],
            "env": ["PATH=/usr/bin:/bin", format!("FOLDER={}", self.0.display()), format!("NAME={name}")],
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// A file of it.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.0.join(file)).with_context(|| format!("read {file} of the notes"))
    }

    /// What a hook was told.
    ///
    /// # Errors
    ///
    /// When it has not run, or that is no JSON.
    pub fn state(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.read(&format!("{name}.state"))?)?)
    }

    /// The names of those that ran, in order.
    #[must_use]
    pub fn order(&self) -> Vec<String> {
        let order = self.read("order").unwrap_or_default();
        order.lines().map(str::to_owned).collect()
    }

    /// Waits until a hook has begun.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn waits_for(&self, name: &str) -> Result<()> {
        poll::until("a hook has begun", PATIENCE, || {
            let order = self.order();
            let begun = order.iter().any(|begun| begun == name);
            begun.then_some(()).ok_or_else(|| format!("{order:?}"))
        })
    }
}

/// A bundle with these hooks, whose guest runs until it is killed.
///
/// # Errors
///
/// Never, with a guest that parses.
pub fn with_hooks(fake: &FakeContainerd, id: &str, hooks: Value) -> Result<BundleBuilder> {
    let bundle = fake.bundle(id).file("/main.wasm", guests::spins()?);
    Ok(bundle.edit(|spec| spec["hooks"] = hooks))
}

/// Kill, Wait, and all that containerd does to forget a task.
///
/// # Errors
///
/// When one of them fails, or the shim stays.
pub fn end(fake: &FakeContainerd, tasks: &Tasks, bundle: &Bundle) -> Result<()> {
    tasks.kill(bundle.id(), KILL)?;
    tasks.wait(bundle.id())?;
    fake.forget(tasks, bundle)?;
    fake.shims_end()
}

/// A bundle with a startContainer hook that is a Linux program of its own root.
///
/// # Errors
///
/// When there is no C compiler, or the file system refuses.
pub fn with_program(fake: &FakeContainerd, id: &str, args: &[&str]) -> Result<Bundle> {
    let hooks = json!({ "startContainer": [{ "path": "/hello", "args": args }] });
    let bundle = with_hooks(fake, id, hooks)?.file("/hello", native::program()?);
    bundle.write()
}
