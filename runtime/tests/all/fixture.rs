//! A private cache and engine, and guests that run on a thread of their own.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use wasi_runtime::{
    Artifact, Cache, Compiler, Engine, Error, Guest, Interrupter, Loaded, Outcome, Output, Prepared,
};

use crate::locate;

/// How long a guest may take to end before the test fails. Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every engine loads beside its programs.
const LANDING: &str = "(module (func unreachable))";

/// An engine, and a cache in a temporary folder.
pub(crate) struct Fixture {
    pub(crate) engine: Engine,
    folder: TempDir,
    compiler: PathBuf,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_compiler(locate::compiler())
    }

    /// Guests look for interruptions themselves, as everywhere but on x86-64.
    pub(crate) fn with_epochs() -> Self {
        let mut fixture = Self::new();
        fixture.engine = Engine::with_epochs().unwrap();
        fixture
    }

    pub(crate) fn with_compiler(compiler: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("cache")).unwrap();
        let fixture = Self {
            engine: Engine::new().unwrap(),
            folder,
            compiler,
        };
        fixture.permit(0o700);
        fixture
    }

    /// A compiler that is a shell script; `$REAL` is the real one, `$HERE` a folder to write to, and
    /// `$1` the digest.
    pub(crate) fn with_script(script: &str) -> Self {
        let mut fixture = Self::new();
        // What the engine itself needs, by the real compiler.
        fixture.wat(LANDING);
        let path = fixture.path("compiler.sh");
        let real = locate::compiler();
        let here = fixture.folder.path().display();
        let text = format!(
            "#!/bin/sh\nREAL='{}'\nHERE='{here}'\n{script}\n",
            real.display()
        );
        // Written by a child: a descriptor of ours, open for writing while another test's thread
        // forks, would make it "text file busy".
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", r#"printf %s "$1" > "$2" && chmod 755 "$2""#, "sh"])
            .args([OsString::from(text), path.clone().into()])
            .status()
            .unwrap();
        assert!(status.success());
        fixture.compiler = path;
        fixture
    }

    /// A path beside the cache folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn permit(&self, mode: u32) {
        std::fs::set_permissions(self.path("cache"), Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn open_cache(&self) -> Result<Cache, Error> {
        let folder = open_folder(&self.path("cache"));
        Cache::new(folder, Compiler::new(self.compiler.clone()))
    }

    pub(crate) fn load(&self, wasm: &[u8]) -> Result<Loaded, Error> {
        self.open_cache()
            .unwrap()
            .load(&self.engine, &wasm_file(wasm))
    }

    /// The artifact of a program in the text format.
    pub(crate) fn wat(&self, text: &str) -> Artifact {
        self.artifact(&wat::parse_str(text).unwrap())
    }

    pub(crate) fn artifact(&self, wasm: &[u8]) -> Artifact {
        self.load(wasm).unwrap().artifact
    }

    /// The artifact of a guest that integration-tests builds.
    pub(crate) fn real(&self, name: &str) -> Artifact {
        let path = locate::built(&format!("guests/{name}"), "make guests");
        self.artifact(&std::fs::read(path).unwrap())
    }

    /// The same for a guest of WASI 0.3, on an engine for those.
    pub(crate) fn asynchronous(&self, name: &str) -> Artifact {
        let path = locate::built(&format!("guests/{name}"), "make guests");
        self.load_on(
            &Engine::with_wasi_0_3().unwrap(),
            &std::fs::read(path).unwrap(),
        )
    }

    /// The artifact of a program, on another engine than the fixture's.
    pub(crate) fn load_on(&self, engine: &Engine, wasm: &[u8]) -> Artifact {
        let cache = self.open_cache().unwrap();
        cache.load(engine, &wasm_file(wasm)).unwrap().artifact
    }

    /// Runs a program in the text format to its end.
    pub(crate) fn run(&self, text: &str, guest: Guest) -> Ran {
        start(&self.wat(text), guest).end()
    }

    /// Where the entry of `wasm` is, or would be.
    pub(crate) fn entry_of(&self, wasm: &[u8]) -> PathBuf {
        let name = format!(
            "{}-{}.cwasm",
            digest(wasm),
            wasi_settings::fingerprint(wasi_settings::Interruption::BEST)
        );
        self.path("cache").join(name)
    }

    /// The names in the cache folder, sorted, but for the landing, which the engine itself needs.
    pub(crate) fn entries(&self) -> Vec<String> {
        let landing = digest(&wat::parse_str(LANDING).unwrap());
        let names = std::fs::read_dir(self.path("cache")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with(&landing)).collect();
        names.sort();
        names
    }

    /// The path of the only entry.
    pub(crate) fn entry(&self) -> PathBuf {
        let names = self.entries();
        assert_eq!(names.len(), 1, "one entry was expected: {names:?}");
        self.path("cache").join(&names[0])
    }
}

