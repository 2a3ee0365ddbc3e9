//! CPU quotas. Alone in its process, as what it looks at is the processor time of threads that all want
//! more than they may have.

#![allow(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made is a test that fails"
)]

#[path = "all/fixture.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod fixture;
#[path = "all/locate.rs"]
mod locate;
#[path = "all/wasm.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod wasm;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use fixture::{Fixture, Running, args, start};
use wasi_runtime::{Budget, CpuQuota, Guest, Outcome, Usage};

/// Only a hang takes it.
const PATIENCE: Duration = Duration::from_secs(60);
const QUOTA: Duration = Duration::from_millis(4);
const PERIOD: Duration = Duration::from_millis(20);

/// One test at a time: they are about what is left of the processors.
static ALONE: Mutex<()> = Mutex::new(());

fn quota() -> Option<CpuQuota> {
    CpuQuota::new(QUOTA, PERIOD)
}

fn busy(fixture: &Fixture, budget: &Budget, body: &str) -> Running {
    let guest = Guest {
        budget: budget.clone(),
        ..Guest::default()
    };
    let running = start(&fixture.wat(&wasm::ready_then(body)), guest);
    running.line();
    running
}

/// Leaves the processors to the guests.
#[allow(
    clippy::disallowed_methods,
    reason = "who looks all the time takes what is measured"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        rest(Duration::from_millis(1));
    }
}

/// What may have been used since `begun`: a quota for each period begun, a tenth more, and for one moment
/// at which the watching thread was not given a processor.
fn allowed(begun: Instant) -> Duration {
    let periods = begun.elapsed().as_nanos() / PERIOD.as_nanos() + 1;
    let quotas = QUOTA * u32::try_from(periods).unwrap();
    quotas + quotas / 10 + Duration::from_millis(100)
}

/// Watches for a hundred quotas, which takes 2 s: without a limit it would be a fraction of that.
fn stays_within(usage: &Usage, begun: Instant) {
    let before = usage.cpu();
    until("they go on", || usage.cpu() - before >= QUOTA * 100);
    let (used, allowed) = (usage.cpu() - before, allowed(begun));
    assert!(used <= allowed, "{used:?} of {allowed:?}");
}

#[test]
fn guests_of_a_budget_share_its_quota() {
    let _alone = ALONE.lock();
    let fixture = Fixture::new();
    let budget = Budget::default();
    budget.set_cpu(quota()).unwrap();
    let (usage, begun) = (budget.usage(), Instant::now());
    let calling = "(loop $more (drop (call $fdstat (i32.const 1) (i32.const 128))) (br $more))";
    let guests =
        [wasm::SPIN, wasm::SPIN, calling, calling].map(|body| busy(&fixture, &budget, body));
    stays_within(&usage, begun);
    let throttling = usage.throttling();
    assert!(throttling.throttled >= 10, "{throttling:?}");
    assert!(throttling.periods >= 50, "{throttling:?}");
    assert!(throttling.time >= PERIOD * 20, "{throttling:?}");
    for guest in guests {
        assert_eq!(guest.kill().outcome, Outcome::Killed);
    }
}

/// One that computes in an asynchronous function, which the host waits for as it does for all others.
#[test]
fn guests_of_wasi_0_3_keep_their_quota() {
    let _alone = ALONE.lock();
    let artifact = Fixture::new().asynchronous("streams_p3.wasm");
    let budget = Budget::default();
    budget.set_cpu(quota()).unwrap();
    let guests = [(); 2].map(|()| {
        let guest = Guest {
            budget: budget.clone(),
            ..args(["streams", "spin"])
        };
        let running = start(&artifact, guest);
        running.line();
        running
    });
    let usage = budget.usage();
    stays_within(&usage, Instant::now());
    assert!(
        usage.throttling().throttled >= 10,
        "{:?}",
        usage.throttling()
    );
    for guest in guests {
        assert_eq!(guest.kill().outcome, Outcome::Killed);
    }
}

#[test]
fn a_quota_comes_changes_and_goes_while_the_guest_runs() {
    let _alone = ALONE.lock();
    let fixture = Fixture::new();
    let budget = Budget::default();
    let usage = budget.usage();
    let running = busy(&fixture, &budget, wasm::SPIN);
    budget.set_cpu(quota()).unwrap();
    stays_within(&usage, Instant::now());
    // A debt of an hour cannot be made; a quota of a 500th of a core is the next best thing.
    let little = CpuQuota::new(Duration::from_millis(2), Duration::from_secs(1));
    budget.set_cpu(little).unwrap();
    until("it is stopped", || {
        let throttled = usage.throttling().throttled;
        rest(Duration::from_millis(5));
        usage.throttling().throttled > throttled
    });
    budget.set_cpu(None).unwrap();
    let before = usage.cpu();
    until("it goes on", || {
        usage.cpu() - before > Duration::from_millis(200)
    });
    assert_eq!(usage.throttling(), wasi_runtime::Throttling::default());
    assert_eq!(running.kill().outcome, Outcome::Killed);
}

/// With a quota of 1 ms in 10 s a guest is throttled nearly always.
#[test]
fn a_throttled_guest_is_paused_resumed_and_killed() {
    let _alone = ALONE.lock();
    let fixture = Fixture::new();
    let budget = Budget::default();
    let running = busy(&fixture, &budget, wasm::SPIN);
    let usage = budget.usage();
    let little = CpuQuota::new(Duration::from_millis(1), Duration::from_secs(10));
    budget.set_cpu(little).unwrap();
    until("it is stopped", || usage.throttling().throttled > 0);
    running.interrupter.pause();
    running.interrupter.resume();
    running.interrupter.pause();
    budget.set_cpu(None).unwrap();
    // No quota stops it any more, but the pause does.
    let quiet = || {
        let before = usage.cpu();
        rest(Duration::from_millis(20));
        usage.cpu() == before
    };
    until("it stays paused", quiet);
    running.interrupter.resume();
    let before = usage.cpu();
    until("it goes on", || usage.cpu() > before);
    budget.set_cpu(little).unwrap();
    until("it is stopped", || usage.throttling().throttled > 0);
    let begun = Instant::now();
    assert_eq!(running.kill().outcome, Outcome::Killed);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "a kill does not wait for the period"
    );
}

/// A guest that ends in the moment in which its budget is used up ends all the same.
#[test]
fn a_guest_ends_whatever_its_quota() {
    let _alone = ALONE.lock();
    let fixture = Fixture::new();
    let budget = Budget::default();
    budget
        .set_cpu(CpuQuota::new(
            Duration::from_millis(1),
            Duration::from_millis(2),
        ))
        .unwrap();
    let program = fixture.wat(&wasm::start(
        "(local $i i32)
        (loop $more
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 2000000))))",
    ));
    for _ in 0..200 {
        let guest = Guest {
            budget: budget.clone(),
            ..Guest::default()
        };
        assert_eq!(start(&program, guest).end().success(), "");
    }
    assert!(budget.usage().throttling().throttled > 0);
}
