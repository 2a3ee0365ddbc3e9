//! Options of the runtime that nobody here knows: they are said in the shim's log, and no reason to refuse a pod,
//! because k3s and Helm charts give every runtime the options of runc. runc's own names, in a table of
//! [`CriOptions`] or as `containerd.runc.v1.Options`, are known.

use protobuf::well_known_types::any::Any;

use crate::bootstrap::{self, Dialect};
use crate::cri_options::CriOptions;

/// The fields of `containerd.runc.v1.Options` (containerd `api/types/runc/options/oci.proto`).
const RUNC: [&str; 12] = [
    "NoPivotRoot",
    "NoNewKeyring",
    "ShimCgroup",
    "IoUid",
    "IoGid",
    "BinaryName",
    "Root",
    "SystemdCgroup",
    "CriuPath",
    "CriuImagePath",
    "CriuWorkPath",
    "CriuWorkDir",
];
/// The names of the options that are ignored, out of the stdin of `start`.
pub(crate) fn options(stdin: &[u8], dialect: &Dialect) -> Vec<String> {
    let options = bootstrap::options(stdin, dialect);
    options.iter().flat_map(of_message).collect()
}

fn of_message(options: &Any) -> Vec<String> {
    let CriOptions { config_path, table } = match CriOptions::read(options) {
        Ok(Some(read)) => read,
        // None at all, runc's, and extensions of containerd's bootstrap that are no options.
        Ok(None) => return Vec::new(),
        Err(error) => return vec![format!("({error})")],
    };
    let file = (!config_path.is_empty()).then(|| format!("ConfigPath = {config_path:?}"));
    let names = table.iter().map(|(name, _)| name);
    let unknown = names.filter(|name| !RUNC.contains(name));
    file.into_iter().chain(unknown.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::*;

    fn any(type_url: &str, fields: &[(u8, &str)]) -> Vec<u8> {
        let mut value = Vec::new();
        for (number, text) in fields {
            value.extend([number << 3 | 2, u8::try_from(text.len()).unwrap()]);
            value.extend(text.as_bytes());
        }
        let any = Any {
            type_url: type_url.into(),
            value,
            ..Any::default()
        };
        any.write_to_bytes().unwrap()
    }

    fn ignored(type_url: &str, fields: &[(u8, &str)]) -> Vec<String> {
        options(&any(type_url, fields), &Dialect::Options)
    }

    #[test]
    fn what_runc_knows_is_no_surprise_and_the_rest_is_named() {
        const TYPE: &str = "runtimeoptions.v1.Options";
        let k3s = "BinaryName = \"/usr/bin/x\"\nSystemdCgroup = true\n";
        assert!(ignored(TYPE, &[(1, "url"), (3, k3s)]).is_empty());
        let odd = "SystemdCgroup = true\nFuel = 7\n[more]\n";
        assert_eq!(ignored(TYPE, &[(3, odd)]), ["Fuel", "more"]);
        assert_eq!(
            ignored(TYPE, &[(2, "/c.toml")]),
            ["ConfigPath = \"/c.toml\""]
        );
        assert_eq!(ignored(TYPE, &[(3, "= what")]), ["(not TOML)"]);
        assert!(ignored("containerd.runc.v1.Options", &[(6, "runc")]).is_empty());
    }

    #[test]
    fn bytes_that_are_no_message_are_no_reason_to_fail() {
        let broken = Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: vec![0x1a, 200],
            ..Any::default()
        };
        let stdin = broken.write_to_bytes().unwrap();
        assert_eq!(options(&stdin, &Dialect::Options), ["(not readable)"]);
        assert!(options(b"\xff\xff", &Dialect::Options).is_empty());
    }
}
