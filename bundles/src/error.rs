//! What is wrong with a bundle, in words for the person who reads `kubectl describe`.
//!
//! A text says what was asked for, where, why it cannot be, and, where one exists, the way out. The
//! cause underneath is kept as the error's source and not repeated in the text: print the chain.

use std::{io, path::PathBuf};

use crate::NotWasm;

/// Why a bundle cannot be turned into a container.
///
/// All of these are faults of what was given to the shim, except [`Error::ReadConfig`] and
/// [`Error::OpenEntrypoint`], which may be faults of the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle's directory has no absolute form (it is empty, or the working directory is gone).
    #[error("cannot make the bundle path `{path}` absolute", path = path.display())]
    BundlePath {
        /// The directory as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// `config.json` cannot be read.
    #[error("cannot read {path}", path = path.display())]
    ReadConfig {
        /// The absolute path of `config.json`.
        path: PathBuf,
        /// Why; `NotFound` if there is none.
        #[source]
        source: io::Error,
    },

    /// `config.json` is not JSON, or not an OCI runtime spec.
    #[error("{path} is no OCI runtime spec", path = path.display())]
    ParseConfig {
        /// The absolute path of `config.json`.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },

    /// What an `Exec` request carries is not JSON, or not an OCI process.
    #[error("{origin} holds no OCI process", origin = origin.display())]
    ParseProcess {
        /// What the process was described in.
        origin: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },

    /// `root` is missing or has no path; the OCI spec requires it on Linux.
    #[error("{config} names no root file system; set root.path", config = config.display())]
    NoRoot {
        /// The absolute path of `config.json`.
        config: PathBuf,
    },

    /// `process` is missing: nothing says what to run.
    #[error("{config} has no process; a container that is started needs process.args and process.cwd", config = config.display())]
    NoProcess {
        /// The absolute path of `config.json`.
        config: PathBuf,
    },

    /// `process.args` is missing or empty, or its first entry is.
    #[error(
        "{origin} names no program; set the image's ENTRYPOINT or CMD, or the container's command, to the wasm file",
        origin = origin.display()
    )]
    NoProgram {
        /// What the process was described in.
        origin: PathBuf,
    },

    /// A part of `process` breaks a rule.
    #[error("invalid process in {origin}: {reason}", origin = origin.display())]
    InvalidProcess {
        /// What the process was described in.
        origin: PathBuf,
        /// Which part, and the rule.
        reason: String,
    },

    /// A mount breaks a rule.
    #[error("invalid mount at `{destination}`: {reason}", destination = destination.display())]
    InvalidMount {
        /// The destination as given.
        destination: PathBuf,
        /// Which part, and the rule.
        reason: String,
    },

    /// `linux.cgroupsPath` has none of its forms.
    #[error("the cgroup `{path}` in {config} {reason}", config = config.display())]
    InvalidCgroup {
        /// The absolute path of `config.json`.
        config: PathBuf,
        /// The path as given.
        path: String,
        /// The rule it breaks; reads on.
        reason: String,
    },

    /// A hook breaks a rule.
    #[error("{moment} hook {index} in {config} cannot be run: {reason}", config = config.display())]
    InvalidHook {
        /// The absolute path of `config.json`.
        config: PathBuf,
        /// The moment, as the OCI spec writes it.
        moment: &'static str,
        /// Its place in the moment's list, from 0.
        index: usize,
        /// Which part, and the rule.
        reason: String,
    },

    /// `linux.namespaces` lists a type more than once.
    #[error("{config} lists the {namespace} namespace twice; list it once", config = config.display())]
    DuplicateNamespace {
        /// The absolute path of `config.json`.
        config: PathBuf,
        /// The type, as the OCI spec writes it.
        namespace: &'static str,
    },

    /// A host or domain name is set, and the container is to share the host's UTS namespace: setting
    /// the one would rename the node.
    #[error(
        "{config} sets the {field} `{name}` without a UTS namespace to set it in; add a namespace of type uts or drop the {field}",
        config = config.display()
    )]
    NameWithoutUts {
        /// The absolute path of `config.json`.
        config: PathBuf,
        /// `hostname` or `domainname`.
        field: &'static str,
        /// Its value.
        name: String,
    },

    /// A memory limit below -1, which is no number of bytes.
    #[error("{origin} limits the memory to {bytes} bytes; give a positive number, or -1 for no limit", origin = origin.display())]
    InvalidMemoryLimit {
        /// What the limit was described in.
        origin: PathBuf,
        /// The limit as given.
        bytes: i64,
    },

    /// A quota, period or burst that no cgroup would take.
    #[error("{origin} limits the processor time wrongly: {reason}", origin = origin.display())]
    InvalidCpuLimit {
        /// What the limit was described in.
        origin: PathBuf,
        /// Which number, and what it may be.
        reason: String,
    },

    /// The resources of an update are not what they are said to be.
    #[error("the update's resources are no LinuxResources of the OCI runtime spec")]
    ParseResources(#[source] serde_json::Error),

    /// An annotation with our prefix that is no option.
    #[error(
        "{config} has the annotation {key}, which is no option (there are: {})",
        known.join(", "),
        config = config.display()
    )]
    UnknownOption {
        /// The absolute path of `config.json`.
        config: PathBuf,
        /// The annotation.
        key: String,
        /// The options there are, without the prefix.
        known: Vec<&'static str>,
    },

    /// An option whose value is not written as it has to be.
    #[error(
        "{config} has the annotation {key} with the value `{value}`: {reason}",
        config = config.display()
    )]
    InvalidOption {
        /// The absolute path of `config.json`.
        config: PathBuf,
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it, and how it is written.
        reason: String,
    },

    /// A variable of the container that says how it is to be run, and does not.
    #[error("its environment has {name} with the value `{value}`: {reason}")]
    InvalidVariable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and how it is written.
        reason: String,
    },

    /// The file that middleware is to be configured with.
    #[error(
        "cannot read the container's {path}, which the annotation io.containerd.wasi.v1.http-config-file names: {reason}"
    )]
    ConfigFile {
        /// Its path in the container.
        path: String,
        /// Why, and what to do.
        reason: String,
    },

    /// Valid OCI that a wasm container cannot have here.
    #[error("{path} asks for {what}, which wasm containers do not support; {remedy}", path = path.display())]
    Unsupported {
        /// The absolute path of `config.json`, or the destination of the mount.
        path: PathBuf,
        /// What was asked for.
        what: String,
        /// What to do instead.
        remedy: &'static str,
    },

    /// The entrypoint has a form that names no file.
    #[error("the entrypoint `{path}` {reason}")]
    InvalidEntrypoint {
        /// `args[0]`.
        path: String,
        /// The rule it breaks.
        reason: &'static str,
    },

    /// No such file in the container.
    #[error("the container has no file `{path}` (looked for {})", tried.join(", "))]
    NoEntrypoint {
        /// The file as `args[0]` names it, without the export.
        path: String,
        /// Every path looked at, in order, inside of the root.
        tried: Vec<String>,
    },

    /// The entrypoint is there and is no regular file.
    #[error("{path} is {what}, not a file; name the wasm file itself")]
    NotAFile {
        /// The path inside of the root.
        path: String,
        /// What it is: "a directory", "a FIFO", ...
        what: &'static str,
    },

    /// The entrypoint cannot be opened or read.
    #[error("cannot open {path} in the container")]
    OpenEntrypoint {
        /// The path inside of the root.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },

    /// The entrypoint is a file and no binary WebAssembly.
    #[error("{path} is {what}{}", what.consequence())]
    NotWasm {
        /// The path inside of the root.
        path: String,
        /// What it is instead. [`NotWasm::Elf`] and [`NotWasm::Script`] are a Linux container's.
        what: NotWasm,
    },
}
