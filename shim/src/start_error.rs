//! What the shim's short runs say when they fail: `start`, `delete`, `compile`.

use std::io;

use crate::error::with_causes;

/// Why `start` or `delete` failed; printed on stderr, which containerd shows.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// containerd always sets it; without it no event can be published.
    #[error("TTRPC_ADDRESS is not set; this program is run by containerd")]
    NoEventsAddress,
    /// The cache cannot be bounded as the node's owner wants.
    #[error("{name} is {value:?}, which is no number of bytes")]
    CacheLimit {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// The bundle is unusable.
    #[error(transparent)]
    Bundle(#[from] wasi_bundles::Error),
    /// The host refused something.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The whole text: the failure and its causes.
    #[must_use]
    pub fn text(&self) -> String {
        with_causes(self)
    }
}
