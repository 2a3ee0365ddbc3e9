//! What the shim says when it cannot do what it was asked.
//!
//! Inner errors know no wire protocol; [`Error::code`] is the one place where a failure gets a ttrpc
//! code. The text is what `ctr`, `kubectl describe` and `docker` show: what failed, on what, why, and
//! where there is one, the remedy. Causes are printed once, joined by colons.

mod code;
mod unrunnable;

use std::io;
use std::path::PathBuf;

use ttrpc::Code;

use crate::content::ContentError;
use crate::cri_options::OptionsError;
use crate::hooks::Failure;
use crate::lifecycle::Refusal;

/// Why a request to a running shim failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container of that id.
    #[error("container {id} does not exist in this shim")]
    NotFound {
        /// The id.
        id: String,
    },
    /// A second Create.
    #[error("container {id} exists already")]
    AlreadyExists {
        /// The id.
        id: String,
    },
    /// The container is not in a state for it.
    #[error("container {id} {refusal}")]
    Refused {
        /// The container.
        id: String,
        /// What it is instead.
        refusal: Refusal,
    },
    /// A program that is not for this shim but for that of Linux containers. No client sees this.
    #[error(transparent)]
    LinuxProgram(wasi_bundles::Error),
    /// What the shim of Linux containers says.
    #[error("{text}")]
    Linux {
        /// Its code.
        code: Code,
        /// Its words.
        text: String,
    },
    /// Options of the runtime that a Linux container cannot have.
    #[error(
        "cannot run a Linux container with the options that containerd's configuration has for the runtime"
    )]
    Options(#[source] OptionsError),
    /// A sandbox that cannot be as it is asked for.
    #[error("cannot make the sandbox of the pod: {0}")]
    Pod(String),
    /// Something this shim does not do.
    #[error("{0} is not supported by io.containerd.wasi.v1")]
    Unimplemented(String),
    /// The bundle or what it names is unusable.
    #[error(transparent)]
    Bundle(#[from] wasi_bundles::Error),
    /// Options for a service, and a program that is none.
    #[error(
        "{program} serves no HTTP, and has annotations for that (io.containerd.wasi.v1.http-*); a service is a component that exports wasi:http/incoming-handler@0.2 and no wasi:cli/run, or whose handler is named: {program}#wasi:http/incoming-handler"
    )]
    NoService {
        /// The program.
        program: String,
    },
    /// Middleware that has nothing behind it.
    #[error(
        "{program} is HTTP middleware (it imports http_handler), and nothing says what it passes requests on to; write its upstream into the annotation io.containerd.wasi.v1.http-upstream or the variable HTTP_WASM_UPSTREAM, such as http://127.0.0.1:3000"
    )]
    NoUpstream {
        /// The program.
        program: String,
    },
    /// Options for middleware, and a service that is none.
    #[error(
        "{program} is no HTTP middleware (it does not import http_handler), and has annotations for that (io.containerd.wasi.v1.http-upstream, http-config, http-config-file)"
    )]
    NoMiddleware {
        /// The program.
        program: String,
    },
    /// A service that is to have no network.
    #[error(
        "{program} serves HTTP, and io.containerd.wasi.v1.allow-net is none; allow those networks that its clients are in"
    )]
    Offline {
        /// The program.
        program: String,
    },
    /// What the container is to run is no program that can be run here.
    #[error("cannot run {program:?}: {reason}")]
    Entrypoint {
        /// The program, as it was named.
        program: String,
        /// The words of Linux for it, by which Docker chooses between the exit codes 126 and 127.
        reason: &'static str,
        /// Why, in words of ours.
        #[source]
        source: Box<wasi_bundles::Error>,
    },
    /// What an exec names is no program that can be run here.
    #[error("exec failed: {program:?}: {reason}")]
    Exec {
        /// The program, as it was named.
        program: String,
        /// The words of Linux for it, by which clients choose between the exit codes 126 and 127.
        reason: &'static str,
        /// Why, in words of ours.
        #[source]
        source: Box<wasi_bundles::Error>,
    },
    /// An exec without an id, which means the init everywhere else.
    #[error("exec failed: the request names no exec id")]
    NoExecId,
    /// The working directory of an exec.
    #[error("exec failed: cannot use {path} as the working directory")]
    WorkingDirectory {
        /// The directory, inside the container.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot run {path}")]
    Program {
        /// The wasm file, inside the container.
        path: String,
        /// Why.
        #[source]
        source: wasi_runtime::Error,
    },
    /// No file is the program, and the image is none either.
    #[error("{missing}; nor is a wasm layer of its image its program")]
    Image {
        /// What the container does not have.
        missing: Box<wasi_bundles::Error>,
        /// Why its image does not help.
        #[source]
        source: Box<ContentError>,
    },
    /// The wasm layer that is the program.
    #[error("cannot read the wasm layer of image {image}")]
    LayerContent {
        /// The image, by its name in containerd.
        image: String,
        /// Why.
        #[source]
        source: Box<ContentError>,
    },
    /// The engine or its cache cannot be set up on this host.
    #[error("cannot set up the wasm engine")]
    Engine(#[source] wasi_runtime::Error),
    /// A limit cannot be kept on this host.
    #[error("cannot limit the container")]
    Limit(#[source] wasi_runtime::Error),
    /// An update with something else than resources of Linux.
    #[error(
        "cannot update the container with `{found}`; send types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
    )]
    Resources {
        /// The type that was sent; empty for nothing.
        found: String,
    },
    /// No root file system to run on.
    #[error(
        "cannot use the root file system {path}, which root.path of config.json names: {reason}"
    )]
    Rootfs {
        /// The host's path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A bind mount of nothing.
    #[error(
        "cannot mount {source_path} at {destination}: the source does not exist on the host; \
         create it, or take the mount out of the container"
    )]
    MountSource {
        /// The host's path.
        source_path: PathBuf,
        /// The place in the container.
        destination: PathBuf,
    },
    /// The kernel refused a mount.
    #[error("cannot mount {what} at {destination}")]
    Mount {
        /// Type and source.
        what: String,
        /// The place.
        destination: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path for stdio that cannot be opened.
    #[error("cannot open {stream} at {path}")]
    Stdio {
        /// Which stream.
        stream: &'static str,
        /// What containerd said.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something for stdio that is no place for it.
    #[error("{stream} cannot be {uri:?}: {problem}")]
    StdioUri {
        /// Which stream.
        stream: &'static str,
        /// What containerd said.
        uri: String,
        /// Why not, and what can be.
        problem: String,
    },
    /// A terminal that cannot be so large.
    #[error("a terminal cannot have {rows} rows of {columns} columns; 65,535 is the most")]
    ConsoleSize {
        /// The height.
        rows: u32,
        /// The width.
        columns: u32,
    },
    /// A program that was to take the output.
    #[error("cannot log to {program}: {problem}")]
    Logger {
        /// Its path.
        program: String,
        /// What it does not do.
        problem: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that the bundle wants run beside the container.
    #[error("the {moment} hook {path} {failure}", path = path.display())]
    Hook {
        /// The moment, as the OCI spec writes it.
        moment: &'static str,
        /// The program.
        path: PathBuf,
        /// Why.
        failure: Failure,
    },
    /// The cgroup that the container asks for.
    #[error(
        "cannot join the cgroup {path}; \
         leave linux.cgroupsPath empty if the shim is to stay where containerd is"
    )]
    Cgroup {
        /// From the root of the hierarchy.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host refused something else.
    #[error("cannot {action}")]
    Host {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The client that created it asked to delete it meanwhile.
    #[error("the creation of container {id} was given up by a delete")]
    Abandoned {
        /// The id.
        id: String,
    },
    /// A bug of ours, contained in one container.
    #[error("the container's thread panicked; this is a bug of the shim, whose log says more")]
    Panicked,
}

impl Error {
    /// A failure of the host, with what was tried.
    pub(crate) fn host<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Host {
            action,
            source: source.into(),
        }
    }

    /// The whole text: the failure and its causes.
    #[must_use]
    pub fn text(&self) -> String {
        let text = with_causes(self);
        if let Self::Program {
            source: wasi_runtime::Error::Off { option, .. },
            ..
        } = self
        {
            return format!("{text} (annotation {}{option}=on)", wasi_bundles::PREFIX);
        }
        text
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code(), error.text()))
    }
}

pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let error = Error::Mount {
            what: "overlay".into(),
            destination: "/rootfs".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(
            error.text(),
            "cannot mount overlay at /rootfs: permission denied"
        );
    }
}
