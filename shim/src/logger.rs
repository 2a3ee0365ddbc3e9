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
        let message = record.args().to_string();
        // Poisoned by a panic between two writes, the file is as good as before.
        let mut fifo = self
            .fifo
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Within the lock, so that one line tells of a gap, and no two.
        let missing = self.dropped.load(Relaxed);
        let gap = if missing > 0 {
            format!(" missing={missing}")
        } else {
            String::new()
        };
        let mut line = format!(
            "level={} runtime=io.containerd.wasi.v1{gap} msg={message:?}",
            record.level().as_str().to_lowercase(),
        );
        line.truncate(line.floor_char_boundary(MAX_LINE - 1));
        line.push('\n');
        if fifo.write_all(line.as_bytes()).is_ok() {
            self.dropped.fetch_sub(missing, Relaxed);
        } else {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn say(logger: &FifoLogger, message: &str) {
        logger.log(
            &Record::builder()
                .target("containerd_shim_wasi")
                .args(format_args!("{message}"))
                .build(),
        );
    }

    #[test]
    fn one_line_tells_how_many_are_missing() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut full = File::from(OwnedFd::from(writer));
        while full.write(&[b'.'; MAX_LINE]).is_ok() {}
        let logger = FifoLogger {
            fifo: Mutex::new(full),
            dropped: AtomicU64::new(0),
        };
        (0..3).for_each(|_| say(&logger, "lost"));
        // A pipe has room for 16 of these.
        reader.read_exact(&mut vec![0; 16 * MAX_LINE]).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| say(&logger, "kept"));
            }
        });
        drop(logger);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches("msg=\"kept\"").count(), 8, "{text}");
        assert_eq!(text.matches(" missing=3 ").count(), 1, "{text}");
        assert_eq!(text.matches("missing").count(), 1, "{text}");
    }
}
