//! How `containerd-shim-runc-v2` is called: by the command line with which containerd calls a shim, and in
//! the environment that containerd gave this one.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message as _;

use crate::flags::Flags;

const PROGRAM: &str = "containerd-shim-runc-v2";

/// What all calls have in common: what containerd told this shim of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// containerd's program; its shims lie beside it.
    pub publisher: PathBuf,
    /// Whether to log in detail.
    pub debug: bool,
}

impl From<&Flags> for Call {
    fn from(flags: &Flags) -> Self {
        Self {
            namespace: flags.namespace.clone(),
            address: flags.address.clone(),
            publisher: flags.publish_binary.clone(),
            debug: flags.debug,
        }
    }
}

impl Call {
    /// The program: beside containerd, or else in the `PATH` that containerd has.
    fn program(&self) -> io::Result<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let beside = self.publisher.parent().map(Path::to_path_buf);
        let folders = beside.into_iter().chain(std::env::split_paths(&path));
        let mut found = folders
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(PROGRAM));
        found.find(|file| file.is_file()).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("{PROGRAM}, which runs Linux containers, lies neither beside containerd nor in its PATH; install it there"),
            )
        })
    }

    /// What it says of itself and of runc, if it does: not before containerd 1.7.
    #[must_use]
    pub fn info(&self) -> Option<RuntimeInfo> {
        let mut command = Command::new(self.program().ok()?);
        // With nothing on stdin it is about the runc that it finds.
        command.arg("-info").stdin(Stdio::null());
        let output = command.output().ok()?;
        let said = output.status.success().then_some(output.stdout)?;
        RuntimeInfo::parse_from_bytes(&said).ok()
    }

    /// Runs it for the container `id` in `dir`, and returns what it prints.
    ///
    /// # Errors
    ///
    /// When it cannot be run, or fails; the error has what it says.
    pub fn run(
        &self,
        id: &str,
        dir: &Path,
        bundle: Option<&Path>,
        action: &str,
        stdin: &[u8],
    ) -> io::Result<Vec<u8>> {
        let mut command = Command::new(self.program()?);
        command
            .args(["-namespace", &self.namespace, "-id", id])
            .args(["-address", &self.address]);
        if !self.publisher.as_os_str().is_empty() {
            command.arg("-publish-binary").arg(&self.publisher);
        }
        if self.debug {
            command.arg("-debug");
        }
        if let Some(bundle) = bundle {
            command.arg("-bundle").arg(bundle);
        }
        let mut child = command
            .arg(action)
            .current_dir(dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that reads nothing does not mind.
            drop(pipe.write_all(stdin));
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        Err(io::Error::other(format!(
            "{PROGRAM} {action}: {}: {}",
            output.status,
            said.trim()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shim that is a script.
    fn call(folder: &Path, script: &str) -> Call {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join(PROGRAM);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Call {
            namespace: "n".into(),
            address: "/a".into(),
            publisher: folder.join("containerd"),
            debug: true,
        }
    }

    #[test]
    fn it_is_called_as_containerd_calls_a_shim() {
        let folder = tempfile::tempdir().unwrap();
        let call = call(folder.path(), "cat; pwd; echo \"$@\"");
        let bundle = Some(Path::new("/b"));
        let said = call.run("i", folder.path(), bundle, "delete", b"in\n");
        let wanted = format!(
            "in\n{dir}\n-namespace n -id i -address /a -publish-binary {dir}/containerd -debug -bundle /b delete\n",
            dir = folder.path().display()
        );
        assert_eq!(String::from_utf8(said.unwrap()).unwrap(), wanted);
    }

    #[test]
    fn one_that_says_nothing_of_itself_is_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        assert!(call(folder.path(), "exit 2").info().is_none());
        // The field 1, `name`, in protobuf.
        let info = call(folder.path(), r"printf '\n\004runc'").info();
        assert_eq!(info.unwrap().name, "runc");
    }

    #[test]
    fn what_it_says_when_it_fails_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let call = call(folder.path(), "echo out; echo why >&2; exit 3");
        let error = call
            .run("i", folder.path(), None, "start", b"")
            .unwrap_err();
        assert!(error.to_string().contains("out\nwhy"), "{error}");
    }
}
