//! The process: arguments, environment, working directory and user of a guest.
//!
//! Everything is text a guest will see unchanged, so the rules are the ones of `execve`: no NUL byte,
//! and variables are `NAME=value`. The environment has every name once: WASI hands it over as a list
//! of pairs, and languages disagree on which of two counts. Of several the last one counts, in the
//! place of the first; runc lets the last one count too. It also adds `HOME` from the container's passwd file;
//! we do not, a guest gets the variables its bundle lists.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::Path,
};

use oci_spec::runtime::{self, PosixRlimit, PosixRlimitType};

use crate::Error;

/// The largest id of a user or a group. To `setresuid(2)` the next one, -1, means to stay what one is: root.
const MAX_ID: u32 = u32::MAX - 1;

/// What to run, checked (OCI config.md, "Process").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The arguments; the first is the program. Never empty, and neither is the program.
    pub args: Vec<String>,
    /// Names and values, every name once.
    pub env: Vec<(String, String)>,
    /// The working directory inside of the root, absolute.
    pub cwd: String,
    /// Whose rights it has.
    pub user: User,
    /// Whether stdio is to be a terminal.
    pub terminal: bool,
    /// Whether the thread is to lose the ability to gain privileges. The shim may do so anyway.
    pub no_new_privileges: bool,
    /// Names of the effective capabilities, such as `CHOWN`; `None` if there is nothing about
    /// capabilities, which for an exec means those of its container (runc `newInitConfig`).
    pub capabilities: Option<Vec<String>>,
    /// How many files it may have open (`RLIMIT_NOFILE`, the soft limit).
    pub open_files: Option<u64>,
}

/// Ids on the host: there are no user namespaces here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// Permission bits new files do not get; the shim's own mask if `None`.
    pub umask: Option<u32>,
}

impl Process {
    /// Reads and checks the process that an `Exec` request carries, as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::ParseProcess`], and those of [`Self::new`].
    pub fn parse(json: &[u8], origin: &Path) -> Result<Self, Error> {
        let process = serde_json::from_slice(json).map_err(|source| Error::ParseProcess {
            origin: origin.to_owned(),
            source,
        })?;
        Self::new(&process, origin)
    }

