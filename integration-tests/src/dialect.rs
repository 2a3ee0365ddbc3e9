//! The three ways in which containerd talks to `start`, and what it expects back.
//!
//! | containerd | stdin | reply |
//! |---|---|---|
//! | 1.6 | nothing | the bare address |
//! | 1.7 to 2.2 | a protobuf `Any` with the runtime's options, or nothing | the bare address, or JSON |
//! | 2.3 and newer | `BootstrapParams` | `BootstrapResult`; JSON and the bare address are still taken |

use anyhow::{Context as _, Result, bail};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use serde_json::Value;

/// One generation of containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// containerd 1.6.
    Bare,
    /// containerd 1.7 to 2.2.
    Options,
    /// containerd 2.3 and newer.
    Bootstrap,
}

/// Where a shim says that it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix://...`
    pub address: String,
    /// The version of the task API: 2 or 3.
    pub version: i32,
    /// Whether the reply was a `BootstrapResult`.
    pub as_protobuf: bool,
}

/// What containerd knows when it runs `start`.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) grpc: &'a str,
    pub(crate) ttrpc: &'a str,
    pub(crate) containerd: &'a str,
    pub(crate) options: Option<&'a Any>,
}

impl Dialect {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::Bare, Self::Options, Self::Bootstrap];

    /// What `start` reads.
    pub(crate) fn stdin(self, call: &Call<'_>) -> Result<Vec<u8>> {
        let bytes = match self {
            Self::Bare => return Ok(Vec::new()),
            Self::Options => match call.options {
                Some(options) => options.write_to_bytes(),
                None => return Ok(Vec::new()),
            },
            Self::Bootstrap => {
                let mut params = BootstrapParams::new();
                call.id.clone_into(&mut params.instance_id);
                call.namespace.clone_into(&mut params.namespace);
                "2.3.4".clone_into(&mut params.containerd_version);
                call.ttrpc.clone_into(&mut params.containerd_ttrpc_address);
                call.grpc.clone_into(&mut params.containerd_grpc_address);
                call.containerd.clone_into(&mut params.containerd_binary);
                if let Some(options) = call.options {
                    let mut extension = containerd_shim_protos::bootstrap_api::Extension::new();
                    extension.value = Some(options.clone()).into();
                    params.extensions.push(extension);
                }
                params.write_to_bytes()
            }
        };
        bytes.context("encode what start reads")
    }

    /// Whether this generation sets `MAX_SHIM_VERSION`.
    pub(crate) fn sets_max_version(self) -> bool {
        self != Self::Bare
    }

    /// Reads the reply as this generation of containerd does.
    pub(crate) fn endpoint(self, reply: &[u8]) -> Result<Endpoint> {
        let text = String::from_utf8_lossy(reply);
        let bare = text.trim();
        if bare.starts_with("unix://") {
            return Ok(Endpoint {
                address: bare.to_owned(),
                version: 2,
                as_protobuf: false,
            });
        }
        match self {
            Self::Bare => bail!("containerd 1.6 understands a bare address only, not {text:?}"),
            Self::Options => {
                let json: Value =
                    serde_json::from_str(bare).with_context(|| format!("the reply {text:?}"))?;
                let address = json["address"]
                    .as_str()
                    .context("no address in the reply")?
                    .to_owned();
                let version = i32::try_from(json["version"].as_i64().unwrap_or_default())?;
                Ok(Endpoint {
                    address,
                    version,
                    as_protobuf: false,
                })
            }
            Self::Bootstrap => {
                let result = BootstrapResult::parse_from_bytes(reply)
                    .with_context(|| format!("the reply {text:?}"))?;
                if result.protocol != "ttrpc" || !result.address.starts_with("unix://") {
                    bail!("the reply {result:?}");
                }
                Ok(Endpoint {
                    address: result.address,
                    version: result.version,
                    as_protobuf: true,
                })
            }
        }
    }
}
