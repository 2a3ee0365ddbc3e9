//! A mounted hierarchy of cgroups: the one of version 2, or one of several of version 1, each with
//! controllers of its own (cgroups(7)).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::write;
use crate::stats::CgroupVersion;

/// How often a folder is made again that another shim has removed meanwhile: one that leaves the same
/// parent.
const ATTEMPTS: u32 = 16;
/// A thread of a guest that is being stopped is a real-time one for about as long.
const REAL_TIME: Duration = Duration::from_millis(10);

/// A hierarchy, as this process sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    mount: PathBuf,
    /// The cgroup that is at `mount`, from the real root: not `/` in a container of somebody else's.
    root: PathBuf,
    version: CgroupVersion,
    /// Version 1: its controllers, and `name=systemd`.
    controllers: Vec<String>,
}

/// Who is put into a cgroup.
#[derive(Debug, Clone, Copy)]
pub(super) enum Member {
    /// A process with all its threads. The kernel waits until none of them is about to be born or to go,
    /// which takes some milliseconds.
    Process(u32),
    /// The calling thread, which is all there is of its process.
    Alone,
}

impl Member {
    /// This process.
    pub(super) fn this_process() -> Self {
        let threads = fs::read_dir("/proc/self/task").map(Iterator::count);
        match threads {
            Ok(1) => Self::Alone,
            Ok(_) | Err(_) => Self::Process(std::process::id()),
        }
    }

    /// The file of a cgroup that it is written to, and what is written.
    fn line(self, version: CgroupVersion) -> (&'static str, String) {
        match (version, self) {
            // That of version 2 for threads is for those that do not leave their process.
            (CgroupVersion::V1, Self::Alone) => ("tasks", "0".to_owned()),
            (CgroupVersion::V2, Self::Alone) => ("cgroup.procs", "0".to_owned()),
            (_, Self::Process(process)) => ("cgroup.procs", process.to_string()),
        }
    }
}

/// The hierarchies of this host. Under the hybrid layout those of version 1, which have the controllers.
pub(super) fn mounted() -> io::Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let found = parse(&table, CgroupVersion::of_host());
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup file system is mounted; leave linux.cgroupsPath empty",
        ));
    }
    Ok(found)
}

/// Those of `version`, each once, out of a mountinfo (proc(5)).
fn parse(table: &str, version: CgroupVersion) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let (before, after): (Vec<_>, Vec<_>) =
            (before.split(' ').collect(), after.split(' ').collect());
        let ([_, _, _, root, mount, ..], [kind, _, options, ..]) =
            (before.as_slice(), after.as_slice())
        else {
            continue;
        };
        let controllers = match (version, *kind) {
            (CgroupVersion::V1, "cgroup") => options
                .split(',')
                .filter(|option| {
                    !["rw", "ro", "xattr", "noprefix", "clone_children"].contains(option)
                })
                .filter(|option| !option.starts_with("release_agent="))
                .map(str::to_owned)
                .collect(),
            (CgroupVersion::V2, "cgroup2") => Vec::new(),
            _ => continue,
        };
        let again = found.iter().any(|known| known.controllers == controllers);
        if !again {
            found.push(Hierarchy {
                mount: PathBuf::from(mount),
                root: PathBuf::from(root),
                version,
                controllers,
            });
        }
    }
    found
}

impl Hierarchy {
    /// Where it is mounted.
    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    pub(super) fn version(&self) -> CgroupVersion {
        self.version
    }

