//! What the command line of `pack` asks for.

use std::ffi::OsString;
use std::path::PathBuf;

/// The command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Help,
    Pack(Box<Packing>),
}

/// An image to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packing {
    pub(super) wasm: PathBuf,
    pub(super) output: PathBuf,
    pub(super) shape: Shape,
    pub(super) name: String,
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) workdir: Option<String>,
}

/// How the wasm is in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A file in a tar layer.
    File,
    /// A layer under an OCI image config.
    Layer,
    /// The layer of a CNCF artifact.
    Artifact,
}

impl Request {
    pub(super) fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut words = words;
        let (mut wasm, mut output, mut name, mut platform, mut workdir) =
            (None, None, None, None, None);
        let (mut entrypoint, mut cmd, mut env) = (Vec::new(), Vec::new(), Vec::new());
        let mut shape = Shape::File;
        while let Some(word) = words.next() {
            let text = word.to_str().unwrap_or_default();
            if !text.starts_with('-') || text == "-" {
                if wasm.replace(PathBuf::from(&word)).is_some() {
                    return Err("pack takes one FILE; for several, compose them first".to_owned());
                }
                continue;
            }
            let (flag, inline) = match text.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                Some(_) | None => (text, None),
            };
            let mut value = || match inline.clone() {
                Some(value) => Ok(value),
                None => match words.next().map(OsString::into_string) {
                    Some(Ok(value)) => Ok(value),
                    Some(Err(value)) => Err(format!("{} is no UTF-8", value.display())),
                    None => Err(format!("flag needs a value: {flag}")),
                },
            };
            match flag {
                "-h" | "--help" => return Ok(Self::Help),
                "--artifact" | "--layer" if shape != Shape::File => {
                    return Err("--artifact and --layer are two shapes; choose one".to_owned());
                }
                "--artifact" => shape = Shape::Artifact,
                "--layer" => shape = Shape::Layer,
                "-o" | "--output" => output = Some(PathBuf::from(value()?)),
                "--name" => name = Some(value()?),
                "--platform" => platform = Some(value()?),
                "--workdir" => workdir = Some(value()?),
                "--entrypoint" => entrypoint.push(value()?),
                "--cmd" => cmd.push(value()?),
                "--env" => env.push(variable(value()?)?),
                flag => return Err(format!("pack has no flag {flag}; see pack --help")),
            }
        }
        let wasm = wasm.ok_or("pack needs a FILE; see pack --help")?;
        let output = output.ok_or("pack needs -o IMAGE.tar; see pack --help")?;
        let configured = !(entrypoint.is_empty() && cmd.is_empty() && env.is_empty());
        if shape == Shape::Artifact && (configured || workdir.is_some()) {
            return Err(
                "an artifact has no place for --entrypoint, --cmd, --env and --workdir; \
                 the pod says them, or take --layer"
                    .to_owned(),
            );
        }
        if shape == Shape::Artifact && platform.is_some() {
            return Err(
                "an artifact's platform is what its wasm is: leave --platform away, or take --layer"
                    .to_owned(),
            );
        }
        let file = wasm.file_name().and_then(|name| name.to_str());
        let file = file.ok_or_else(|| format!("{} has no name in UTF-8", wasm.display()))?;
        let (os, architecture) = split(platform.as_deref().unwrap_or("wasi/wasm"))?;
        if entrypoint.is_empty() {
            entrypoint.push(format!("/{file}"));
        }
        Ok(Self::Pack(Box::new(Packing {
            name: match name {
                Some(name) => complete(&name)?,
                None => format!("localhost/{}:latest", repository(file)),
            },
            wasm,
            output,
            shape,
            os,
            architecture,
            entrypoint,
            cmd,
            env,
            workdir,
        })))
    }
}

fn variable(text: String) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text),
        Some(_) | None => Err(format!("--env takes NAME=VALUE, and {text:?} is none")),
    }
}

fn split(platform: &str) -> Result<(String, String), String> {
    match platform.split('/').collect::<Vec<_>>()[..] {
        [
            os @ ("wasi" | "wasip1" | "wasip2"),
            architecture @ ("wasm" | "wasm32"),
        ] => Ok((os.to_owned(), architecture.to_owned())),
        _ => Err(format!(
            "{platform:?} is no platform of wasm; take wasi/wasm, wasip1/wasm or wasip2/wasm"
        )),
    }
}

/// A tag is what comes after the last colon behind the last slash. containerd asks for one.
fn complete(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("{name:?} is no name of an image"));
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    Ok(if last.contains([':', '@']) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    })
}

/// A repository has lower-case letters, digits and separators between them (OCI distribution-spec).
fn repository(file: &str) -> String {
    let stem = file.strip_suffix(".wasm").unwrap_or(file);
    let allowed = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9') => letter,
        _ => '-',
    };
    let name: String = stem.chars().map(allowed).collect();
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        "app".to_owned()
    } else {
        parts.join("-")
    }
}
