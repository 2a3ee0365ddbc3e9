//! An exec of the real binary: its life beside the init's, the order of events, and what is refused.
//!
//! Root and the built binary are all that is needed. Each test has its own fake, and with it its own sockets.

use std::fs;

use anyhow::{Result, ensure};
use containerd_shim_protos::api::Status;
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted, TaskExit};
use integration_tests::execs::{created, ends, exits, running};
use integration_tests::fake::FakeContainerd;
use integration_tests::guests;
use integration_tests::tasks::{code, message};
use serde_json::{Value, json};
use ttrpc::Code;

const TERM: u32 = 15;
const KILL: u32 = 9;
const STOP: u32 = 19;
const CONT: u32 = 18;

fn ids(exits: &[TaskExit]) -> Vec<&str> {
    exits.iter().map(|exit| exit.id.as_str()).collect()
}

#[test]
fn an_exec_lives_and_ends_beside_the_init() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "web")?;
    let exec = tasks.exec("web", "first");
    exec.add(&["exits-7"])?;
    let state = exec.state()?;
    ensure!(state.status.enum_value() == Ok(Status::CREATED), "{state}");
    ensure!((state.id.as_str(), state.exec_id.as_str()) == ("first", "first"));
    ensure!(state.pid != 0 && state.pid != tasks.state("web")?.pid);
    ensure!(exec.start()?.pid == state.pid);
    ensure!(exec.wait()?.exit_status == 7);
    ensure!(exec.state()?.exit_status == 7);
    ensure!(tasks.state("web")?.status.enum_value() == Ok(Status::RUNNING));
    ensure!(code(&exec.start()) == Some(Code::FAILED_PRECONDITION));
    let deleted = exec.delete()?;
    ensure!((deleted.pid, deleted.exit_status) == (state.pid, 7));
    ensure!(code(&exec.delete()) == Some(Code::NOT_FOUND));

    let exits = ends(&fake, &tasks, "web")?;
    ensure!(ids(&exits) == ["first", "web"], "{exits:?}");
    tasks.delete("web")?;
    fake.receiver.wait_for("delete")?;
    let topics = fake.receiver.topics();
    ensure!(
        topics
            == [
                "create",
                "start",
                "exec-added",
                "exec-started",
                "exit",
                "exit",
                "delete"
            ],
        "{topics:?}"
    );
    let added: TaskExecAdded = fake.receiver.wait_for("exec-added")?.decode()?;
    let started: TaskExecStarted = fake.receiver.wait_for("exec-started")?.decode()?;
    ensure!((added.container_id.as_str(), added.exec_id.as_str()) == ("web", "first"));
    ensure!((started.exec_id.as_str(), started.pid) == ("first", state.pid));
    ensure!(
        (
            exits[0].container_id.as_str(),
            exits[0].pid,
            exits[0].exit_status
        ) == ("web", state.pid, 7)
    );
    Ok(())
}

#[test]
fn an_exec_is_in_the_containers_namespaces() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "shared")?;
    let pid = tasks.exec("shared", "inside").run(&["spins"])?;
    let init = tasks.state("shared")?.pid;
    for name in ["net", "ipc", "uts", "mnt"] {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        ensure!(namespace(pid)? == namespace(init)?, "{name}");
    }
    let root = |pid: u32| fs::read_dir(format!("/proc/{pid}/root")).map(Iterator::count);
    ensure!(root(pid)? == root(init)?);
    ensure!(fs::exists(format!("/proc/{pid}/root/bin/spins"))?);
    Ok(())
}

#[test]
fn an_exec_has_the_credentials_that_it_asks_for() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "ranks")?;
    let status = |exec: &str, process: Value| -> Result<Vec<String>> {
        let exec = tasks.exec("ranks", exec);
        exec.add_with(&["spins"], |_, spec| {
            for (key, value) in process.as_object().into_iter().flatten() {
                spec[key] = value.clone();
            }
        })?;
        let status = fs::read_to_string(format!("/proc/{}/status", exec.start()?.pid))?;
        let fields = ["Uid:", "Gid:", "Groups:", "Umask:", "CapEff:"].iter();
        let field = |name: &&str| status.lines().find_map(|line| line.strip_prefix(*name));
        let values = fields.map(|name| field(name).unwrap_or_default());
        let words = values.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "));
        Ok(words.collect())
    };
    let user = json!({ "uid": 1234, "gid": 5678, "additionalGids": [9, 10], "umask": 0o27 });
    let found = status("user", json!({ "user": user }))?;
    let none = "0000000000000000";
    let expected = ["0 1234 0 1234", "5678 5678 5678 5678", "9 10", "0027", none];
    ensure!(found == expected, "{found:?}");
    let capabilities = json!({ "effective": ["CAP_CHOWN", "CAP_SYS_ADMIN"] });
    let found = status("root", json!({ "capabilities": capabilities }))?;
    ensure!(found[0] == "0 0 0 0", "{found:?}");
    ensure!(found[4] == "0000000000000001", "{found:?}");
    Ok(())
}

