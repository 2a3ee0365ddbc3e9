//! `compile`: fills the cache by hand, so that no container waits for the compiler.
//!
//! It does to each file what a container's Create does, and nothing more: who may not write the
//! shim's cache cannot fill it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use wasi_runtime::{Origin, Progress};

use crate::programs::{CacheOptions, Programs, kind};

const HELP: &str = "\
Usage: containerd-shim-wasi-v1 compile [--cache DIR] [--wasi-0.3] FILE...

Compiles wasm files into the cache of the shim, so that the first container that runs one starts
as fast as all others. Run it as the user that containerd runs as (root).

  --cache DIR  another cache than the shim's, which is $CONTAINERD_SHIM_WASI_CACHE or
               /var/cache/containerd-shim-wasi
  --wasi-0.3   for containers with the annotation io.containerd.wasi.v1.wasi-0.3=on
  -h, --help   print this

The exit status is 1 if a file could not be compiled.
";
/// How often the bar is drawn, for its clock.
const TICK: Duration = Duration::from_millis(200);
/// The bar counts bytes of wasm in files that are done: how far the compiler is in one, it cannot say.
const BAR: &str =
    "{spinner} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {elapsed_precise} {wide_msg}";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Help,
    Compile {
        cache: Option<PathBuf>,
        wasi_0_3: bool,
        files: Vec<PathBuf>,
    },
}

/// Does what `words`, those after `compile`, ask for.
///
/// # Errors
///
/// Why nothing could be done at all. A file that could not be compiled is an exit code.
pub fn main(words: impl Iterator<Item = OsString>) -> Result<ExitCode, String> {
    let (cache, wasi_0_3, files) = match Request::parse(words)? {
        Request::Help => {
            return io::stdout()
                .write_all(HELP.as_bytes())
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| format!("cannot print the help: {error}"));
        }
        Request::Compile {
            cache,
            wasi_0_3,
            files,
        } => (cache, wasi_0_3, files),
    };
    let mut options = CacheOptions::from_environment().map_err(|error| error.text())?;
    if let Some(folder) = cache {
        options.folder = folder;
    }
    let program =
        std::env::current_exe().map_err(|error| format!("cannot find its own program: {error}"))?;
    let programs = Programs::new(&program, options);
    // A cache that cannot be used is said once, not once for each file.
    programs.engine_and_cache().map_err(|error| error.text())?;
    warm(&programs, wasi_0_3, &files)
}

impl Request {
    fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut words = words.peekable();
        let (mut cache, mut wasi_0_3) = (None, false);
        while let Some(word) = words.next_if(|word| word.as_encoded_bytes().starts_with(b"-")) {
            match word.to_str() {
                Some("-h" | "--help") => return Ok(Self::Help),
                Some("--cache") => {
                    let folder = words.next().ok_or("flag needs a value: --cache")?;
                    cache = Some(folder.into());
                }
                Some(word) if word.starts_with("--cache=") => {
                    cache = Some(word["--cache=".len()..].into());
                }
                Some("--wasi-0.3") => wasi_0_3 = true,
                Some("--") => break,
                _ => return Err(format!("compile has no flag {}", word.display())),
            }
        }
        let files: Vec<PathBuf> = words.map(PathBuf::from).collect();
        if files.is_empty() {
            return Err("compile needs a FILE; see compile --help".to_owned());
        }
        Ok(Self::Compile {
            cache,
            wasi_0_3,
            files,
        })
    }
}

fn warm(programs: &Programs, wasi_0_3: bool, files: &[PathBuf]) -> Result<ExitCode, String> {
    let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    // Draws to stderr, and nothing at all where that is no terminal.
    let bar = ProgressBar::new(files.iter().map(size).sum());
    let style = ProgressStyle::with_template(BAR).expect("the template is a constant");
    bar.set_style(style.progress_chars("=> "));
    bar.enable_steady_tick(TICK);
    let mut code = ExitCode::SUCCESS;
    for path in files {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let compiled = compile((programs, wasi_0_3), path, &bar, name);
        bar.inc(size(path));
        let told = bar.suspend(|| match compiled {
            Ok(done) => writeln!(io::stdout(), "{}: {done}", path.display()),
            Err(reason) => {
                code = ExitCode::FAILURE;
                writeln!(io::stderr(), "{}: {reason}", path.display())
            }
        });
        told.map_err(|error| format!("cannot say what was done: {error}"))?;
    }
    bar.finish_and_clear();
    Ok(code)
}

/// Loads one file; what happened, or why nothing did.
fn compile(
    (programs, wasi_0_3): (&Programs, bool),
    path: &Path,
    bar: &ProgressBar,
    name: &OsStr,
) -> Result<String, String> {
    let name = name.display();
    // Opening a fifo would wait for its writer.
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let (_, cache) = programs.engine_and_cache().map_err(|error| error.text())?;
    let engine = programs.engine_for(kind(&file), wasi_0_3);
    let engine = engine.map_err(|error| error.text())?;
    bar.set_message(name.to_string());
    let loaded = cache
        .load_watched(engine, &file, &mut |progress| match progress {
            Progress::Waiting => {
                bar.set_message(format!("{name} (another process compiles it)"));
            }
            Progress::Compiling { elapsed, .. } => {
                bar.set_message(format!("{name} (since {}s)", elapsed.as_secs()));
            }
        })
        .map_err(|error| with_source(&error))?;
    Ok(match loaded.origin {
        Origin::Mapped => "already there".to_owned(),
        Origin::Compiled {
            took,
            replaced: None,
        } => format!("compiled in {took:.1?}"),
        Origin::Compiled {
            took,
            replaced: Some(damage),
        } => format!("compiled again in {took:.1?}: its entry was damaged: {damage}"),
    })
}

/// An error of the runtime has one cause at most.
fn with_source(error: &wasi_runtime::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, String> {
        Request::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn files_and_a_cache_are_understood() {
        let request = |cache: Option<&str>, files: &[&str]| Request::Compile {
            cache: cache.map(PathBuf::from),
            wasi_0_3: false,
            files: files.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(parse("a.wasm b").unwrap(), request(None, &["a.wasm", "b"]));
        assert_eq!(parse("--cache /c a").unwrap(), request(Some("/c"), &["a"]));
        assert_eq!(parse("--cache=/c a").unwrap(), request(Some("/c"), &["a"]));
        let new = Request::Compile {
            cache: None,
            wasi_0_3: true,
            files: vec!["a".into()],
        };
        assert_eq!(parse("--wasi-0.3 a").unwrap(), new);
        assert_eq!(parse("-- -a").unwrap(), request(None, &["-a"]));
        assert_eq!(parse("--help").unwrap(), Request::Help);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(
            parse("").unwrap_err(),
            "compile needs a FILE; see compile --help"
        );
        assert_eq!(parse("--cache").unwrap_err(), "flag needs a value: --cache");
        assert_eq!(parse("--fast a").unwrap_err(), "compile has no flag --fast");
    }
}
