//! The driver of one container, from Create to Delete. This is the file to read.
//!
//! It is the only writer: it owns the container's processes, the init and the execs, takes one request at
//! a time, asks [`decide`] what to do about it, and does it. Others hold a
//! [`Container`](crate::container::Container).
//!
//! Events are queued in this order: TaskCreate before the container can be asked for anything, TaskStart
//! before the guest is released, TaskExit once, when its thread is gone, its output is with the client and
//! its exit is on disk; who waits for the exit is woken after that. For an exec it is the same with
//! TaskExecAdded and TaskExecStarted, and its TaskExit comes before the init's, which is the container's
//! last: when the init's guest has ended, all execs are ended, and from there on [`may_exec`] lets no
//! other in.
//!
//! A client may take its time with the last output of a terminal, and a logger with its end. The driver
//! waits for neither: a process is [`PhaseKind::Ending`] meanwhile, and others are driven on.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::announcer::Announcer;
use crate::ask::Ask;
use crate::container::exec_name;
use crate::exec::{Execs, Newborn, Reservation, Reservations};
use crate::lifecycle::{
    Effect, Exit, PhaseKind, Refusal, Request, Signal, Verdict, decide, may_exec,
};
use crate::place::Place;
use crate::placement::Placement;
use crate::process::{Happening, Process, Snapshot};
use crate::recover::ExitRecord;
use crate::stdio::Holds;

/// Owns the container.
pub(crate) struct Driver {
    id: String,
    bundle: PathBuf,
    init: Process,
    execs: HashMap<String, Process>,
    reservations: Reservations,
    /// Until the end of the init; none for a sandbox.
    place: Option<Arc<Place>>,
    tell: Announcer,
    placement: Placement,
    /// The execs, as others see them.
    seen: watch::Sender<Execs>,
}

impl Driver {
    /// The driver of a container whose init is parked, and its execs, of which there are none yet.
    pub(crate) fn new(
        id: String,
        bundle: PathBuf,
        init: Process,
        place: Option<Arc<Place>>,
        tell: Announcer,
        placement: Placement,
    ) -> (Self, watch::Receiver<Execs>) {
        let (seen, execs) = watch::channel(Execs::default());
        let driver = Self {
            id,
            bundle,
            init,
            execs: HashMap::new(),
            reservations: Reservations::default(),
            place,
            tell,
            placement,
            seen,
        };
        (driver, execs)
    }

