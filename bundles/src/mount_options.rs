//! Mount options: one list of words that mean five different things.
//!
//! The OCI spec and containerd pass `["rbind", "ro", "rslave", "size=64m"]`. Some words are flags of
//! `mount(2)`, some change the propagation, `bind` changes what the mount is, some are attributes for a
//! whole tree, and whatever is none of these belongs to the file system. The words and their effects
//! are those of runc (`libcontainer/specconv`, the tables `mountFlags`, `mountPropagationMapping` and
//! `recAttrFlags`); what we cannot honour is refused instead of dropped.
//!
//! With one exception: the words of propagation (`rprivate`, `rslave`, `rshared`, ...) are accepted, and
//! **every mount is private**. A guest gets a detached copy of its tree, taken when the container is
//! made: what the host mounts or unmounts later does not show in the container, whatever the word, and a
//! guest has no way to mount anything that could show on the host. Kubernetes and Docker write
//! `rprivate` unless somebody asks for more; a pod with `mountPropagation: HostToContainer` (`rslave`)
//! or `Bidirectional` (`rshared`) runs, and sees the mounts there were when it was made.

use rustix::mount::MountFlags as Flags;

/// `MS_REMOUNT`, which rustix keeps for `mount_remount`.
const REMOUNT: Flags = Flags::from_bits_retain(1 << 5);
/// `MS_I_VERSION`, which rustix does not name.
const I_VERSION: Flags = Flags::from_bits_retain(1 << 23);

/// The options of a mount that any file system has.
///
/// `MS_BIND` and `MS_REC` are never in here: [`MountKind::Bind`](crate::MountKind::Bind) says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountFlags {
    /// Flags to set (`ro`, `nosuid`, ...). May hold `MS_REMOUNT`.
    pub set: Flags,
    /// Flags asked for explicitly to be off (`rw`, `suid`, ...). Of interest for bind mounts only,
    /// where a flag that is in neither is inherited from the source. Disjoint from `set`.
    pub clear: Flags,
    /// `rro`: read-only together with everything mounted below (`mount_setattr` with `AT_RECURSIVE`).
    pub recursive_readonly: bool,
}

impl MountFlags {
    /// Whether the mount itself is to be read-only.
    pub fn readonly(&self) -> bool {
        self.set.contains(Flags::RDONLY) || self.recursive_readonly
    }
}

/// A list of options taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options<'a> {
    pub(crate) flags: MountFlags,
    pub(crate) bind: Option<Bind>,
    /// What is left for the file system, in order.
    pub(crate) data: Vec<&'a str>,
}

/// How much of the source a bind mount takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    /// `bind`: the one file system.
    Single,
    /// `rbind`: what is mounted below as well.
    Recursive,
}

/// An option that is known and cannot be honoured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused<'a> {
    pub(crate) option: &'a str,
    pub(crate) remedy: &'static str,
}

