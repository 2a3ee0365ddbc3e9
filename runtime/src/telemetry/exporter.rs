//! The thread that tells collectors: born of the guest's, and gone before it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::courier::Courier;
use super::{Sources, Telemetry};
use crate::tls::Trust;
use crate::{Budget, Network, Output};

/// What deliveries are made with, and by whose leave.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) network: Arc<Network>,
    pub(crate) trust: Trust,
    pub(crate) stderr: Output,
    pub(crate) budget: Budget,
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Exporter {
    /// Whether to tell what is left and end; dropped to end at once.
    order: Option<watch::Sender<bool>>,
    /// An error when it has ended.
    over: oneshot::Receiver<Infallible>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Begins to tell, by a thread that is born of the calling one. A lack of threads is told on the guest's stderr,
    /// and nothing else then.
    pub(crate) fn begin(telemetry: Telemetry, sources: Arc<Sources>, means: Means) -> Option<Self> {
        let stderr = means.stderr.clone();
        for warning in &telemetry.warnings {
            say(&stderr, &format!("OpenTelemetry: {warning}\n"));
        }
        let courier = Courier::new(telemetry, sources, means);
        match Self::start(courier) {
            Ok(exporter) => Some(exporter),
            Err(error) => {
                let line =
                    format!("OpenTelemetry: cannot start its thread, all is lost: {error}\n");
                say(&stderr, &line);
                None
            }
        }
    }

    fn start(mut courier: Courier) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // One looks up names.
            .max_blocking_threads(1)
            .build()?;
        let (order, orders) = watch::channel(false);
        let (ended, over) = oneshot::channel();
        let thread = std::thread::Builder::new().name("wasi-telemetry".to_owned());
        let thread = thread.spawn(move || {
            let counted = Counted::new(courier.means.budget.clone());
            runtime.block_on(courier.work(orders));
            // A name that is still looked up is waited for by nobody.
            runtime.shutdown_background();
            drop((counted, ended));
        })?;
        Ok(Self {
            order: Some(order),
            over,
            thread: Some(thread),
        })
    }

    /// Tells what is left and ends, or ends without after [`Traces::flush`] or 2 s. When this is dropped before, it
    /// ends at once.
    pub(crate) async fn finish(mut self) {
        if let Some(order) = &self.order {
            order.send_replace(true);
        }
        // Never a value.
        let _ = (&mut self.over).await;
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.order = None;
        if let Some(thread) = self.thread.take() {
            // At once. It must be gone before the guest's thread, whose namespaces it is in.
            drop(thread.join());
        }
    }
}

/// While it lives, the processor time of its thread is the budget's.
struct Counted(Budget);

impl Counted {
    fn new(budget: Budget) -> Self {
        budget.thread_begins();
        Self(budget)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.thread_ends();
    }
}

pub(super) fn say(stderr: &Output, line: &str) {
    // Who does not read it will not miss it.
    let _ = stderr.say_now(line.as_bytes());
}