    /// Whether a controller of version 1 is in it.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|has| has == controller)
    }

    /// The file for such members of the cgroup that the process with this `/proc/<pid>/cgroup` is in, opened for
    /// writing. None if that is outside of what is mounted, or may not be written to.
    pub(super) fn members(&self, table: &str, member: Member) -> Option<File> {
        let (file, _) = member.line(self.version);
        let members = self.find_own(table)?.join(file);
        OpenOptions::new().write(true).open(members).ok()
    }

    /// The folder of the cgroup that this process is in, if that is mounted.
    pub(super) fn place(&self) -> Option<PathBuf> {
        let table = fs::read_to_string("/proc/self/cgroup").ok()?;
        self.find_own(&table)
    }

    /// That of version 2, mounted there.
    #[cfg(test)]
    pub(super) fn unified(mount: &Path) -> Self {
        Self {
            mount: mount.to_owned(),
            root: PathBuf::from("/"),
            version: CgroupVersion::V2,
            controllers: Vec::new(),
        }
    }

    /// The folder of the process whose `/proc/<pid>/cgroup` is `table`.
    fn find_own(&self, table: &str) -> Option<PathBuf> {
        let mut lines = table.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            Some((fields.next()?, fields.next()?))
        });
        let (_, path) = lines.find(|(controllers, _)| match self.version {
            CgroupVersion::V2 => controllers.is_empty(),
            CgroupVersion::V1 => controllers
                .split(',')
                .any(|controller| self.has(controller)),
        })?;
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        Some(self.mount.join(below))
    }

    /// Makes what is missing of `folder` and puts a member there.
    #[allow(
        clippy::disallowed_methods,
        reason = "the kernel tells nobody that a thread is an ordinary one again"
    )]
    pub(super) fn join(&self, folder: &Path, member: Member) -> io::Result<()> {
        let (file, line) = member.line(self.version);
        let mut attempts = ATTEMPTS;
        loop {
            let joined = self
                .make(folder)
                .and_then(|()| write(&folder.join(file), &line));
            match joined {
                // Somebody who leaves has removed a parent in between, or it as a whole.
                Err(error)
                    if attempts > 0
                        && (error.kind() == io::ErrorKind::NotFound
                            || error.raw_os_error() == Some(libc::ENODEV)) =>
                {
                    attempts -= 1;
                }
                // A guest that is being stopped has a real-time thread for a moment; a cgroup of version 1
                // that has no time for such (`cpu.rt_runtime_us`) takes none.
                Err(error)
                    if attempts > 0
                        && self.has("cpu")
                        && error.raw_os_error() == Some(libc::EINVAL) =>
                {
                    attempts -= 1;
                    std::thread::sleep(REAL_TIME);
                }
                joined => return joined,
            }
        }
    }

    fn make(&self, folder: &Path) -> io::Result<()> {
        let mut above: Vec<_> = folder
            .ancestors()
            .take_while(|up| *up != self.mount)
            .collect();
        above.reverse();
        for folder in above {
            let parent = folder.parent().unwrap_or(&self.mount);
            match self.version {
                CgroupVersion::V2 => delegate(parent),
                CgroupVersion::V1 => {}
            }
            match fs::create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    let told = format!("make {}: {error}", folder.display());
                    return Err(io::Error::new(error.kind(), told));
                }
                Ok(()) | Err(_) => {}
            }
            if self.has("cpuset") {
                // A new one is empty, and takes no process until it is not (cpuset(7)).
                inherit(parent, folder, "cpuset.cpus")?;
                inherit(parent, folder, "cpuset.mems")?;
            }
        }
        Ok(())
    }
}

/// Lets the children of a cgroup have its controllers. One that cannot be given on (the cgroup has
/// processes) is not counted below; the limits above hold all the same.
fn delegate(parent: &Path) {
    let read = |name| fs::read_to_string(parent.join(name)).unwrap_or_default();
    let (has, given) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in has.split_whitespace() {
        if given.split_whitespace().any(|given| given == controller) {
            continue;
        }
        if let Err(error) = write(
            &parent.join("cgroup.subtree_control"),
            &format!("+{controller}"),
        ) {
            log::debug!("no {controller} controller below: {error}");
        }
    }
}

fn inherit(parent: &Path, folder: &Path, file: &str) -> io::Result<()> {
    let empty = fs::read_to_string(folder.join(file))?.trim().is_empty();
    if empty {
        let value = fs::read_to_string(parent.join(file))?;
        write(&folder.join(file), value.trim())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 30 0:28 / /other/memory rw,relatime - cgroup cgroup rw,memory
";

    fn only(hierarchy: &[Hierarchy], index: usize) -> (&str, Vec<&str>) {
        let hierarchy = &hierarchy[index];
        let controllers = hierarchy.controllers.iter().map(String::as_str).collect();
        (hierarchy.mount.to_str().unwrap(), controllers)
    }

    #[test]
    fn under_the_hybrid_layout_version_1_is_what_counts() {
        let found = parse(HYBRID, CgroupVersion::V1);
        assert_eq!(found.len(), 3);
        assert_eq!(
            only(&found, 0),
            ("/sys/fs/cgroup/cpu,cpuacct", vec!["cpu", "cpuacct"])
        );
        assert_eq!(only(&found, 1), ("/sys/fs/cgroup/memory", vec!["memory"]));
        assert_eq!(
            only(&found, 2),
            ("/sys/fs/cgroup/systemd", vec!["name=systemd"])
        );
        assert_eq!(
            found[0]
                .find_own("4:memory:/m\n2:cpu,cpuacct:/a/b\n0::/u\n")
                .unwrap(),
            Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b")
        );
    }

    #[test]
    fn version_2_is_one_hierarchy() {
        let table = "24 23 0:22 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";
        let found = parse(table, CgroupVersion::V2);
        assert_eq!(only(&found, 0), ("/sys/fs/cgroup", vec![]));
        let own = |table| found[0].find_own(table);
        assert_eq!(
            own("0::/docker/x/y\n").unwrap(),
            Path::new("/sys/fs/cgroup/y")
        );
        assert_eq!(own("0::/elsewhere\n"), None);
    }
}