#[test]
fn an_exec_without_a_umask_has_its_containers() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let bundle = fake
        .bundle("masked")
        .file("/main.wasm", guests::spins()?)
        .edit(|config| config["process"]["user"]["umask"] = 0o37.into())
        .write()?;
    let tasks = fake.serve(&bundle)?;
    tasks.create(&bundle)?;
    let pid = tasks.exec("masked", "exec").run(&["/main.wasm"])?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("Umask:\t0037\n"), "{status}");
    Ok(())
}

#[test]
fn one_exec_is_killed_alone() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "alone")?;
    let (victim, other) = (tasks.exec("alone", "victim"), tasks.exec("alone", "other"));
    for exec in [&victim, &other] {
        exec.run(&["spins"])?;
    }
    let refused = victim.delete();
    ensure!(
        code(&refused) == Some(Code::FAILED_PRECONDITION),
        "{refused:?}"
    );
    victim.kill(TERM)?;
    ensure!(victim.wait()?.exit_status == 143);
    let again = victim.kill(KILL);
    ensure!(code(&again) == Some(Code::NOT_FOUND), "{again:?}");
    let text = again.unwrap_err().to_string();
    ensure!(text.contains("process already finished"), "{text}");
    ensure!(other.state()?.status.enum_value() == Ok(Status::RUNNING));
    ensure!(tasks.state("alone")?.status.enum_value() == Ok(Status::RUNNING));
    Ok(())
}

#[test]
fn the_end_of_the_init_is_the_end_of_its_execs() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "family")?;
    let execs: Vec<_> = (0..5)
        .map(|n| tasks.exec("family", &format!("exec-{n}")))
        .collect();
    for exec in &execs[..4] {
        exec.run(&["spins"])?;
    }
    execs[4].add(&["spins"])?;
    let exits = ends(&fake, &tasks, "family")?;
    ensure!(exits.len() == 6, "{exits:?}");
    ensure!(exits[5].id == "family", "{exits:?}");
    ensure!(exits.iter().all(|exit| exit.exit_status == 137));
    // What came of them is told until they are deleted.
    ensure!(execs[0].wait()?.exit_status == 137);
    ensure!(code(&execs[4].start()) == Some(Code::FAILED_PRECONDITION));
    ensure!(execs[0].delete()?.exit_status == 137);
    let late = tasks.exec("family", "late").add(&["exits-0"]);
    ensure!(code(&late) == Some(Code::FAILED_PRECONDITION), "{late:?}");
    ensure!(tasks.delete("family")?.exit_status == 137);
    ensure!(code(&execs[1].state()) == Some(Code::NOT_FOUND));
    Ok(())
}

#[test]
fn kill_all_reaches_the_init_and_every_exec() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "everyone")?;
    let (exec, parked) = (
        tasks.exec("everyone", "exec"),
        tasks.exec("everyone", "parked"),
    );
    exec.run(&["spins"])?;
    parked.add(&["spins"])?;
    tasks.kill_all("everyone", STOP)?;
    for state in [exec.state()?, tasks.state("everyone")?] {
        ensure!(state.status.enum_value() == Ok(Status::PAUSED), "{state}");
    }
    ensure!(parked.state()?.status.enum_value() == Ok(Status::CREATED));
    tasks.kill_all("everyone", CONT)?;
    for state in [exec.state()?, tasks.state("everyone")?] {
        ensure!(state.status.enum_value() == Ok(Status::RUNNING), "{state}");
    }
    tasks.kill_all("everyone", TERM)?;
    ensure!(exec.wait()?.exit_status == 143);
    ensure!(parked.wait()?.exit_status == 143);
    ensure!(tasks.wait("everyone")?.exit_status == 143);
    let again = tasks.kill_all("everyone", KILL);
    ensure!(code(&again) == Some(Code::NOT_FOUND), "{again:?}");
    Ok(())
}

#[test]
fn a_paused_container_has_paused_execs_and_gets_no_more() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "halted")?;
    let (exec, parked) = (tasks.exec("halted", "exec"), tasks.exec("halted", "parked"));
    exec.run(&["spins"])?;
    parked.add(&["exits-3"])?;
    tasks.kill("halted", STOP)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::PAUSED));
    // It goes on with its container only.
    exec.kill(CONT)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::PAUSED));
    let refused = [
        code(&parked.start()),
        code(&tasks.exec("halted", "new").add(&["exits-0"])),
    ];
    ensure!(
        refused == [Some(Code::FAILED_PRECONDITION); 2],
        "{refused:?}"
    );
    tasks.kill("halted", CONT)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::RUNNING));
    // Of an exec alone nobody is told.
    exec.kill(STOP)?;
    ensure!(exec.state()?.status.enum_value() == Ok(Status::PAUSED));
    ensure!(tasks.state("halted")?.status.enum_value() == Ok(Status::RUNNING));
    exec.kill(TERM)?;
    ensure!(exec.wait()?.exit_status == 143);
    parked.start()?;
    ensure!(parked.wait()?.exit_status == 3);
    fake.receiver.wait_for("exit")?;
    let topics = fake.receiver.topics();
    let count = |topic| topics.iter().filter(|known| *known == topic).count();
    ensure!(count("paused") == 1 && count("resumed") == 1, "{topics:?}");
    Ok(())
}

