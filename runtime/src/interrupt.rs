//! Stopping a guest from outside, whatever it does.
//!
//! A guest is a future that somebody polls. To pause it is to poll it no more; to kill it is to drop it,
//! too, which frees its stack and everything it held. A guest that is blocked in a host call is not
//! being polled: waking its task is enough. One that computes is inside of `poll`, and has to be made to
//! notice. There are two means:
//!
//! - the [`Fence`]: it cannot execute its next instruction, and waits in the fault's handler until it may
//!   go on, or goes on in code that traps. Costs nothing until it is used. (x86-64)
//! - the epoch: a counter that the guest's code looks at in each loop and function, and yields to the poll
//!   loop. (Everywhere.) One raise is not enough: a guest that yielded to a neighbour's order takes its
//!   next deadline from the epoch of the moment it goes on, and a raise just before that is lost.
//!
//! ```text
//!            pause            kill
//!  running ◄───────► paused ───────► killed (for good)
//!     └──────────────────────────────────▲
//! ```
//!
//! A CPU quota is another reason not to go on, beside a pause: a guest that is throttled stays so while it is
//! paused and resumed, and a kill ends it.
//!
//! A service has a switch for each of its threads, which is what is ordered about, and one below it for
//! each request, which can be killed alone: a guest of it stops for either.
//!
//! No order can be lost: it is stored, then the task is woken, then the means is used until the guest is
//! out of the poll, or held by the fence. Whoever begins a poll, or leaves a hold, says so first and looks
//! for orders after that; so either it sees the order, or who gave the order sees that it has to go on.

mod guarded;
mod switch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::watch;

use self::guarded::Guarded;
pub(crate) use self::switch::Switch;
use self::switch::{HELD, IN, KILL, PAUSE, THROTTLE};
use crate::engine::WasmtimeEngine;
use crate::fence::{Fence, wait, wake};
use crate::mapped::Mapped;
use crate::urgency::Urgency;

/// How long the caller of an order waits itself, before it leaves the rest to a thread.
const AT_ONCE: Duration = Duration::from_micros(300);
/// How long the means is used at a time, and how long not in between. A guest may be in the host for long,
/// and its neighbours stand at the same fence.
const TURN: Duration = Duration::from_millis(1);

/// Stops the guest it was taken from. Clones stop the same guest.
#[derive(Clone, Debug)]
pub struct Interrupter {
    switch: Arc<Switch>,
    means: Means,
    crew: Option<Arc<Crew>>,
}

/// What the first thread of a service has beside its own switch.
#[derive(Debug)]
struct Crew {
    /// The other threads, which get the same orders.
    others: Vec<Interrupter>,
    /// Set to have all of them finish.
    drain: watch::Sender<bool>,
}

/// How a guest that computes is made to notice. All guests of a program in this process have the same, and
/// with it its code.
#[derive(Clone)]
pub(crate) enum Means {
    Fence(Arc<Fence>),
    Epoch(WasmtimeEngine, Arc<Mapped>),
}

impl Means {
    /// The code of the guests that it stops.
    pub(crate) fn mapped(&self) -> &Mapped {
        match self {
            Self::Fence(fence) => fence.mapped(),
            Self::Epoch(_, mapped) => mapped,
        }
    }
}

impl fmt::Debug for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fence(_) => "Fence",
            Self::Epoch(..) => "Epoch",
        })
    }
}

