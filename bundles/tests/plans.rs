//! Specs as containerd, Docker and Kubernetes write them, and the plans they become.
//!
//! Every `plans/<name>.json` is put into a bundle, and its plan (or the refusal, with its causes)
//! compared with `plans/<name>.plan`. `UPDATE=1 cargo test -p wasi-bundles --test plans` rewrites the
//! latter; read the diff.

use std::{
    error::Error as _,
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
};

use wasi_bundles::{Bundle, Error, Mount, MountKind, Namespace, Plan};

#[test]
fn every_spec_becomes_the_plan_beside_it() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let mut specs = specs(&dir).expect("the folder of specs is readable");
    specs.sort();
    assert!(!specs.is_empty(), "no specs in {}", dir.display());

    let mut wrong = Vec::new();
    for spec in specs {
        let actual = describe(&spec).expect("a bundle in a temporary directory");
        let expected = spec.with_extension("plan");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&expected, actual).expect("a plan beside its spec");
        } else if fs::read_to_string(&expected).unwrap_or_default() != actual {
            wrong.push(format!("{}:\n{actual}", expected.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "these plans are different now (UPDATE=1 accepts them):\n\n{}",
        wrong.join("\n")
    );
}

fn specs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut specs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            specs.push(path);
        }
    }
    Ok(specs)
}

fn describe(spec: &Path) -> io::Result<String> {
    let bundle = tempfile::tempdir()?;
    fs::copy(spec, bundle.path().join("config.json"))?;
    let mut text = String::new();
    match Bundle::open(bundle.path()).and_then(|bundle| Plan::new(&bundle)) {
        Ok(plan) => write_plan(&mut text, &plan),
        Err(error) => write_refusal(&mut text, &error),
    }
    .expect("a String takes everything");
    Ok(text.replace(&bundle.path().display().to_string(), "<bundle>"))
}

fn write_refusal(text: &mut String, error: &Error) -> fmt::Result {
    writeln!(text, "refused: {error}")?;
    let mut source = error.source();
    while let Some(cause) = source {
        writeln!(text, "because: {cause}")?;
        source = cause.source();
    }
    Ok(())
}

fn write_plan(text: &mut String, plan: &Plan) -> fmt::Result {
    let rootfs = plan.rootfs();
    let access = if rootfs.readonly {
        "read-only"
    } else {
        "writable"
    };
    writeln!(text, "root      {} ({access})", rootfs.path.display())?;

    let namespaces = plan.namespaces();
    writeln!(text, "network   {}", namespace(&namespaces.network))?;
    writeln!(text, "ipc       {}", namespace(&namespaces.ipc))?;
    writeln!(text, "uts       {}", namespace(&namespaces.uts))?;
    if let Some(name) = plan.hostname() {
        writeln!(text, "hostname  {name}")?;
    }
    if let Some(name) = plan.domainname() {
        writeln!(text, "domain    {name}")?;
    }
    match plan.limits().memory {
        Some(bytes) => writeln!(text, "memory    {bytes} bytes")?,
        None => writeln!(text, "memory    unlimited")?,
    }

    let process = plan.process();
    let user = &process.user;
    writeln!(
        text,
        "user      {}:{} {:?} umask {:?}",
        user.uid, user.gid, user.additional_gids, user.umask
    )?;
    writeln!(text, "terminal  {}", process.terminal)?;
    writeln!(text, "no_new_privileges {}", process.no_new_privileges)?;
    writeln!(text, "cwd       {}", process.cwd)?;
    writeln!(text, "args      {:?}", process.args)?;
    for (name, value) in &process.env {
        writeln!(text, "env       {name} = {value:?}")?;
    }
    for mount in plan.mounts() {
        write_mount(text, mount)?;
    }
    for path in plan.masked_paths() {
        writeln!(text, "masked    {}", path.display())?;
    }
    for path in plan.readonly_paths() {
        writeln!(text, "read-only {}", path.display())?;
    }
    Ok(())
}

fn write_mount(text: &mut String, mount: &Mount) -> fmt::Result {
    write!(text, "mount     {} ", mount.destination.display())?;
    match &mount.kind {
        MountKind::Bind { source, recursive } => {
            let bind = if *recursive { "rbind" } else { "bind" };
            write!(text, "{bind} of {}", source.display())?;
        }
        MountKind::Filesystem {
            fstype,
            source,
            data,
        } => write!(text, "{fstype} {source:?} {data:?}")?,
        MountKind::Procfs => write!(text, "procfs")?,
    }
    let flags = &mount.flags;
    for (mark, flags) in [("+", flags.set), ("-", flags.clear)] {
        for (name, _) in flags.iter_names() {
            write!(text, " {mark}{name}")?;
        }
    }
    if flags.recursive_readonly {
        write!(text, " recursive read-only")?;
    }
    writeln!(text)
}

fn namespace(namespace: &Namespace) -> String {
    match namespace {
        Namespace::Host => "host".to_owned(),
        Namespace::New => "new".to_owned(),
        Namespace::Join(path) => format!("join {}", path.display()),
    }
}
