//! What a guest may use at most, from `linux.resources`.
//!
//! Only what the engine itself enforces is here. CPU quota and PIDs belong to the shim, which reads
//! them from the spec; swap means nothing to a guest whose memory is bounded before it is touched.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::Error;

/// The limits the engine enforces on a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Linear memories, tables and host-side resources together, in bytes
    /// (`linux.resources.memory.limit`). `None` is no limit.
    pub memory: Option<u64>,
}

impl Limits {
    /// Reads the limits of a spec, or those of an `Update` request, which carries the same structure.
    /// `origin` is the file (or the request) an error names.
    ///
    /// A limit that is absent, 0 or -1 is none, as for runc.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidMemoryLimit`] below -1.
    pub fn new(resources: Option<&LinuxResources>, origin: &Path) -> Result<Self, Error> {
        let memory = resources
            .and_then(|resources| resources.memory().as_ref())
            .and_then(|memory| memory.limit());
        let memory = match memory {
            None | Some(0 | -1) => None,
            Some(bytes) => match u64::try_from(bytes) {
                Ok(bytes) => Some(bytes),
                Err(_) => {
                    return Err(Error::InvalidMemoryLimit {
                        origin: origin.to_owned(),
                        bytes,
                    });
                }
            },
        };
        Ok(Self { memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: &str) -> Result<Limits, Error> {
        let resources = serde_json::from_str(json).unwrap();
        Limits::new(Some(&resources), Path::new("/b/config.json"))
    }

    #[test]
    fn a_memory_limit_is_in_bytes() {
        let limits = limits(r#"{"memory": {"limit": 134217728}}"#).unwrap();
        assert_eq!(limits.memory, Some(128 << 20));
    }

    #[test]
    fn absent_zero_and_minus_one_are_no_limit() {
        for json in [
            "{}",
            r#"{"memory": {}}"#,
            r#"{"memory": {"limit": 0}}"#,
            r#"{"memory": {"limit": -1}}"#,
        ] {
            assert_eq!(limits(json).unwrap().memory, None, "{json}");
        }
        assert_eq!(Limits::new(None, Path::new("/")).unwrap().memory, None);
    }

    #[test]
    fn other_negative_limits_are_refused() {
        assert_eq!(
            limits(r#"{"memory": {"limit": -2}}"#)
                .unwrap_err()
                .to_string(),
            "/b/config.json limits the memory to -2 bytes; give a positive number, or -1 for no limit"
        );
    }
}
