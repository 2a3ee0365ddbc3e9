//! What the facts of a node mean for whoever wants to run wasm on it.

use std::fmt;

use crate::stats::CgroupVersion;

/// What was seen on the node. An error is in the words of who refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether the user is root.
    pub(crate) is_root: bool,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Whether a copy of a mount can be made and its attributes changed.
    pub(crate) mounts: Result<(), String>,
    /// Whether a thread can have namespaces of its own.
    pub(crate) namespaces: Result<(), String>,
    /// What the kernel does with calls that a filter forbids.
    pub(crate) seccomp: Result<(), String>,
    /// Whether the compiler beside this program can be run.
    pub(crate) compiler: Result<String, String>,
    /// The cache.
    pub(crate) cache: Result<Store, String>,
    /// containerd's socket.
    pub(crate) socket: Result<String, String>,
    /// What `containerd --version` says.
    pub(crate) version: Result<String, String>,
    /// Whether containerd's configuration has the runtime.
    pub(crate) table: Result<bool, String>,
    /// Where `PATH` leads to for the shim.
    pub(crate) shim: Option<String>,
    /// What is needed for Linux containers beside wasm ones, and is not on `PATH`.
    pub(crate) no_runc: Vec<&'static str>,
    /// Which cgroups the node has.
    pub(crate) cgroups: CgroupVersion,
}

/// A folder on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    pub(crate) folder: String,
    pub(crate) kind: String,
    /// Mounted so that no code can be mapped from it.
    pub(crate) is_noexec: bool,
    /// Gone after a reboot, and memory until then.
    pub(crate) is_memory: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// Wasm runs, something else does not.
    Note,
    /// Wasm does not run.
    Missing,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) grade: Grade,
    pub(crate) what: &'static str,
    /// What was seen.
    pub(crate) why: String,
    /// What to do; empty if nothing.
    pub(crate) mend: String,
}

/// The oldest containerd that is tested.
const OLDEST: (u32, u32) = (1, 6);

impl Facts {
    /// What they mean, in the order in which a node is set up.
    pub(crate) fn findings(&self, runtime: &str) -> Vec<Finding> {
        vec![
            self.user(),
            probed(
                "mounts",
                &self.mounts,
                &self.kernel,
                "Linux 5.12 or newer is needed (open_tree, mount_setattr)",
            ),
            probed(
                "namespaces",
                &self.namespaces,
                "mount, network, ipc, uts",
                "raise /proc/sys/user/max_*_namespaces; run this as root",
            ),
            probed(
                "seccomp",
                &self.seccomp,
                "filters",
                "a kernel with CONFIG_SECCOMP_FILTER: the compiler locks itself in",
            ),
            self.cgroups(),
            self.compiler(),
            self.cache(),
            self.shim(),
            self.socket(),
            self.version(),
            self.table(runtime),
            self.runc(),
        ]
    }

    fn user(&self) -> Finding {
        if self.is_root {
            ok("user", "root")
        } else {
            missing(
                "user",
                "not root",
                "run this as the user that containerd runs as",
            )
        }
    }

    fn cgroups(&self) -> Finding {
        match self.cgroups {
            CgroupVersion::V1 => ok("cgroups", "version 1"),
            CgroupVersion::V2 => ok("cgroups", "version 2"),
        }
    }

    fn compiler(&self) -> Finding {
        match &self.compiler {
            Ok(path) => ok("compiler", path),
            Err(why) => missing(
                "compiler",
                why,
                "install both programs: containerd-shim-wasi-v1 install",
            ),
        }
    }

    fn cache(&self) -> Finding {
        const MEND: &str =
            "name another folder in containerd's environment: CONTAINERD_SHIM_WASI_CACHE";
        match &self.cache {
            Err(why) => missing("cache", why, MEND),
            Ok(store) => {
                let seen = format!("{} on {}", store.folder, store.kind);
                if store.is_noexec {
                    missing("cache", &format!("{seen}, mounted noexec"), MEND)
                } else if store.is_memory {
                    note(
                        "cache",
                        &format!("{seen}: memory, and empty after a reboot"),
                        MEND,
                    )
                } else {
                    ok("cache", &seen)
                }
            }
        }
    }

    fn shim(&self) -> Finding {
        match &self.shim {
            Some(path) => ok("shim", path),
            None => note(
                "shim",
                "containerd-shim-wasi-v1 is not on PATH",
                "fine if the runtime's table has runtime_path; else install it into a folder of containerd's PATH",
            ),
        }
    }

    fn socket(&self) -> Finding {
        match &self.socket {
            Ok(path) => ok("containerd", path),
            Err(why) => missing(
                "containerd",
                why,
                "start it, or name its socket with --containerd-address",
            ),
        }
    }

    fn version(&self) -> Finding {
        let text = match &self.version {
            Ok(text) => text,
            Err(why) => {
                return note(
                    "version",
                    why,
                    "put containerd on PATH to have its version and configuration checked",
                );
            }
        };
        match release(text) {
            Some(release) if release >= OLDEST => ok("version", text),
            Some(_) => missing("version", text, "containerd 1.6 or newer"),
            None => note(
                "version",
                text,
                "containerd 1.6 or newer; this one's version could not be read",
            ),
        }
    }

    fn table(&self, runtime: &str) -> Finding {
        match &self.table {
            Ok(true) => ok("runtime", &format!("{runtime} is in the configuration")),
            Ok(false) => missing(
                "runtime",
                &format!("{runtime} is not in the configuration"),
                "containerd-shim-wasi-v1 install --restart (ctr, nerdctl and docker need no table)",
            ),
            Err(why) => missing(
                "runtime",
                why,
                "name containerd's configuration with --config",
            ),
        }
    }

