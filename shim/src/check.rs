//! `check`: what a node lacks to run wasm containers, and how to mend it.
//!
//! `probes` finds the facts, `findings` says what they mean.

mod findings;
mod probes;
mod request;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use self::findings::{Facts, Grade};
use self::request::{HELP, Request};

/// Does what `words`, those after `check`, ask for. Something missing is exit code 1.
///
/// # Errors
///
/// A command line that does not fit, or an output that cannot be written.
pub fn main(words: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    let Some(request) = Request::parse(words)? else {
        return say(HELP).map(|()| ExitCode::SUCCESS);
    };
    let findings = Facts::of(&request).findings(&request.runtime_name);
    for finding in &findings {
        say(&format!("{finding}\n"))?;
    }
    let is_missing = findings
        .iter()
        .any(|finding| finding.grade == Grade::Missing);
    Ok(if is_missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn say(text: &str) -> Result<(), String> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("cannot say what was found: {error}"))
}
