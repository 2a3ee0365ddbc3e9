//! Programs that are run at moments of a container's life (OCI config.md, "POSIX-platform Hooks").
//!
//! A spec lists them by moment. What they are told and where they run is the shim's part; here is what
//! the spec says of each, checked: a path that is absolute, an environment of names and values, a
//! timeout above zero.

use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime;

use crate::{Bundle, Error};

/// When hooks run, in the order of a container's life (OCI runtime.md, "Lifecycle").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The namespaces and mounts are there (deprecated, and Docker's up to version 25).
    Prestart,
    /// The same, after those.
    CreateRuntime,
    /// The same, after those; in the container's namespaces.
    CreateContainer,
    /// Start was asked for; in the container's namespaces and root.
    StartContainer,
    /// The program runs.
    Poststart,
    /// The container is gone.
    Poststop,
}

/// A container's hooks, by moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
    create_container: Vec<Hook>,
    start_container: Vec<Hook>,
    poststart: Vec<Hook>,
    poststop: Vec<Hook>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Absolute.
    pub path: PathBuf,
    /// With the program's name first, which need not be the path.
    pub args: Vec<String>,
    /// All of its environment: it inherits none.
    pub env: Vec<(String, String)>,
    /// How long it may take. `None` is for ever.
    pub timeout: Option<Duration>,
}

impl Moment {
    /// The name in `config.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

impl Hooks {
    /// Reads the hooks of a bundle.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidHook`].
    pub fn new(bundle: &Bundle) -> Result<Self, Error> {
        let Some(hooks) = bundle.spec().hooks() else {
            return Ok(Self::default());
        };
        let read = |moment, listed: &Option<Vec<runtime::Hook>>| {
            let listed = listed.iter().flatten().enumerate();
            listed
                .map(|(index, hook)| {
                    Hook::new(hook).map_err(|reason| Error::InvalidHook {
                        config: bundle.config(),
                        moment: Moment::name(moment),
                        index,
                        reason,
                    })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            #[allow(deprecated, reason = "deprecated since OCI 1.0.2, and still used")]
            prestart: read(Moment::Prestart, hooks.prestart())?,
            create_runtime: read(Moment::CreateRuntime, hooks.create_runtime())?,
            create_container: read(Moment::CreateContainer, hooks.create_container())?,
            start_container: read(Moment::StartContainer, hooks.start_container())?,
            poststart: read(Moment::Poststart, hooks.poststart())?,
            poststop: read(Moment::Poststop, hooks.poststop())?,
        })
    }

    /// Those of one moment, in the order they run.
    #[must_use]
    pub fn at(&self, moment: Moment) -> &[Hook] {
        match moment {
            Moment::Prestart => &self.prestart,
            Moment::CreateRuntime => &self.create_runtime,
            Moment::CreateContainer => &self.create_container,
            Moment::StartContainer => &self.start_container,
            Moment::Poststart => &self.poststart,
            Moment::Poststop => &self.poststop,
        }
    }
}

impl Hook {
    fn new(hook: &runtime::Hook) -> Result<Self, String> {
        let path = hook.path().clone();
        if !path.is_absolute() {
            return Err(format!(
                "the path `{}` is not absolute; write the whole path of the program",
                path.display()
            ));
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
                Ok(0) | Err(_) => {
                    return Err(format!(
                        "its timeout is {seconds} s; give one above zero, or none"
                    ));
                }
            },
        };
        let args = match hook.args() {
            Some(args) if !args.is_empty() => args.clone(),
            Some(_) | None => vec![path.display().to_string()],
        };
        let env = hook.env().iter().flatten().map(|entry| {
            // A name is not empty: what begins with = has its = later (Windows's, which Go passes on).
            let equals = entry.char_indices().skip(1).find(|(_, char)| *char == '=');
            match equals {
                Some((at, _)) => Ok((entry[..at].to_owned(), entry[at + 1..].to_owned())),
                None => Err(format!(
                    "`{entry}` in its environment is not of the form NAME=value"
                )),
            }
        });
        let env = env.collect::<Result<Vec<_>, _>>()?;
        let values = env.iter().flat_map(|(name, value)| [name, value]);
        let has_nul = args.iter().chain(values).any(|word| word.contains('\0'));
        if has_nul {
            return Err("a NUL is in its arguments or environment; take it out".to_owned());
        }
        Ok(Self {
            path,
            args,
            env,
            timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::BundleBuilder;

    fn hooks(json: Value) -> Result<Hooks, Error> {
        let bundle = BundleBuilder::new().config("/hooks", json).build();
        Hooks::new(&Bundle::open(bundle.path()).unwrap())
    }

    #[test]
    fn each_moment_has_its_own() {
        let moments = [
            Moment::Prestart,
            Moment::CreateRuntime,
            Moment::CreateContainer,
            Moment::StartContainer,
            Moment::Poststart,
            Moment::Poststop,
        ];
        let mut json = json!({});
        for moment in moments {
            let name = moment.name();
            json[name] =
                json!([{ "path": format!("/{name}/1") }, { "path": format!("/{name}/2") }]);
        }
        let hooks = hooks(json).unwrap();
        for moment in moments {
            let paths: Vec<_> = hooks.at(moment).iter().map(|hook| &hook.path).collect();
            let wanted = ["1", "2"].map(|n| PathBuf::from(format!("/{}/{n}", moment.name())));
            assert_eq!(paths, [&wanted[0], &wanted[1]]);
        }
    }

    #[test]
    fn no_hooks_is_none_at_any_moment() {
        let bundle = BundleBuilder::new().build();
        let hooks = Hooks::new(&Bundle::open(bundle.path()).unwrap()).unwrap();
        assert_eq!(hooks, Hooks::default());
    }

    #[test]
    fn the_first_argument_is_the_programs_name() {
        let hooks = hooks(json!({
            "prestart": [
                { "path": "/proc/7/exe", "args": ["libnetwork-setkey", "-x"], "env": ["A=b=c", "E="], "timeout": 5 },
                { "path": "/bin/true", "args": [] },
            ],
        }))
        .unwrap();
        let [first, second] = hooks.at(Moment::Prestart) else {
            panic!("{hooks:?}");
        };
        assert_eq!(first.args, ["libnetwork-setkey", "-x"]);
        let env = [("A", "b=c"), ("E", "")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(first.env, env);
        assert_eq!(first.timeout, Some(Duration::from_secs(5)));
        assert_eq!(second.args, ["/bin/true"]);
        assert_eq!((second.env.len(), second.timeout), (0, None));
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_its_place() {
        let error = hooks(json!({ "poststop": [{ "path": "/a" }, { "path": "b" }] })).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("poststop hook 1"), "{text}");
        assert!(text.contains("`b` is not absolute"), "{text}");
        for (hook, reason) in [
            (json!({ "path": "/a", "timeout": 0 }), "timeout is 0 s"),
            (json!({ "path": "/a", "timeout": -3 }), "timeout is -3 s"),
            (json!({ "path": "/a", "env": ["PATH"] }), "`PATH`"),
            (json!({ "path": "/a", "env": ["=x"] }), "`=x`"),
            (json!({ "path": "/a", "args": ["a\0b"] }), "NUL"),
        ] {
            let text = hooks(json!({ "poststart": [hook] }))
                .unwrap_err()
                .to_string();
            assert!(text.contains(reason), "{text}");
        }
    }
}
