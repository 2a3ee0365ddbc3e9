//! The shim's log: lines into the bundle's `log` fifo, which containerd copies to its own log.
//!
//! The fifo is opened for reading and writing, so that opening never waits and writing never meets a
//! broken pipe while containerd restarts; what is written meanwhile it finds when it is back. A fifo
//! that nobody empties takes 64 KiB; what comes then is dropped, because a shim that waits for its
//! log is worse than a gap in it. The next line that fits says how many lines are missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use log::{LevelFilter, Log, Metadata, Record};

/// A line longer than `PIPE_BUF` could be torn by a full pipe.
const MAX_LINE: usize = 4096;

struct FifoLogger {
    fifo: Mutex<File>,
    dropped: AtomicU64,
}

/// Sends the `log` macros, and panics, to the fifo `log` in `bundle`.
///
/// # Errors
///
/// When the fifo cannot be opened; nothing is logged then.
pub fn init(bundle: &Path, debug: bool) -> io::Result<()> {
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(bundle.join("log"))?;
    let logger = FifoLogger {
        fifo: Mutex::new(fifo),
        dropped: AtomicU64::new(0),
    };
    log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)?;
    log::set_max_level(if debug {
        LevelFilter::Debug
    } else {
        LevelFilter::Info
    });
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

impl Log for FifoLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The ttrpc crate reports every closed connection as an error.
        metadata.target().starts_with("containerd_shim_wasi")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let missing = self.dropped.load(Relaxed);
        let gap = if missing > 0 {
            format!(" missing={missing}")
        } else {
            String::new()
        };
        let message = record.args().to_string();
        let mut line = format!(
            "level={} runtime=io.containerd.wasi.v1{gap} msg={message:?}",
            record.level().as_str().to_lowercase(),
        );
        line.truncate(line.floor_char_boundary(MAX_LINE - 1));
        line.push('\n');
        // Poisoned by a panic between two writes, the file is as good as before.
        let mut fifo = self
            .fifo
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if fifo.write_all(line.as_bytes()).is_ok() {
            self.dropped.fetch_sub(missing, Relaxed);
        } else {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {}
}
