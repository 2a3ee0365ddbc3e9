//! Specs that cannot be carried out, and what is said about them.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::{Edit, Shim, all, mount, remove, tmpfs};

/// The id, the code, what is said, and the change that makes it impossible.
type Row = (&'static str, Code, &'static [&'static str], Edit);

#[test]
fn specs_that_cannot_be_are_refused_with_why() -> Result<()> {
    const BAD: Code = Code::INVALID_ARGUMENT;
    let rows: &[Row] = &[
        (
            "userns",
            BAD,
            &["a user namespace", "hostUsers: true"],
            |spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "user" }]);
            },
        ),
        (
            "timens",
            BAD,
            &["a time namespace", "leave it out"],
            |spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "time" }]);
            },
        ),
        ("twice", BAD, &["lists the ipc namespace twice"], |spec| {
            spec["linux"]["namespaces"] = json!([{ "type": "ipc" }, { "type": "ipc" }]);
        }),
        (
            "unknown-namespace",
            BAD,
            &["no OCI runtime spec", "sandwich"],
            |spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "sandwich" }]);
            },
        ),
        (
            "no-such-namespace",
            Code::INTERNAL,
            &["join the network namespace /run/none"],
            |spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "network", "path": "/run/none" }]);
            },
        ),
        (
            "no-namespace-file",
            Code::INTERNAL,
            &["join the uts namespace /dev/null"],
            |spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "uts", "path": "/dev/null" }]);
            },
        ),
        (
            "name-of-the-host",
            BAD,
            &["hostname `web`", "UTS namespace"],
            |spec| {
                spec["hostname"] = "web".into();
                spec["linux"]["namespaces"] = json!([]);
            },
        ),
        (
            "long-name",
            Code::INTERNAL,
            &["cannot set the host name"],
            |spec| {
                spec["hostname"] = "x".repeat(65).into();
            },
        ),
        (
            "no-root",
            BAD,
            &["names no root file system", "root.path"],
            |spec| remove(spec, "root"),
        ),
        (
            "missing-root",
            BAD,
            &["/nowhere/at/all", "root.path"],
            |spec| {
                spec["root"]["path"] = "/nowhere/at/all".into();
            },
        ),
        ("file-as-root", BAD, &["it is no directory"], |spec| {
            spec["root"]["path"] = "rootfs/main.wasm".into();
        }),
        ("host-as-root", BAD, &["it is the host's own"], |spec| {
            spec["root"]["path"] = "/".into();
        }),
        ("no-process", BAD, &["has no process"], |spec| {
            remove(spec, "process");
        }),
        ("no-args", BAD, &["names no program"], |spec| {
            spec["process"]["args"] = json!([]);
        }),
        ("null-args", BAD, &["names no program"], |spec| {
            spec["process"]["args"] = Value::Null;
        }),
        ("empty-program", BAD, &["names no program"], |spec| {
            spec["process"]["args"] = json!([""]);
        }),
        (
            "variable-without-value",
            BAD,
            &["\"PATH\" has no `=`"],
            |spec| {
                spec["process"]["env"] = json!(["PATH"]);
            },
        ),
        ("relative-cwd", BAD, &["\"srv\" is not absolute"], |spec| {
            spec["process"]["cwd"] = "srv".into();
        }),
        (
            "file-as-cwd",
            Code::INTERNAL,
            &["/main.wasm in the container", "Not a directory"],
            |spec| {
                spec["process"]["cwd"] = "/main.wasm".into();
            },
        ),
        (
            "everybody",
            BAD,
            &["4294967295 is no user or group id"],
            |spec| {
                spec["process"]["user"]["uid"] = u32::MAX.into();
            },
        ),
        (
            "negative-user",
            BAD,
            &["no OCI runtime spec", "-1"],
            |spec| {
                spec["process"]["user"]["uid"] = (-1).into();
            },
        ),
        ("crowd", Code::INTERNAL, &["additional groups"], |spec| {
            spec["process"]["user"]["additionalGids"] = (1..70_000).collect();
        }),
        (
            "negative-limit",
            BAD,
            &["limits the memory to -5 bytes"],
            |spec| {
                spec["linux"]["resources"] = json!({ "memory": { "limit": -5 } });
            },
        ),
        (
            "mount-on-root",
            BAD,
            &["would hide the root file system"],
            |spec| {
                spec["mounts"] = json!([tmpfs("/")]);
            },
        ),
        ("upwards", BAD, &["contains `..`"], |spec| {
            spec["mounts"] = json!([tmpfs("/a/../b")]);
        }),
        ("no-destination", BAD, &["it has no destination"], |spec| {
            spec["mounts"] = json!([tmpfs("")]);
        }),
        ("no-type", BAD, &["it has no type"], |spec| {
            spec["mounts"] = json!([mount("/a", "", "x", &[])]);
        }),
        (
            "no-source",
            BAD,
            &["/no/such/source", "does not exist on the host"],
            |spec| {
                spec["mounts"] = json!([mount("/a", "bind", "/no/such/source", &["rbind"])]);
            },
        ),
        (
            "folder-on-file",
            Code::INTERNAL,
            &["/main.wasm", "Not a directory"],
            |spec| {
                spec["mounts"] = json!([tmpfs("/main.wasm")]);
            },
        ),
        (
            "below-a-file",
            Code::INTERNAL,
            &["/main.wasm/x", "Not a directory"],
            |spec| {
                spec["mounts"] = json!([tmpfs("/main.wasm/x")]);
            },
        ),
        (
            "unknown-file-system",
            Code::INTERNAL,
            &["mount frobfs", "/a", "No such device"],
            |spec| {
                spec["mounts"] = json!([mount("/a", "frobfs", "none", &[])]);
            },
        ),
        (
            "unknown-option",
            Code::INTERNAL,
            &["mount tmpfs", "/a", "Invalid argument"],
            |spec| {
                spec["mounts"] = json!([mount("/a", "tmpfs", "tmpfs", &["frob=1"])]);
            },
        ),
        // runc warns of such a capability and goes on.
        (
            "unknown-capability",
            BAD,
            &["no OCI runtime spec", "CAP_OF_THE_FUTURE"],
            |spec| {
                let names = json!(["CAP_CHOWN", "CAP_OF_THE_FUTURE"]);
                spec["process"]["capabilities"] = json!({ "effective": names, "bounding": names });
            },
        ),
        (
            "unknown-seccomp",
            BAD,
            &["no OCI runtime spec", "SCMP_ARCH_OF_THE_FUTURE"],
            |spec| {
                spec["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "architectures": ["SCMP_ARCH_OF_THE_FUTURE"],
                });
            },
        ),
        // runc takes it for root, whom nobody has asked for.
        ("no-user", BAD, &["missing field `user`"], |spec| {
            remove(&mut spec["process"], "user");
        }),
        // It is looked for in the image then, of which this containerd knows nothing.
        (
            "masked-root",
            Code::INTERNAL,
            &["has no file `/main.wasm`", "cannot read the image"],
            |spec| {
                spec["linux"]["maskedPaths"] = json!(["/"]);
            },
        ),
    ];
    let shim = Shim::new()?;
    all(rows.iter().map(|(id, code, words, edit)| {
        let bundle = shim.bundle(id)?.edit(edit).write()?;
        shim.refuses(&bundle, *code, words)
    }))?;
    ensure!(!Path::new("/nowhere").exists(), "a missing root was made");
    shim.ends_well()
}

#[test]
fn a_fifo_is_no_namespace_and_nobody_waits_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let shim = Shim::new()?;
    let bundle = shim.bundle("fifo")?.edit(|spec| {
        spec["linux"]["namespaces"] = json!([{ "type": "ipc", "path": fifo }]);
    });
    let words = ["join the ipc namespace", "Invalid argument"];
    shim.refuses(&bundle.write()?, Code::INTERNAL, &words)?;
    shim.ends_well()
}
