//! What the container's log hears of deliveries that fail: the first one at once, then one in ten minutes, and that it
//! is over.

use std::time::{Duration, Instant};

/// How long nothing more is said.
const SILENCE: Duration = Duration::from_secs(600);

/// The deliveries to one collector.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// When something was said last, while they fail.
    said: Option<Instant>,
    /// How many have failed since the last one that did not.
    failed: u64,
}

impl Complaints {
    /// One has failed; what is to be said of it now.
    pub(super) fn failed(&mut self, now: Instant, what: &str) -> Option<String> {
        self.failed += 1;
        if self
            .said
            .is_some_and(|said| now.duration_since(said) < SILENCE)
        {
            return None;
        }
        self.said = Some(now);
        let count = match self.failed {
            1 => String::new(),
            count => format!(" ({count} times)"),
        };
        Some(format!("OpenTelemetry: {what}{count}\n"))
    }

    /// One has arrived; what is to be said of it.
    pub(super) fn arrived(&mut self, what: &str) -> Option<String> {
        self.failed = 0;
        let said = self.said.take();
        said.map(|_| format!("OpenTelemetry: {what}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_first_and_then_rarely() {
        let mut complaints = Complaints::default();
        let begun = Instant::now();
        assert_eq!(complaints.arrived("again"), None);
        let said = complaints.failed(begun, "cannot");
        assert_eq!(said.as_deref(), Some("OpenTelemetry: cannot\n"));
        for second in 1..600 {
            let now = begun + Duration::from_secs(second);
            assert_eq!(complaints.failed(now, "cannot"), None);
        }
        let said = complaints.failed(begun + SILENCE, "cannot");
        assert_eq!(said.as_deref(), Some("OpenTelemetry: cannot (601 times)\n"));
        let said = complaints.arrived("again");
        assert_eq!(said.as_deref(), Some("OpenTelemetry: again\n"));
        assert_eq!(complaints.arrived("again"), None);
        assert!(complaints.failed(begun + SILENCE, "cannot").is_some());
    }
}