    fn runc(&self) -> Finding {
        if self.no_runc.is_empty() {
            ok("runc", "for Linux containers beside wasm ones")
        } else {
            let absent = self.no_runc.join(" and ");
            note(
                "runc",
                &format!("{absent} not on PATH"),
                "needed only for Linux containers in a pod of this runtime",
            )
        }
    }
}

fn probed(what: &'static str, seen: &Result<(), String>, works: &str, mend: &str) -> Finding {
    match seen {
        Ok(()) => ok(what, works),
        Err(why) => missing(what, why, mend),
    }
}

fn ok(what: &'static str, why: &str) -> Finding {
    finding(Grade::Ok, what, why, "")
}

fn note(what: &'static str, why: &str, mend: &str) -> Finding {
    finding(Grade::Note, what, why, mend)
}

fn missing(what: &'static str, why: &str, mend: &str) -> Finding {
    finding(Grade::Missing, what, why, mend)
}

fn finding(grade: Grade, what: &'static str, why: &str, mend: &str) -> Finding {
    let (why, mend) = (why.to_owned(), mend.to_owned());
    Finding {
        grade,
        what,
        why,
        mend,
    }
}

/// The two numbers in `containerd github.com/containerd/containerd/v2 v2.1.9 …`.
fn release(version: &str) -> Option<(u32, u32)> {
    version.split_whitespace().find_map(|word| {
        let mut numbers = word.trim_start_matches('v').split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok",
            Grade::Note => "note",
            Grade::Missing => "missing",
        };
        write!(f, "{grade:<8}{:<12}{}", self.what, self.why)?;
        if self.mend.is_empty() {
            return Ok(());
        }
        write!(f, "\n{:20}-> {}", "", self.mend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            is_root: true,
            kernel: "6.1.0".into(),
            mounts: Ok(()),
            namespaces: Ok(()),
            seccomp: Ok(()),
            compiler: Ok("/usr/local/bin/containerd-shim-wasi-compile".into()),
            cache: Ok(Store {
                folder: "/var/cache/containerd-shim-wasi".into(),
                kind: "ext4".into(),
                is_noexec: false,
                is_memory: false,
            }),
            socket: Ok("/run/containerd/containerd.sock".into()),
            version: Ok("containerd github.com/containerd/containerd/v2 v2.1.9 abc".into()),
            table: Ok(true),
            shim: Some("/usr/local/bin/containerd-shim-wasi-v1".into()),
            no_runc: vec![],
            cgroups: CgroupVersion::V2,
        }
    }

    /// The findings that are not ok.
    fn bad(change: impl FnOnce(&mut Facts)) -> Vec<(Grade, &'static str)> {
        let mut facts = good();
        change(&mut facts);
        let findings = facts.findings("wasi").into_iter();
        findings
            .filter(|finding| finding.grade != Grade::Ok)
            .inspect(|finding| assert!(!finding.mend.is_empty(), "{finding}"))
            .map(|finding| (finding.grade, finding.what))
            .collect()
    }

    #[test]
    fn a_good_node_lacks_nothing() {
        assert_eq!(bad(|_| ()), []);
    }

    #[test]
    fn what_wasm_needs_is_missing() {
        use Grade::Missing;
        let no = || Err("Function not implemented".to_owned());
        assert_eq!(bad(|facts| facts.is_root = false), [(Missing, "user")]);
        assert_eq!(bad(|facts| facts.mounts = no()), [(Missing, "mounts")]);
        assert_eq!(
            bad(|facts| facts.namespaces = no()),
            [(Missing, "namespaces")]
        );
        assert_eq!(bad(|facts| facts.seccomp = no()), [(Missing, "seccomp")]);
        assert_eq!(
            bad(|facts| facts.compiler = Err("no".into())),
            [(Missing, "compiler")]
        );
        assert_eq!(
            bad(|facts| facts.cache = Err("no".into())),
            [(Missing, "cache")]
        );
        assert_eq!(
            bad(|facts| facts.socket = Err("no".into())),
            [(Missing, "containerd")]
        );
        assert_eq!(bad(|facts| facts.table = Ok(false)), [(Missing, "runtime")]);
        let noexec = |facts: &mut Facts| facts.cache.as_mut().unwrap().is_noexec = true;
        assert_eq!(bad(noexec), [(Missing, "cache")]);
        let old = |facts: &mut Facts| facts.version = Ok("containerd 1.5.9".into());
        assert_eq!(bad(old), [(Missing, "version")]);
    }

    #[test]
    fn what_only_some_need_is_noted() {
        use Grade::Note;
        assert_eq!(bad(|facts| facts.no_runc = vec!["runc"]), [(Note, "runc")]);
        assert_eq!(bad(|facts| facts.shim = None), [(Note, "shim")]);
        assert_eq!(
            bad(|facts| facts.version = Err("no".into())),
            [(Note, "version")]
        );
        let memory = |facts: &mut Facts| facts.cache.as_mut().unwrap().is_memory = true;
        assert_eq!(bad(memory), [(Note, "cache")]);
    }

    #[test]
    fn releases_of_distributions_are_read() {
        for (text, expected) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                (1, 6),
            ),
            (
                "containerd github.com/containerd/containerd/v2 v2.1.9 79d3ba6",
                (2, 1),
            ),
            (
                "containerd github.com/k3s-io/containerd v1.7.23-k3s2",
                (1, 7),
            ),
        ] {
            assert_eq!(release(text), Some(expected), "{text}");
        }
        assert_eq!(release("containerd"), None);
    }
}
