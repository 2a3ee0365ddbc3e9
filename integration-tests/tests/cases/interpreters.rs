//! Programs of docs/quickstart.md that bring their interpreter along: large components, whose program is an export.
//!
//! JavaScript takes packages of npm's registry, 400 MB of them, which is asked for by `make javascript`.

use anyhow::Result;
use integration_tests::containerd::Containerd;

use super::packing::{Packed, quickstart};

cases![python_of_the_quickstart_runs];

/// Those that `make javascript` adds.
pub(crate) const NPM: &[crate::Case] = &[(
    "javascript_of_the_quickstart_runs",
    javascript_of_the_quickstart_runs,
)];

fn python_of_the_quickstart_runs(containerd: &Containerd) -> Result<()> {
    let line = "hello from python\n";
    quickstart(containerd, "Python", &Packed::Export, "quick-python", line)
}

fn javascript_of_the_quickstart_runs(containerd: &Containerd) -> Result<()> {
    let line = "hello from javascript\n";
    quickstart(containerd, "JavaScript", &Packed::Export, "quick-js", line)
}
