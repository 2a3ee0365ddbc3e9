//! A runtime's `options` table in containerd's configuration, as CRI sends it to runtimes that it does not know: a
//! `runtimeoptions.v1.Options` with the table as TOML in field 3, `config_body` (containerd 1.7 and newer,
//! `internal/cri/config/config.go`).
//!
//! What users write there has runc's names, because k3s and Helm charts give every runtime the options of
//! runc. They are for the Linux containers of a pod, and for the shim's own cgroup. k3s names as `BinaryName` the
//! shim that it has found, where runc's shim expects a runc (k3s `pkg/agent/templates`); that is passed over.

use containerd_shim_protos::shim::oci::Options;
use protobuf::CodedInputStream;
use protobuf::well_known_types::any::Any;
use toml_edit::{DocumentMut, Item};

/// `config_path`: a file with options of the shim.
const CONFIG_PATH: u32 = 2;
/// `config_body`: the options themselves.
const CONFIG_BODY: u32 = 3;

/// The table, and a file that is named instead.
#[derive(Debug, Default)]
pub struct CriOptions {
    /// Empty for none.
    pub config_path: String,
    /// By the names of runc, and others.
    pub table: DocumentMut,
}

/// What is wrong with options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The message.
    #[error("not readable")]
    Message(#[source] protobuf::Error),
    /// The text in it.
    #[error("not TOML")]
    Table(#[source] toml_edit::TomlError),
    /// A value.
    #[error("{name} has to be {wanted}")]
    Value {
        /// The option.
        name: &'static str,
        /// What it can be.
        wanted: &'static str,
    },
}

impl CriOptions {
    /// Reads them; none if they are of another type.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub fn read(options: &Any) -> Result<Option<Self>, OptionsError> {
        if options.type_url.rsplit('/').next() != Some("runtimeoptions.v1.Options") {
            return Ok(None);
        }
        let mut read = Self::default();
        let mut stream = CodedInputStream::from_bytes(&options.value);
        while !stream.eof().map_err(OptionsError::Message)? {
            // Every field of the message is a string.
            let tag = stream.read_raw_varint32().map_err(OptionsError::Message)?;
            let text = stream.read_string().map_err(OptionsError::Message)?;
            match tag >> 3 {
                CONFIG_PATH => read.config_path = text,
                CONFIG_BODY => read.table = text.parse().map_err(OptionsError::Table)?,
                _ => {}
            }
        }
        Ok(Some(read))
    }

    /// Those of runc, as `containerd-shim-runc-v2` takes them.
    ///
    /// # Errors
    ///
    /// [`OptionsError::Value`].
    pub fn of_runc(&self) -> Result<Options, OptionsError> {
        Ok(Options {
            no_pivot_root: self.flag("NoPivotRoot")?,
            no_new_keyring: self.flag("NoNewKeyring")?,
            shim_cgroup: self.text("ShimCgroup")?,
            io_uid: self.id("IoUid")?,
            io_gid: self.id("IoGid")?,
            binary_name: not_a_shim(self.text("BinaryName")?),
            root: self.text("Root")?,
            systemd_cgroup: self.flag("SystemdCgroup")?,
            criu_image_path: self.text("CriuImagePath")?,
            criu_work_path: self.text("CriuWorkPath")?,
            ..Options::default()
        })
    }

    fn flag(&self, name: &'static str) -> Result<bool, OptionsError> {
        self.value(name, "true or false", Item::as_bool)
    }

    fn text(&self, name: &'static str) -> Result<String, OptionsError> {
        self.value(name, "a string", |item| item.as_str().map(str::to_owned))
    }

    fn id(&self, name: &'static str) -> Result<u32, OptionsError> {
        self.value(name, "a number from 0 to 4294967295", |item| {
            u32::try_from(item.as_integer()?).ok()
        })
    }

    /// What is not said is as with runc.
    fn value<T: Default>(
        &self,
        name: &'static str,
        wanted: &'static str,
        read: impl FnOnce(&Item) -> Option<T>,
    ) -> Result<T, OptionsError> {
        match self.table.get(name) {
            Some(item) => read(item).ok_or(OptionsError::Value { name, wanted }),
            None => Ok(T::default()),
        }
    }
}

/// Nothing in place of the name of a shim, which cannot do what a runc does.
fn not_a_shim(program: String) -> String {
    let name = program.rsplit('/').next().unwrap_or_default();
    if name.starts_with("containerd-shim-") {
        return String::new();
    }
    program
}

/// As CRI sends `table`.
#[cfg(test)]
pub(crate) fn sent(table: &str) -> Any {
    use protobuf::Message as _;
    // Field 3 of both is a string.
    let body = Options {
        shim_cgroup: table.to_owned(),
        ..Options::default()
    };
    Any {
        type_url: "runtimeoptions.v1.Options".to_owned(),
        value: body.write_to_bytes().unwrap(),
        ..Any::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_runc(table: &str) -> Result<Options, OptionsError> {
        CriOptions::read(&sent(table)).unwrap().unwrap().of_runc()
    }

    #[test]
    fn what_runc_knows_is_understood() {
        let table = "BinaryName = \"/usr/bin/crun\"\nSystemdCgroup = true\nIoUid = 7\nFuel = 7\n";
        let wanted = Options {
            binary_name: "/usr/bin/crun".to_owned(),
            systemd_cgroup: true,
            io_uid: 7,
            ..Options::default()
        };
        assert_eq!(of_runc(table).unwrap(), wanted);
        assert_eq!(of_runc("").unwrap(), Options::default());
    }

    #[test]
    fn a_shim_is_no_runc() {
        for shim in [
            "containerd-shim-wasmtime-v1",
            "/usr/bin/containerd-shim-wasi-v1",
        ] {
            let options = of_runc(&format!("BinaryName = {shim:?}")).unwrap();
            assert_eq!(options, Options::default());
        }
    }

    #[test]
    fn a_value_that_cannot_be_is_named() {
        let wrong = |table| of_runc(table).unwrap_err().to_string();
        assert_eq!(wrong("Root = 7"), "Root has to be a string");
        assert_eq!(
            wrong("SystemdCgroup = \"yes\""),
            "SystemdCgroup has to be true or false"
        );
        assert_eq!(
            wrong("IoGid = -1"),
            "IoGid has to be a number from 0 to 4294967295"
        );
    }

    #[test]
    fn other_types_are_none() {
        let other = Any {
            type_url: "containerd.runc.v1.Options".to_owned(),
            value: vec![0xff],
            ..Any::default()
        };
        assert!(CriOptions::read(&other).unwrap().is_none());
    }
}