impl<'a> Options<'a> {
    /// Takes a list apart. A later word overrules an earlier one.
    pub(crate) fn parse(options: &'a [String]) -> Result<Self, Refused<'a>> {
        let mut parsed = Self {
            flags: MountFlags {
                set: Flags::empty(),
                clear: Flags::empty(),
                recursive_readonly: false,
            },
            bind: None,
            data: Vec::new(),
        };
        for option in options {
            match Word::of(option) {
                Word::Set(flag) => {
                    parsed.flags.set.insert(flag);
                    parsed.flags.clear.remove(flag);
                }
                Word::Clear(flag) => {
                    parsed.flags.set.remove(flag);
                    parsed.flags.clear.insert(flag);
                }
                // `rbind` and `bind` together are recursive, as or-ed flags are.
                Word::Bind(Bind::Single) => {
                    parsed.bind.get_or_insert(Bind::Single);
                }
                Word::Bind(Bind::Recursive) => parsed.bind = Some(Bind::Recursive),
                Word::RecursiveReadonly(on) => parsed.flags.recursive_readonly = on,
                Word::Nothing => {}
                Word::Refused(remedy) => return Err(Refused { option, remedy }),
                Word::Data => parsed.data.push(option),
            }
        }
        Ok(parsed)
    }
}

/// What one option means.
enum Word {
    Set(Flags),
    Clear(Flags),
    Bind(Bind),
    RecursiveReadonly(bool),
    Nothing,
    Refused(&'static str),
    Data,
}

impl Word {
    fn of(option: &str) -> Self {
        match option {
            "async" => Self::Clear(Flags::SYNCHRONOUS),
            "atime" => Self::Clear(Flags::NOATIME),
            "dev" => Self::Clear(Flags::NODEV),
            "diratime" => Self::Clear(Flags::NODIRATIME),
            "dirsync" => Self::Set(Flags::DIRSYNC),
            "exec" => Self::Clear(Flags::NOEXEC),
            "iversion" => Self::Set(I_VERSION),
            "lazytime" => Self::Set(Flags::LAZYTIME),
            "loud" => Self::Clear(Flags::SILENT),
            "mand" => Self::Set(Flags::PERMIT_MANDATORY_FILE_LOCKING),
            "noatime" => Self::Set(Flags::NOATIME),
            "nodev" => Self::Set(Flags::NODEV),
            "nodiratime" => Self::Set(Flags::NODIRATIME),
            "noexec" => Self::Set(Flags::NOEXEC),
            "noiversion" => Self::Clear(I_VERSION),
            "nolazytime" => Self::Clear(Flags::LAZYTIME),
            "nomand" => Self::Clear(Flags::PERMIT_MANDATORY_FILE_LOCKING),
            "norelatime" => Self::Clear(Flags::RELATIME),
            "nostrictatime" => Self::Clear(Flags::STRICTATIME),
            "nosuid" => Self::Set(Flags::NOSUID),
            "nosymfollow" => Self::Set(Flags::NOSYMFOLLOW),
            "relatime" => Self::Set(Flags::RELATIME),
            "remount" => Self::Set(REMOUNT),
            "ro" => Self::Set(Flags::RDONLY),
            "rw" => Self::Clear(Flags::RDONLY),
            "silent" => Self::Set(Flags::SILENT),
            "strictatime" => Self::Set(Flags::STRICTATIME),
            "suid" => Self::Clear(Flags::NOSUID),
            "symfollow" => Self::Clear(Flags::NOSYMFOLLOW),
            "sync" => Self::Set(Flags::SYNCHRONOUS),

            "bind" => Self::Bind(Bind::Single),
            "rbind" => Self::Bind(Bind::Recursive),

            // Every mount is private (see the module).
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable"
            | "runbindable" => Self::Nothing,

            "rro" => Self::RecursiveReadonly(true),
            "rrw" => Self::RecursiveReadonly(false),
            "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec" | "rexec" | "rnodiratime"
            | "rdiratime" | "rrelatime" | "rnorelatime" | "rnoatime" | "ratime"
            | "rstrictatime" | "rnostrictatime" | "rnosymfollow" | "rsymfollow" => {
                Self::Refused("leave it out: of the recursive attributes only rro is there")
            }

            "idmap" | "ridmap" => {
                Self::Refused("leave it out: there is no user namespace to map ids for")
            }
            "tmpcopyup" => {
                Self::Refused("leave it out, and put the files into a volume or the image")
            }
            // mount(8)'s word for "no options". The kernel never sees it, and some file systems
            // would refuse it.
            "defaults" | "" => Self::Nothing,
            _ if option.starts_with("uidmap=") || option.starts_with("gidmap=") => {
                Self::Refused("leave it out: there is no user namespace to map ids for")
            }
            _ => Self::Data,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_later_option_overrules_an_earlier_one() {
        let options = words(&["ro", "nosuid", "rw", "noexec", "exec", "rro", "rrw"]);
        let flags = Options::parse(&options).unwrap().flags;
        assert_eq!(flags.set, Flags::NOSUID);
        assert_eq!(flags.clear, Flags::RDONLY | Flags::NOEXEC);
        assert!(!flags.readonly());
    }

    #[test]
    fn what_is_no_flag_is_the_file_systems() {
        let options = words(&["mode=755", "nodev", "defaults", "size=65536k", "acl"]);
        let parsed = Options::parse(&options).unwrap();
        assert_eq!(parsed.data, ["mode=755", "size=65536k", "acl"]);
        assert_eq!(parsed.flags.set, Flags::NODEV);
    }

    #[test]
    fn words_of_propagation_are_accepted_and_change_nothing() {
        let options = words(&["rprivate", "slave", "rslave", "rshared", "runbindable"]);
        assert_eq!(Options::parse(&options), Options::parse(&[]));
    }

    #[test]
    fn bind_after_rbind_stays_recursive() {
        let options = words(&["rbind", "bind"]);
        assert_eq!(
            Options::parse(&options).unwrap().bind,
            Some(Bind::Recursive)
        );
    }

    #[test]
    fn rro_makes_the_mount_itself_readonly_too() {
        let options = words(&["rro"]);
        assert!(Options::parse(&options).unwrap().flags.readonly());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for option in ["tmpcopyup", "idmap", "ridmap", "rnoexec", "uidmap=0:1:2"] {
            let options = words(&["ro", option]);
            assert_eq!(Options::parse(&options).unwrap_err().option, option);
        }
    }

    proptest! {
        #[test]
        fn flags_never_hold_bind_and_never_contradict_themselves(
            options in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(words(&[
                        "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "bind",
                        "rbind", "rro", "rrw", "rshared", "private", "atime", "noatime", "remount",
                    ])),
                    "[a-z=]{0,8}",
                ],
                0..12,
            )
        ) {
            if let Ok(parsed) = Options::parse(&options) {
                let MountFlags { set, clear, .. } = parsed.flags;
                prop_assert!(!set.intersects(clear));
                prop_assert!(!(set | clear).intersects(Flags::BIND | Flags::REC));
                let bind = options.iter().any(|option| option == "bind" || option == "rbind");
                prop_assert_eq!(parsed.bind.is_some(), bind);
                prop_assert!(parsed.data.iter().all(|word| options.iter().any(|o| o == word)));
            }
        }
    }
}