    /// Drives until the container is deleted. A panic is a bug that ends the container: its processes
    /// have exits then, and it can be deleted.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Ask>) {
        // What a panic leaves half done is thrown away: every process is ended.
        while AssertUnwindSafe(self.drive(&mut requests))
            .catch_unwind()
            .await
            .is_err()
        {
            log::error!(
                "container {} ends: its driver panicked, a bug of the shim",
                self.id
            );
            self.lose().await;
        }
    }

    async fn drive(&mut self, requests: &mut mpsc::Receiver<Ask>) {
        loop {
            let ask = tokio::select! {
                biased;
                (exec, what) = self.next() => {
                    self.happened(exec, what).await;
                    continue;
                }
                ask = requests.recv() => match ask {
                    Some(ask) => ask,
                    // The shim gives the container up: a thread that runs ends with the process.
                    None => return,
                },
            };
            // A client that has gone away does not mind that nobody listens to the answer.
            match ask {
                Ask::Lifecycle {
                    exec,
                    request,
                    reply,
                } => {
                    let answer = self.lifecycle(exec.as_deref(), request).await;
                    if request != Request::Delete || answer.is_err() {
                        drop(reply.send(answer));
                        continue;
                    }
                    let mut holds = self.forget(exec.as_deref());
                    if exec.is_some() {
                        tokio::spawn(async move {
                            holds.end().await;
                            drop(reply.send(answer));
                        });
                        continue;
                    }
                    holds.end().await;
                    // Before the reply: who is told that it is gone shall not reach it any more.
                    requests.close();
                    drop(reply.send(answer));
                    return;
                }
                #[cfg(test)]
                Ask::Panic => panic!("a bug"),
                Ask::KillAll { signal, reply } => {
                    drop(reply.send(self.kill_all(signal).await));
                }
                Ask::CloseStdin { exec, reply } => {
                    let process = self.process(exec.as_deref());
                    drop(reply.send(process.map(|process| process.holds.close_stdin())));
                }
                Ask::Reserve { id, reply } => {
                    drop(reply.send(self.reserve(&id)));
                }
                Ask::Add { exec, reply } if reply.is_closed() => exec.thread.discard().await,
                Ask::Add { exec, reply } => {
                    drop(reply.send(self.add(*exec).await));
                }
            }
        }
    }

    /// What happens next to which process. Execs come first: one that ends at the same time as the init
    /// has ended by itself.
    async fn next(&mut self) -> (Option<String>, Happening) {
        poll_fn(|cx| {
            for (id, exec) in &mut self.execs {
                if let Poll::Ready(what) = exec.poll(cx) {
                    return Poll::Ready((Some(id.clone()), what));
                }
            }
            // The init has its exit after all execs have theirs.
            if self.init.kind() == PhaseKind::Ending && !self.is_alone() {
                return Poll::Pending;
            }
            self.init.poll(cx).map(|what| (None, what))
        })
        .await
    }

    async fn happened(&mut self, exec: Option<String>, what: Happening) {
        match (exec, what) {
            (exec, Happening::Typed(signal)) => {
                if let Ok(process) = self.process(exec.as_deref()) {
                    if signal.effect(process.manner()) == Effect::Drain {
                        process.drain(signal);
                    } else {
                        process.kill(signal);
                    }
                }
            }
            (Some(_), Happening::Ended) => {}
            (None, Happening::Ended) => self.end_execs().await,
            (Some(id), Happening::Exited(exit)) => self.exit_exec(&id, exit).await,
            (None, Happening::Exited(exit)) => self.exit(exit).await,
        }
    }

    /// Decides and carries out. The last snapshot is the answer, also when there is nothing to do.
    async fn lifecycle(&mut self, exec: Option<&str>, request: Request) -> Result<Snapshot, Error> {
        let process = self.process(exec)?;
        let verdict = decide(process.kind(), request);
        if exec.is_some() && verdict == Verdict::Do && request == Request::Start {
            may_exec(self.init.kind()).map_err(|refusal| self.refused(None, refusal))?;
        }
        match verdict {
            Verdict::Do => self.carry_out(exec, request).await,
            Verdict::Ignore => Ok(self.process(exec)?.snapshot()),
            Verdict::Refuse(refusal) => Err(self.refused(exec, refusal)),
        }
    }

    /// Does what was decided; the pair of phase and request is a legal one.
    async fn carry_out(&mut self, exec: Option<&str>, request: Request) -> Result<Snapshot, Error> {
        match request {
            Request::Start => self.start(exec).await?,
            Request::Kill(signal) => match signal.effect(self.process(exec)?.manner()) {
                Effect::Drain => self.process(exec)?.drain(signal),
                Effect::End => {
                    self.process(exec)?.kill(signal);
                    self.discard(exec, signal).await?;
                }
                Effect::Pause => self.pause(exec, true).await?,
                Effect::Resume => self.pause(exec, false).await?,
                Effect::Nothing => {}
            },
            Request::Pause => self.pause(exec, true).await?,
            Request::Resume => self.pause(exec, false).await?,
            Request::Delete => self.discard(exec, Signal::KILL).await?,
        }
        Ok(self.process(exec)?.snapshot())
    }

    async fn start(&mut self, exec: Option<&str>) -> Result<(), Error> {
        let pid = self.process(exec)?.pid;
        self.tell.started(exec, pid).await;
        self.process(exec)?.release();
        Ok(())
    }

    /// An exec alone, or the container with all its execs. There are events for the latter only.
    async fn pause(&mut self, exec: Option<&str>, paused: bool) -> Result<(), Error> {
        self.process(exec)?.stop(paused);
        if exec.is_some() {
            return Ok(());
        }
        for exec in self.execs.values_mut() {
            exec.freeze(paused);
        }
        self.tell.paused(paused).await;
        Ok(())
    }

    /// The init decides about the answer; an exec that has nothing to do for the signal does not matter.
    async fn kill_all(&mut self, signal: Signal) -> Result<(), Error> {
        let request = Request::Kill(signal);
        if let Verdict::Refuse(refusal) = decide(self.init.kind(), request) {
            return Err(self.refused(None, refusal));
        }
        let execs: Vec<_> = self.execs.keys().cloned().collect();
        for exec in execs {
            drop(self.lifecycle(Some(&exec), request).await);
        }
        self.lifecycle(None, request).await.map(drop)
    }

    fn reserve(&mut self, id: &str) -> Result<(Reservation, Arc<Place>), Error> {
        may_exec(self.init.kind()).map_err(|refusal| self.refused(None, refusal))?;
        let place = self.place.as_ref().map(Arc::clone);
        let place = place.ok_or_else(|| self.refused(None, Refusal::NoHome))?;
        let free = !self.execs.contains_key(id);
        let reserved = free.then(|| self.reservations.reserve(id)).flatten();
        let reserved = reserved.ok_or_else(|| Error::AlreadyExists {
            id: exec_name(&self.id, id),
        })?;
        Ok((reserved, place))
    }

    /// Takes over an exec, unless the container has ended, or was paused, meanwhile.
    async fn add(&mut self, exec: Newborn) -> Result<(), Error> {
        if let Err(refusal) = may_exec(self.init.kind()) {
            exec.thread.discard().await;
            return Err(self.refused(None, refusal));
        }
        let Newborn {
            id,
            stdio,
            holds,
            thread,
            reservation,
        } = exec;
        // Here, where the container cannot go meanwhile, and its cgroup with it.
        self.placement.enlist(&self.id, thread.pid()).await;
        let (process, view) = Process::new(&id, stdio, thread, holds);
        self.tell.added(&id).await;
        self.execs.insert(id.clone(), process);
        self.seen
            .send_modify(|seen| drop(seen.by_id.insert(id, Arc::new(view))));
        drop(reservation);
        Ok(())
    }

    /// Ends a process whose guest never ran; all others are left as they are.
    async fn discard(&mut self, exec: Option<&str>, signal: Signal) -> Result<(), Error> {
        let Some(exit) = self.process(exec)?.discard(signal).await else {
            return Ok(());
        };
        if let Some(id) = exec {
            self.exit_exec(id, exit).await;
            return Ok(());
        }
        self.end_execs().await;
        while !self.is_alone() {
            let (exec, what) = self.next().await;
            self.happened(exec, what).await;
        }
        self.exit(exit).await;
        Ok(())
    }

    /// Sees to it that all execs end: all at once, and then those that never ran one after the other.
    async fn end_execs(&mut self) {
        for exec in self.execs.values_mut() {
            exec.kill(Signal::KILL);
        }
        let execs: Vec<_> = self.execs.keys().cloned().collect();
        for id in execs {
            let exec = self.execs.get_mut(&id);
            if let Some(exec) = exec
                && let Some(exit) = exec.discard(Signal::KILL).await
            {
                self.exit_exec(&id, exit).await;
            }
        }
    }

    /// The init has its exit, as its execs have theirs.
    async fn exit(&mut self, exit: Exit) {
        if let Some(place) = self.place.take() {
            place.leave().await;
        }
        if let Err(error) = ExitRecord::new(self.init.pid, &exit).write(&self.bundle) {
            log::error!("cannot record the exit of container {}: {error}", self.id);
        }
        self.tell.exited(None, self.init.pid, &exit).await;
        self.init.bury(exit);
    }

    /// Ends what has no exit yet, the execs first. Nobody knows how it would have ended.
    async fn lose(&mut self) {
        let execs: Vec<_> = self.execs.keys().cloned().collect();
        for id in execs {
            if let Some(exit) = self.execs.get_mut(&id).and_then(Process::lose) {
                self.exit_exec(&id, exit).await;
            }
        }
        if let Some(exit) = self.init.lose() {
            self.exit(exit).await;
        }
    }

    async fn exit_exec(&mut self, id: &str, exit: Exit) {
        let Some(exec) = self.execs.get_mut(id) else {
            return;
        };
        let pid = exec.pid;
        self.tell.exited(Some(id), pid, &exit).await;
        if let Some(exec) = self.execs.get_mut(id) {
            exec.bury(exit);
        }
    }

    /// Forgets a process that is deleted, and returns what there was of its streams.
    fn forget(&mut self, exec: Option<&str>) -> Holds {
        let Some(id) = exec else {
            return std::mem::take(&mut self.init.holds);
        };
        self.seen.send_modify(|seen| drop(seen.by_id.remove(id)));
        let process = self.execs.remove(id);
        process.map(|process| process.holds).unwrap_or_default()
    }

    /// Whether all execs have their exits.
    fn is_alone(&self) -> bool {
        let mut execs = self.execs.values();
        execs.all(|exec| exec.kind() == PhaseKind::Stopped)
    }

    fn process(&mut self, exec: Option<&str>) -> Result<&mut Process, Error> {
        let Some(id) = exec else {
            return Ok(&mut self.init);
        };
        self.execs.get_mut(id).ok_or_else(|| Error::NotFound {
            id: exec_name(&self.id, id),
        })
    }

    fn refused(&self, exec: Option<&str>, refusal: Refusal) -> Error {
        let id = exec.map_or_else(|| self.id.clone(), |exec| exec_name(&self.id, exec));
        Error::Refused { id, refusal }
    }
}

#[cfg(test)]
mod tests;