/// A SHA-256 in hexadecimal.
pub(crate) fn digest(wasm: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(wasm);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An open file with `wasm` in it.
pub(crate) fn wasm_file(wasm: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(wasm).unwrap();
    file
}

pub(crate) fn open_folder(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// Only `args`, the first being the program's name.
pub(crate) fn args<const N: usize>(args: [&str; N]) -> Guest {
    Guest {
        args: args.map(str::to_owned).to_vec(),
        ..Guest::default()
    }
}

/// A guest that runs.
pub(crate) struct Running {
    pub(crate) interrupter: Interrupter,
    outcome: Receiver<Outcome>,
    thread: JoinHandle<()>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
}

/// How a guest ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `artifact` with pipes for stdout and stderr that are read to their end.
pub(crate) fn start(artifact: &Artifact, mut guest: Guest) -> Running {
    let (stdout, stderr) = (Reader::new(), Reader::new());
    guest.stdout = stdout.output();
    guest.stderr = stderr.output();
    let mut running = run(artifact.prepare(guest).unwrap());
    running.stdout = Some(stdout.begin());
    running.stderr = Some(stderr.begin());
    running
}

/// Polls `prepared` on a thread of its own.
pub(crate) fn run(mut prepared: Prepared) -> Running {
    let interrupter = prepared.interrupter();
    for worker in prepared.workers() {
        std::thread::spawn(move || runtime().block_on(worker.run()));
    }
    let (sender, outcome) = channel();
    let thread = std::thread::Builder::new().name("guest".to_owned());
    let thread = thread.spawn(move || {
        let outcome = runtime().block_on(prepared.run());
        sender.send(outcome).unwrap();
    });
    let thread = thread.unwrap();
    Running {
        interrupter,
        outcome,
        thread,
        stdout: None,
        stderr: None,
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

impl Running {
    /// Waits until the guest has written a line, and returns it.
    pub(crate) fn line(&self) -> String {
        let reader = self.stdout.as_ref().unwrap();
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let chunk = reader.chunks.recv_timeout(PATIENCE);
            line.extend(chunk.expect("the guest writes a line"));
        }
        String::from_utf8(line).unwrap()
    }

    pub(crate) fn kill(self) -> Ran {
        self.interrupter.kill();
        self.end()
    }

    /// Waits for the end.
    pub(crate) fn end(self) -> Ran {
        let outcome = self.outcome.recv_timeout(PATIENCE);
        let outcome = outcome.expect("the guest ends (it hangs, or its thread panicked)");
        self.thread.join().unwrap();
        Ran {
            outcome,
            stdout: self.stdout.map(Reader::rest).unwrap_or_default(),
            stderr: self.stderr.map(Reader::rest).unwrap_or_default(),
        }
    }
}

impl Ran {
    /// What it wrote to stdout, having returned.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.outcome, Outcome::Exited(0), "{self:?}");
        self.stdout
    }

    /// The trace, which has to be on stderr, too.
    #[track_caller]
    pub(crate) fn trace(&self) -> &str {
        let Outcome::Trapped { trace } = &self.outcome else {
            panic!("a trap was expected: {self:?}");
        };
        assert!(self.stderr.ends_with(trace), "not on stderr: {self:?}");
        trace
    }
}

/// A pipe, read by a thread.
struct Reader {
    ours: Option<File>,
    theirs: Option<OwnedFd>,
    chunks: Receiver<Vec<u8>>,
}

impl Reader {
    fn new() -> Self {
        let (ours, theirs) = pipe();
        Self {
            ours: Some(ours.into()),
            theirs: Some(theirs),
            chunks: channel().1,
        }
    }

    fn output(&self) -> Output {
        let theirs = self.theirs.as_ref().unwrap();
        Output::from_fd(theirs.try_clone().unwrap()).unwrap()
    }

    fn begin(mut self) -> Self {
        self.theirs = None;
        let mut file = self.ours.take().unwrap();
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = file.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { chunks, ..self }
    }

    fn rest(self) -> String {
        String::from_utf8(self.chunks.iter().flatten().collect()).unwrap()
    }
}

/// A pipe: what reads, what writes.
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}
