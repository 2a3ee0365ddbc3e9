use super::*;

fn wasi() -> Runtime {
    Runtime {
        name: "wasi".into(),
        path: None,
    }
}

const NEW: &str = r#"version = 2

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wasi]
runtime_type = "io.containerd.wasi.v1"
pod_annotations = ["io.containerd.wasi.v1.*"]
container_annotations = ["io.containerd.wasi.v1.*"]
"#;

#[test]
fn without_a_file_there_is_one_that_every_containerd_reads() {
    assert_eq!(wasi().add(None).unwrap(), NEW);
    assert_eq!(
        wasi()
            .add(Some("# nothing yet\n"))
            .unwrap()
            .matches("runtime_type")
            .count(),
        2
    );
}

#[test]
fn comments_and_order_stay_and_twice_is_once() {
    let before = r#"# ours
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]   # more

[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc' # as ever
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = true

[debug]
  level = "info"
"#;
    let after = wasi().add(Some(before)).unwrap();
    for line in before.lines() {
        assert!(after.contains(line), "{line} is gone:\n{after}");
    }
    assert_eq!(after.matches("io.containerd.runc.v2").count(), 1);
    assert!(has(&after, "wasi").unwrap() && !has(before, "wasi").unwrap());
    assert_eq!(wasi().add(Some(&after)).unwrap(), after);
    assert_eq!(wasi().remove(&after).unwrap(), before);
    assert_eq!(wasi().remove(before).unwrap(), before);
}

#[test]
fn version_2_keeps_runc_when_it_gets_its_first_runtime() {
    let before =
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\"\n";
    let after = wasi().add(Some(before)).unwrap();
    assert!(after.contains("runtimes.runc]"), "{after}");
    let other = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\nruntime_type = \"io.containerd.runc.v2\"\n";
    let after = wasi().add(Some(other)).unwrap();
    assert!(!after.contains("runtimes.runc]"), "{after}");
    let third = wasi().add(Some("version = 3\n")).unwrap();
    assert!(!third.contains("runc"), "{third}");
}

#[test]
fn inline_and_dotted_tables_take_it_too() {
    for before in [
        "version = 3\nplugins = { 'io.containerd.cri.v1.runtime' = { containerd = { runtimes = {} } } }\n",
        "version = 3\nplugins.'io.containerd.cri.v1.runtime'.containerd.default_runtime_name = 'runc'\n",
        "version = 3\n[plugins]\n'io.containerd.cri.v1.runtime'.containerd = { runtimes.runc.runtime_type = 'x' }\n",
    ] {
        let after = wasi().add(Some(before)).unwrap();
        assert!(has(&after, "wasi").unwrap(), "{after}");
        let without = wasi().remove(&after).unwrap();
        assert!(!has(&without, "wasi").unwrap(), "{without}");
    }
}

#[test]
fn another_path_changes_the_table_and_keeps_what_was_added_to_it() {
    let mine = NEW.replace("pod_ann", "snapshotter = \"overlayfs\"\npod_ann");
    let moved = Runtime {
        path: Some("/opt/wasi/bin/containerd-shim-wasi-v1".into()),
        ..wasi()
    };
    let after = moved.add(Some(&mine)).unwrap();
    assert!(
        after.contains("runtime_path = \"/opt") && after.contains("snapshotter"),
        "{after}"
    );
    let back = wasi().add(Some(&after)).unwrap();
    assert!(!back.contains("runtime_path"), "{back}");
}

#[test]
fn what_it_does_not_understand_it_leaves() {
    let taken = NEW.replace("io.containerd.wasi.v1\"", "io.containerd.wasmtime.v1\"");
    let error = wasi().add(Some(&taken)).unwrap_err();
    assert!(
        error.to_string().contains("io.containerd.wasmtime.v1"),
        "{error}"
    );
    assert_eq!(wasi().remove(&taken).unwrap(), taken);
    // k3s wrote it, and only k3s takes it out.
    assert!(has(&taken, "wasi").unwrap());
    for old in [
        "disabled_plugins = [\"cri\"]\n",
        "version = 4\n",
        "version = \"2\"\n",
    ] {
        let error = wasi().add(Some(old)).unwrap_err();
        assert!(matches!(error, TableError::Version(_)), "{error}");
    }
    let error = wasi().add(Some("version = 2\nplugins = 7\n")).unwrap_err();
    assert_eq!(error, TableError::NoTable("plugins".into()));
    assert!(matches!(wasi().add(Some("[")), Err(TableError::Syntax(_))));
}

#[test]
fn a_disabled_cri_is_seen() {
    assert!(disables_cri("disabled_plugins = [\"cri\"]"));
    assert!(disables_cri(
        "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]"
    ));
    assert!(!disables_cri(NEW));
}