    /// Checks a process, be it `process` of `config.json` or the one an `Exec` request carries.
    /// `origin` is what an error names as its place.
    ///
    /// # Errors
    ///
    /// [`Error::NoProgram`] without `args` or with an empty first one. [`Error::InvalidProcess`]: a
    /// variable without `=` or name, a `cwd` that is not absolute (an empty one is `/`), a NUL byte,
    /// an id that is none.
    pub fn new(process: &runtime::Process, origin: &Path) -> Result<Self, Error> {
        let invalid = |reason: String| Error::InvalidProcess {
            origin: origin.to_owned(),
            reason,
        };
        let args = process.args().clone().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(Error::NoProgram {
                origin: origin.to_owned(),
            });
        }
        if let Some(arg) = args.iter().find(|arg| arg.contains('\0')) {
            return Err(invalid(format!("the argument {arg:?} contains a NUL byte")));
        }
        let user = process.user();
        let groups = user.additional_gids().iter().flatten().copied();
        if let Some(id) = [user.uid(), user.gid()]
            .into_iter()
            .chain(groups)
            .find(|&id| id > MAX_ID)
        {
            return Err(invalid(format!(
                "{id} is no user or group id; the largest is {MAX_ID}"
            )));
        }
        Ok(Self {
            args,
            env: environment(process.env().as_deref().unwrap_or_default()).map_err(invalid)?,
            cwd: directory(process.cwd()).map_err(invalid)?,
            user: User {
                uid: user.uid(),
                gid: user.gid(),
                additional_gids: user.additional_gids().clone().unwrap_or_default(),
                umask: user.umask(),
            },
            terminal: process.terminal().unwrap_or(false),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            capabilities: process.capabilities().as_ref().map(|capabilities| {
                let effective = capabilities.effective().iter().flatten();
                effective.map(ToString::to_string).collect()
            }),
            open_files: process
                .rlimits()
                .iter()
                .flatten()
                .find(|limit| limit.typ() == PosixRlimitType::RlimitNofile)
                .map(PosixRlimit::soft),
        })
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

fn environment(entries: &[String]) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(entries.len());
    let mut places: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        let Some((name, value)) = entry.split_once('=') else {
            return Err(format!(
                "the environment entry {entry:?} has no `=`; write NAME=value"
            ));
        };
        if name.is_empty() {
            return Err(format!(
                "the environment entry {entry:?} has no name; write NAME=value"
            ));
        }
        if entry.contains('\0') {
            return Err(format!("the variable {name:?} contains a NUL byte"));
        }
        match places.entry(name) {
            Entry::Occupied(place) => value.clone_into(&mut env[*place.get()].1),
            Entry::Vacant(place) => {
                place.insert(env.len());
                env.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(env)
}

fn directory(cwd: &Path) -> Result<String, String> {
    if cwd.as_os_str().is_empty() {
        return Ok("/".to_owned());
    }
    let text = cwd
        .to_str()
        .ok_or_else(|| format!("the working directory {cwd:?} is not UTF-8"))?;
    if text.contains('\0') {
        return Err(format!(
            "the working directory {text:?} contains a NUL byte"
        ));
    }
    if !text.starts_with('/') {
        return Err(format!(
            "the working directory {text:?} is not absolute; start it with /"
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::ProcessBuilder;
    use proptest::prelude::*;

    use super::*;

    fn process(args: &[&str], env: &[&str], cwd: &str) -> Result<Process, Error> {
        let owned =
            |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
        let process = ProcessBuilder::default()
            .args(owned(args))
            .env(owned(env))
            .cwd(cwd)
            .build()
            .unwrap();
        Process::new(&process, Path::new("/b/config.json"))
    }

    #[test]
    fn a_value_may_be_empty_and_contain_the_separator() {
        let process = process(&["a"], &["EMPTY=", "OPTS=-a=b -c", "U=ü"], "/").unwrap();
        assert_eq!(process.variable("EMPTY"), Some(""));
        assert_eq!(process.variable("OPTS"), Some("-a=b -c"));
        assert_eq!(process.variable("U"), Some("ü"));
        assert_eq!(process.variable("OPT"), None);
    }

    #[test]
    fn the_last_of_two_equal_names_counts_in_the_place_of_the_first() {
        let process = process(&["a"], &["A=1", "B=2", "A=3"], "/").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(process.env, [pair("A", "3"), pair("B", "2")]);
    }

    #[test]
    fn an_empty_working_directory_is_the_root() {
        assert_eq!(process(&["a"], &[], "").unwrap().cwd, "/");
        assert_eq!(process(&["a"], &[], "/srv/").unwrap().cwd, "/srv/");
    }

    #[test]
    fn what_is_not_said_is_off() {
        let json = r#"{"user": {"uid": 1, "gid": 2}, "args": ["a"], "cwd": "/", "env": null}"#;
        let process =
            Process::new(&serde_json::from_str(json).unwrap(), Path::new("exec")).unwrap();
        assert!(!process.terminal && !process.no_new_privileges);
        assert!(process.env.is_empty());
        assert_eq!(process.user.uid, 1);
        assert_eq!(process.user.gid, 2);
        assert_eq!(process.user.umask, None);
        assert_eq!(process.open_files, None);
        assert!(process.user.additional_gids.is_empty());
        assert_eq!(process.capabilities, None);
    }

    #[test]
    fn a_process_by_itself_is_read_as_a_part_of_a_bundle_is() {
        let json = br#"{"user": {"uid": 0, "gid": 0}, "args": ["a"], "cwd": "/",
            "capabilities": {"effective": ["CAP_CHOWN"], "bounding": ["CAP_KILL"]}}"#;
        let process = Process::parse(json, Path::new("exec")).unwrap();
        assert_eq!(process.capabilities, Some(vec!["CHOWN".to_owned()]));
        for (json, text) in [
            ("", "exec holds no OCI process"),
            ("[]", "exec holds no OCI process"),
            (
                r#"{"user": {}, "args": ["a"], "cwd": "b"}"#,
                "invalid process in exec",
            ),
        ] {
            let error = Process::parse(json.as_bytes(), Path::new("exec")).unwrap_err();
            assert!(error.to_string().starts_with(text), "{error}");
        }
    }

    #[test]
    fn of_the_rlimits_that_of_open_files_counts() {
        let json = r#"{"user": {"uid": 0, "gid": 0}, "args": ["a"], "cwd": "/", "rlimits": [
            {"type": "RLIMIT_NPROC", "hard": 7, "soft": 7},
            {"type": "RLIMIT_NOFILE", "hard": 2048, "soft": 1024}]}"#;
        let limited =
            Process::new(&serde_json::from_str(json).unwrap(), Path::new("exec")).unwrap();
        assert_eq!(limited.open_files, Some(1024));
    }

    #[test]
    fn an_id_that_would_mean_no_change_is_refused() {
        for user in [
            r#"{"uid": 4294967295, "gid": 0}"#,
            r#"{"uid": 0, "gid": 4294967295}"#,
            r#"{"uid": 0, "gid": 0, "additionalGids": [1, 4294967295]}"#,
        ] {
            let json = format!(r#"{{"user": {user}, "args": ["a"], "cwd": "/"}}"#);
            let process = serde_json::from_str(&json).unwrap();
            let error = Process::new(&process, Path::new("/b/config.json")).unwrap_err();
            assert_eq!(
                error.to_string(),
                "invalid process in /b/config.json: 4294967295 is no user or group id; \
                 the largest is 4294967294"
            );
        }
    }

    #[test]
    fn broken_processes_are_refused_by_the_part() {
        let no_program = "/b/config.json names no program; set the image's ENTRYPOINT or CMD, or the \
                          container's command, to the wasm file";
        for (error, text) in [
            (process(&[], &[], "/"), no_program),
            (process(&["", "x"], &[], "/"), no_program),
            (
                process(&["a", "b\0"], &[], "/"),
                "invalid process in /b/config.json: the argument \"b\\0\" contains a NUL byte",
            ),
            (
                process(&["a"], &["PATH"], "/"),
                "invalid process in /b/config.json: the environment entry \"PATH\" has no `=`; write NAME=value",
            ),
            (
                process(&["a"], &["=x"], "/"),
                "invalid process in /b/config.json: the environment entry \"=x\" has no name; write NAME=value",
            ),
            (
                process(&["a"], &["A=\0"], "/"),
                "invalid process in /b/config.json: the variable \"A\" contains a NUL byte",
            ),
            (
                process(&["a"], &[], "srv"),
                "invalid process in /b/config.json: the working directory \"srv\" is not absolute; start it with /",
            ),
            (
                process(&["a"], &[], "/srv\0"),
                "invalid process in /b/config.json: the working directory \"/srv\\0\" contains a NUL byte",
            ),
        ] {
            assert_eq!(error.unwrap_err().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn every_name_is_there_once_with_its_last_value(
            entries in prop::collection::vec("[AB=\\x00é]{0,6}", 0..10)
        ) {
            let Ok(env) = environment(&entries) else {
                let broken = |entry: &String| {
                    entry.contains('\0') || entry.find('=').is_none_or(|place| place == 0)
                };
                prop_assert!(entries.iter().any(broken));
                return Ok(());
            };
            for (place, (name, value)) in env.iter().enumerate() {
                prop_assert!(!name.is_empty() && !name.contains('='));
                prop_assert!(env[..place].iter().all(|(other, _)| other != name));
                let last = entries.iter().rev().find_map(|entry| {
                    entry.strip_prefix(name.as_str())?.strip_prefix('=')
                });
                prop_assert_eq!(Some(value.as_str()), last);
            }
        }
    }
}