#[test]
fn a_created_container_has_execs_too() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let (tasks, _bundle) = created(&fake, "early")?;
    let exec = tasks.exec("early", "exec");
    exec.run(&["exits-3"])?;
    ensure!(exec.wait()?.exit_status == 3);
    ensure!(tasks.state("early")?.status.enum_value() == Ok(Status::CREATED));
    tasks.exec("early", "other").run(&["spins"])?;
    ensure!(tasks.delete("early")?.exit_status == 137);
    fake.receiver.wait_for("delete")?;
    let exits = exits(&fake.receiver.all());
    ensure!(ids(&exits) == ["exec", "other", "early"], "{exits:?}");
    Ok(())
}

#[test]
fn an_exec_that_was_not_started_is_deleted_with_an_exit() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "hesitant")?;
    let exec = tasks.exec("hesitant", "exec");
    exec.add(&["spins"])?;
    ensure!(exec.delete()?.exit_status == 137);
    exec.add(&["spins"])?;
    exec.kill(TERM)?;
    ensure!(exec.wait()?.exit_status == 143);
    ensure!(code(&exec.start()) == Some(Code::FAILED_PRECONDITION));
    ensure!(exec.delete()?.exit_status == 143);
    fake.receiver.wait_until("two exits", |events| {
        (exits(events).len() == 2).then_some(())
    })?;
    let topics = fake.receiver.topics();
    ensure!(
        topics
            == [
                "create",
                "start",
                "exec-added",
                "exit",
                "exec-added",
                "exit"
            ],
        "{topics:?}"
    );
    Ok(())
}

#[test]
fn what_is_not_there_is_not_found() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "known")?;
    for (container, exec) in [("known", "unknown"), ("unknown", "exec")] {
        let exec = tasks.exec(container, exec);
        let answers = [
            code(&exec.start()),
            code(&exec.state()),
            code(&exec.kill(KILL)),
            code(&exec.wait()),
            code(&exec.delete()),
        ];
        ensure!(answers == [Some(Code::NOT_FOUND); 5], "{answers:?}");
    }
    let exec = tasks.exec("unknown", "exec").add(&["exits-0"]);
    ensure!(code(&exec) == Some(Code::NOT_FOUND), "{exec:?}");
    Ok(())
}

#[test]
fn what_cannot_run_is_refused_in_the_words_of_linux() -> Result<()> {
    let fake = FakeContainerd::new()?;
    let tasks = running(&fake, "strict")?;
    let exec = tasks.exec("strict", "exec");
    for (program, words) in [
        ("absent", "executable file not found in $PATH"),
        ("/absent", "no such file or directory"),
        ("/script", "exec format error"),
        ("/bin", "permission denied"),
    ] {
        let refused = exec.add(&[program]);
        ensure!(
            code(&refused) == Some(Code::FAILED_PRECONDITION),
            "{refused:?}"
        );
        let text = message(refused);
        ensure!(
            text.starts_with(&format!("exec failed: {program:?}: {words}: ")),
            "{text}"
        );
    }
    // An export alone is one of the container's own program.
    let text = message(exec.add(&["#missing"]));
    ensure!(
        text.contains("missing") && text.contains("/main.wasm"),
        "{text}"
    );
    for (what, words) in [
        (("cwd", "/absent"), "cannot use /absent as the working"),
        (("cwd", "relative"), "is not absolute"),
        (("args", ""), "holds no OCI process"),
    ] {
        let ((field, value), path) = (what, "exits-0");
        let refused = exec.add_with(&[path], |_, spec| spec[field] = value.into());
        ensure!(
            code(&refused) == Some(Code::INVALID_ARGUMENT),
            "{refused:?}"
        );
        let text = message(refused);
        ensure!(text.contains(words), "{text}");
    }
    let nameless = tasks.exec("strict", "").add(&["exits-0"]);
    ensure!(
        code(&nameless) == Some(Code::INVALID_ARGUMENT),
        "{nameless:?}"
    );
    // Nothing is left of any of them: the id is free, and nothing was announced.
    exec.run(&["exits-0"])?;
    ensure!(exec.wait()?.exit_status == 0);
    fake.receiver.wait_for("exit")?;
    let topics = fake.receiver.topics();
    let added = topics.iter().filter(|topic| *topic == "exec-added").count();
    ensure!(added == 1, "{topics:?}");
    Ok(())
}
