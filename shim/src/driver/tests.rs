use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::cgroup::Cgroups;
use crate::confine::idle;
use crate::events;
use crate::oom_score::OomScore;
use crate::stdio::{Owner, StdioPaths};

/// Only a hang takes it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Asks, and waits for the answer.
async fn ask(asks: &mpsc::Sender<Ask>, request: Request) -> Result<Snapshot, Error> {
    let (reply, answer) = oneshot::channel();
    let ask = Ask::Lifecycle {
        exec: None,
        request,
        reply,
    };
    asks.send(ask).await.ok().unwrap();
    answer.await.unwrap()
}

#[tokio::test]
async fn a_panic_ends_the_container_with_an_exit_and_it_can_be_deleted() {
    for started in [false, true] {
        let bundle = tempfile::tempdir().unwrap();
        let (publisher, _forwarder) = events::queue("/nowhere", "test");
        let thread = idle("lost").await;
        let fifo = bundle.path().join("stdout");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let mut reader = pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        let stdio = StdioPaths {
            stdout: fifo.display().to_string(),
            ..StdioPaths::default()
        };
        let owner = Owner {
            namespace: "test",
            id: "lost",
        };
        let (holds, guest) = stdio.open(owner, None).await.unwrap();
        drop(guest);
        let (init, view) = Process::new("lost", stdio, thread, holds);
        let (driver, _execs) = Driver::new(
            "lost".to_owned(),
            bundle.path().to_owned(),
            init,
            None,
            Announcer::new("lost", publisher),
            Placement::new(Cgroups::default(), OomScore::default()),
        );
        let (asks, requests) = mpsc::channel(1);
        let driven = tokio::spawn(driver.run(requests));
        if started {
            ask(&asks, Request::Start).await.unwrap();
        }
        asks.send(Ask::Panic).await.ok().unwrap();
        assert_eq!(view.exited().await.unwrap().status, 255);
        let record = std::fs::read_to_string(bundle.path().join("exit.json")).unwrap();
        assert!(record.contains("255"), "{record}");
        // Clients read to the end before they ask for this.
        let read = timeout(PATIENCE, reader.read(&mut [0])).await;
        assert_eq!(read.unwrap().unwrap(), 0);
        let deleted = ask(&asks, Request::Delete).await.unwrap();
        assert_eq!(deleted.exit.map(|exit| exit.status), Some(255));
        driven.await.unwrap();
    }
}
