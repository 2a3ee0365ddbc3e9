//! `pack`: makes an image of a wasm file, without a registry, a daemon or a Dockerfile.
//!
//! What comes out is an OCI layout in a tar (`layout.rs`), which `ctr image import`, `podman load`, `skopeo` and
//! `docker load` take. The same input makes the same bytes: there is no time and no user in it.

mod layout;
mod request;
mod world;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use self::layout::Layout;
use self::request::{Packing, Request};

const HELP: &str = "\
Usage: containerd-shim-wasi-v1 pack [OPTION...] FILE -o IMAGE.tar

Makes an image of a wasm file: an OCI layout in a tar, which `ctr image import` takes.

  -o, --output FILE    the tar; - for stdout
  --name REFERENCE     the image's name; localhost/FILE:latest by default
  --platform OS/ARCH   wasi/wasm by default; wasip1/wasm, wasip2/wasm
  --entrypoint WORD    what is run, once for each word; /FILE by default
  --cmd WORD           default arguments, once for each
  --env NAME=VALUE     once for each variable
  --workdir PATH       the working directory
  --layer              the wasm as a layer of its own (application/wasm) and not as a file: runs with
                       containerd 1.6.25, 1.7.7 and newer
  --artifact           the CNCF's wasm artifact, which registries and wkg know: runs under Kubernetes,
                       in pods that say `command`
  -h, --help           print this
";
const BAR: &str = "[{bar:30}] {binary_bytes} of {binary_total_bytes} {msg}";

/// Does what `words`, those after `pack`, ask for.
///
/// # Errors
///
/// Why there is no image; nothing is left of it then.
pub fn main(words: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    let packing = match Request::parse(words)? {
        Request::Help => {
            let printed = io::stdout().write_all(HELP.as_bytes());
            printed.map_err(|error| format!("cannot print the help: {error}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Request::Pack(packing) => packing,
    };
    let told = pack(&packing)?;
    let printed = writeln!(io::stderr(), "{told}");
    printed.map_err(|error| format!("cannot say what was done: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

fn pack(packing: &Packing) -> Result<String, String> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template(BAR).expect("the template is a constant");
    bar.set_style(style.progress_chars("=> "));
    // Twice: to know its digest, and to write it behind its digest.
    bar.set_message("hashing");
    let progress = |bytes| bar.inc(bytes);
    let layout = Layout::of(packing, &|size| bar.set_length(2 * size), &progress)?;
    bar.set_message("writing");
    if packing.output == Path::new("-") {
        layout.write(&mut BufWriter::new(io::stdout().lock()), &progress)?;
    } else {
        // A tar that has its name is whole.
        let partial = partial(&packing.output);
        let written = File::create(&partial)
            .map_err(|error| format!("cannot create {}: {error}", partial.display()))
            .and_then(|file| {
                let mut file = BufWriter::new(file);
                layout.write(&mut file, &progress)
            })
            .and_then(|()| {
                let renamed = fs::rename(&partial, &packing.output);
                renamed
                    .map_err(|error| format!("cannot make {}: {error}", packing.output.display()))
            });
        if let Err(reason) = written {
            drop(fs::remove_file(&partial));
            return Err(reason);
        }
    }
    bar.finish_and_clear();
    Ok(format!(
        "{} is {}",
        packing.output.display(),
        layout.summary()
    ))
}

fn partial(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[cfg(test)]
mod tests;
