//! Specs that look wrong and are not.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{Edit, Shim, all, mount, remove, tmpfs};

#[test]
fn odd_specs_run() -> Result<()> {
    let rows: &[(&str, Edit)] = &[
        // Namespaces that are not listed are the host's; mounts are private nevertheless.
        ("no-linux", |spec| remove(spec, "linux")),
        ("no-namespaces", |spec| {
            spec["linux"]["namespaces"] = json!([]);
        }),
        ("no-mounts", |spec| remove(spec, "mounts")),
        ("null-mounts", |spec| spec["mounts"] = Value::Null),
        ("many-mounts", |spec| {
            spec["mounts"] = (0..200).map(|n| tmpfs(&format!("/m/{n}/x"))).collect();
        }),
        ("duplicate-mounts", |spec| {
            spec["mounts"] = json!([tmpfs("/data"), tmpfs("/data"), tmpfs("/data/")]);
        }),
        ("mount-on-mount", |spec| {
            spec["mounts"] = json!([tmpfs("/a"), tmpfs("/a/b"), tmpfs("/a/b/c")]);
        }),
        // What is mounted last hides what is below, which stays.
        ("mount-over-mounts", |spec| {
            spec["mounts"] = json!([tmpfs("/a/b"), tmpfs("/a")]);
        }),
        ("relative-destination", |spec| {
            spec["mounts"] = json!([tmpfs("data/./x")]);
        }),
        ("process-interfaces", |spec| {
            spec["mounts"] = json!([
                mount("/proc", "proc", "proc", &["hidepid=2"]),
                mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]),
                mount("/dev/mqueue", "mqueue", "mqueue", &[]),
            ]);
        }),
        ("read-only-root", |spec| {
            spec["root"]["readonly"] = true.into();
            spec["process"]["cwd"] = "/not/there".into();
            spec["mounts"] = json!([tmpfs("/not/there/either")]);
        }),
        ("masked", |spec| {
            let paths = json!(["/none", "", "relative", "/main.wasm/x", "/etc"]);
            spec["linux"]["maskedPaths"] = paths;
            spec["mounts"] = json!([tmpfs("/etc")]);
        }),
        ("read-only-paths", |spec| {
            let paths = json!([
                "/none",
                "",
                "main.wasm",
                "/main.wasm/x",
                "/",
                "/",
                "/main.wasm"
            ]);
            spec["linux"]["readonlyPaths"] = paths;
        }),
        ("empty-cwd", |spec| spec["process"]["cwd"] = "".into()),
        ("missing-cwd", |spec| {
            spec["process"]["cwd"] = "/ü/new\nline/".into();
        }),
        ("cwd-with-dots", |spec| {
            spec["process"]["cwd"] = "/a/../b/./../..".into();
        }),
        ("unicode", |spec| {
            spec["process"]["args"] = json!(["/main.wasm", "ü\n\t\"'$(x)", "", "日本", "-"]);
            spec["process"]["env"] = json!(["Ü=ü", "E=", "A=b=c", "A=", "N=\n", " =x"]);
            spec["hostname"] = "名".into();
            spec["annotations"]["é\n"] = "\u{1}".into();
        }),
        ("no-env", |spec| spec["process"]["env"] = Value::Null),
        ("many-variables", |spec| {
            spec["process"]["env"] = (0..20_000).map(|n| json!(format!("V{n}={n}"))).collect();
        }),
        // runc, which has an execve(2) in the end, takes 128 KiB at most.
        ("long-argument", |spec| {
            spec["process"]["args"] = json!(["/main.wasm", "x".repeat(1 << 20)]);
        }),
        ("large-config", |spec| {
            spec["annotations"]["large"] = "x".repeat(16 << 20).into();
        }),
        ("unknown-fields", |spec| {
            spec["future"] = json!({ "a": [1, 2] });
            spec["linux"]["future"] = 1.into();
            spec["process"]["future"] = Value::Null;
        }),
        ("other-version", |spec| {
            spec["ociVersion"] = "9.9.9-rc.1".into();
        }),
        ("largest-user", |spec| {
            spec["process"]["user"] = json!({ "uid": 4_294_967_294_u32, "gid": 4_294_967_294_u32 });
        }),
        ("large-limit", |spec| {
            spec["linux"]["resources"] = json!({ "memory": { "limit": i64::MAX } });
        }),
        ("no-limit", |spec| {
            spec["linux"]["resources"] =
                json!({ "memory": { "limit": -1 }, "pids": { "limit": 0 } });
        }),
    ];
    let shim = Shim::new()?;
    all(rows
        .iter()
        .map(|(id, edit)| shim.runs(&shim.bundle(id)?.edit(edit).write()?)))?;
    shim.ends_well()
}
