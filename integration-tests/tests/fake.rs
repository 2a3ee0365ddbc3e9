//! The fake containerd, proved with runc's shims: what fails here is no fault of ours.

use anyhow::{Context as _, Result, ensure};
use containerd_shim_protos::events::task::TaskExit;
use integration_tests::dialect::Dialect;
use integration_tests::fake::FakeContainerd;
use integration_tests::native;
use integration_tests::tasks::{Api, Tasks};
use integration_tests::version::Version;
use serde_json::json;

#[test]
fn it_drives_the_runc_shim_of_every_containerd() -> Result<()> {
    for version in Version::found()? {
        drive(&version).with_context(|| format!("the runc shim of containerd {version}"))?;
    }
    Ok(())
}

fn drive(version: &Version) -> Result<()> {
    let (dialect, api) = match version {
        version if version.at_least(2, 0) => (Dialect::Options, Api::V3),
        version if version.at_least(1, 7) => (Dialect::Options, Api::V2),
        _ => (Dialect::Bare, Api::V2),
    };
    let mut fake = FakeContainerd::of(&version.tool("containerd-shim-runc-v2"))?;
    fake.environment
        .push(("PATH".into(), version.path().to_string_lossy().into_owned()));
    fake.receiver.refuse(1);
    let id = format!("fake-runc-{version}");
    let bundle = fake
        .bundle(&id)
        .file("/hello", native::program()?)
        .args(["/hello", "exit", "6"])
        .edit(|spec| {
            spec["mounts"] = json!([{ "type": "proc", "source": "proc", "destination": "/proc" }]);
            spec["linux"]["cgroupsPath"] = format!("/{id}").into();
        })
        .write()?;
    let endpoint = fake.start(&bundle, dialect)?;
    ensure!(
        bundle
            .address()
            .ok()
            .is_none_or(|address| address == endpoint.address),
        "{endpoint:?}"
    );
    let tasks = Tasks::connect(&endpoint.address, api)?;
    let pid = tasks.create(&bundle)?.pid;
    ensure!(tasks.start(&id)?.pid == pid, "another pid at Start");
    ensure!(tasks.wait(&id)?.exit_status == 6, "another exit status");
    ensure!(tasks.delete(&id)?.pid == pid, "another pid at Delete");
    let exit: TaskExit = fake.receiver.wait_for("exit")?.decode()?;
    ensure!((exit.pid, exit.exit_status) == (pid, 6), "{exit:?}");
    ensure!(
        fake.receiver.refused() == 1,
        "{} refused",
        fake.receiver.refused()
    );
    tasks.shutdown(&id)?;
    fake.shims_end()
}