impl Interrupter {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            switch: Arc::default(),
            means,
            crew: None,
        }
    }

    /// The same, with the other threads of a service, and what has all of them finish.
    pub(crate) fn with_crew(self, others: Vec<Self>, drain: watch::Sender<bool>) -> Self {
        let crew = Some(Arc::new(Crew { others, drain }));
        Self { crew, ..self }
    }

    /// Of one request that is served by the thread that this one stops.
    pub(crate) fn below(&self) -> Self {
        let switch = Switch {
            above: Some(Arc::clone(&self.switch)),
            ..Switch::default()
        };
        Self {
            switch: Arc::new(switch),
            means: self.means.clone(),
            crew: None,
        }
    }

    pub(crate) fn means(&self) -> &Means {
        &self.means
    }

    /// What the handler of the guest's faults needs.
    pub(crate) fn switch(&self) -> Arc<Switch> {
        Arc::clone(&self.switch)
    }

    /// Ends the guest at its next instruction; returns at once, the outcome follows.
    ///
    /// Before the guest runs it will end without having run; after its end nothing happens.
    /// Where the process may (`CAP_SYS_NICE`), the thread that polls it has a higher priority from then on
    /// (nice -10), and one that [ends with it](crate::Prepared::ends_its_thread) that of a real-time thread.
    pub fn kill(&self) {
        self.switch.urgency.hasten();
        self.order(KILL);
        self.others().for_each(Self::kill);
    }

    /// Asks a service to finish: it accepts no more, answers what it was asked, and ends. Returns at
    /// once; nothing happens to what is no service.
    pub fn drain(&self) {
        if let Some(crew) = &self.crew {
            crew.drain.send_replace(true);
        }
    }

    /// Whether [`Self::drain`] does anything, which is so for services.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.crew.is_some()
    }

    fn others(&self) -> impl Iterator<Item = &Self> {
        self.crew.iter().flat_map(|crew| &crew.others)
    }

    /// Stops the guest at its next instruction; returns at once. Nothing happens to one that is paused or
    /// killed.
    ///
    /// What the host does for it goes on: a sleep runs out, a socket receives. The thread that polls a
    /// guest that computes may stand still until it is resumed, with all else that it was to poll.
    pub fn pause(&self) {
        self.order(PAUSE);
        self.others().for_each(Self::pause);
    }

    /// Lets a paused guest go on. Nothing happens to one that is not paused.
    pub fn resume(&self) {
        self.withdraw(PAUSE);
        if let Some(watcher) = self.switch.watcher.get() {
            watcher.unpark();
        }
        self.others().for_each(Self::resume);
    }

    /// Whom to wake when the guest may go on: the thread of its quota, which is always the same.
    pub(crate) fn watched_by(&self, watcher: &Thread) {
        self.switch.watcher.get_or_init(|| watcher.clone());
    }

    /// Whether the guest is inside of a poll, and no pause holds it there: until it is resumed, which wakes the
    /// watcher, it uses nothing.
    pub(crate) fn may_compute(&self) -> bool {
        match self.switch.place.load(SeqCst) {
            IN => true,
            HELD => self.switch.orders.load(SeqCst) & PAUSE == 0,
            _ => false,
        }
    }

    /// Stops the guest as [`Self::pause`] does, or lets it go on, on behalf of its CPU quota.
    pub(crate) fn throttle(&self, stop: bool) {
        if stop {
            self.order(THROTTLE);
        }
        // One that was exempted meanwhile is let go, whichever came first.
        if !stop || self.switch.exempt.load(SeqCst) {
            self.withdraw(THROTTLE);
        }
    }

    /// No quota stops what is left to do for the guest, from now on.
    pub(crate) fn exempt(&self) {
        self.switch.exempt.store(true, SeqCst);
        self.withdraw(THROTTLE);
    }

    /// The urgency of the thread that polls the guest.
    pub(crate) fn urgency(&self) -> &Urgency {
        &self.switch.urgency
    }

    /// Whether it is an interrupter of the same guest.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.switch, &other.switch)
    }

    fn withdraw(&self, order: u32) {
        self.switch.orders.fetch_and(!order, SeqCst);
        self.switch.notify();
    }

    fn order(&self, order: u32) {
        self.switch.orders.fetch_or(order, SeqCst);
        // One that waits in the host is woken as what it will be.
        self.switch.hurry();
        self.switch.notify();
        // Whoever gives orders has others to give: it does not stand in the line of a fence.
        self.use_means(AT_ONCE, false);
        if !self.switch.takes_insisting() {
            return;
        }
        let persistent = self.clone();
        let thread = std::thread::Builder::new().name("wasi-interrupt".to_owned());
        let started = thread.spawn(move || {
            Urgency::of_orders();
            persistent.insist();
        });
        match started {
            Ok(thread) => Urgency::of_starting(&thread),
            // Late is better than never.
            Err(_) => self.insist(),
        }
    }

    /// For whom [`Switch::takes_insisting`] was true.
    fn insist(&self) {
        loop {
            while self.switch.is_defying() {
                self.use_means(TURN, true);
                if self.switch.is_defying() {
                    wait(&self.switch.place, IN, Some(TURN));
                }
            }
            // It may have obeyed just after its urgency was taken back.
            self.switch.hurry();
            self.switch.insisting.store(false, SeqCst);
            // Who gave an order just before left it to this one.
            if !self.switch.takes_insisting() {
                return;
            }
        }
    }

    /// Makes a guest that computes notice, for at most `time`.
    fn use_means(&self, time: Duration, patient: bool) {
        let switch = &self.switch;
        if !switch.is_defying() {
            return;
        }
        if switch.place.load(SeqCst) == HELD {
            // It was told, and may have to go on a little before it can be made to trap.
            return wait(&switch.place, HELD, Some(time));
        }
        if let Some(above) = &switch.above {
            // It may be held there, and have missed that it is to end.
            wake(&above.orders);
        }
        match &self.means {
            Means::Fence(fence) => fence.raise(patient, &switch.place, IN, || {
                let defies = || switch.is_defying();
                let stop = || wait(&switch.place, IN, Some(time));
                switch.urgency.during(defies, stop, || switch.is_done());
            }),
            Means::Epoch(engine, _) => {
                engine.0.increment_epoch();
                wait(&switch.place, IN, Some(time));
            }
        }
    }

    /// Polls `guest` until it is done, or until it is killed: then `None`, and `guest` is dropped.
    pub(crate) async fn guard<F: Future>(&self, guest: F) -> Option<F::Output> {
        Guarded::new(guest, &self.switch).await
    }
}
