//! When guests with a CPU quota may run: an account of processor time. Pure: clock and use come from
//! outside.
//!
//! The rule is the kernel's bandwidth control (`Documentation/scheduler/sched-bwc.rst`), for threads of
//! which nobody but this process knows that they belong together. Each period adds the quota to the
//! balance, up to the quota and the burst: what was not used is lost, but for the burst. Use takes from it.
//! Without a balance nobody runs until a period has brought one. A guest is stopped a little late, so the
//! balance may be negative: that is a debt, which the next periods pay first, so that over many periods the
//! quota is what it says.

use std::time::Duration;

/// So much processor time in every period: half of a period is half a core, twice the period two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuQuota {
    quota: Duration,
    period: Duration,
    burst: Duration,
}

impl CpuQuota {
    /// `quota` of processor time in each `period`. `None` if either is zero.
    #[must_use]
    pub fn new(quota: Duration, period: Duration) -> Option<Self> {
        (!quota.is_zero() && !period.is_zero()).then_some(Self {
            quota,
            period,
            burst: Duration::ZERO,
        })
    }

    /// How much of what was not used may be saved for later, beyond the quota; none by default.
    #[must_use]
    pub fn burst(self, burst: Duration) -> Self {
        Self { burst, ..self }
    }

    /// The most that can be saved, in nanoseconds.
    fn most(&self) -> i64 {
        nanoseconds(self.quota).saturating_add(nanoseconds(self.burst))
    }
}

/// What a quota has done so far, as the kernel counts it in `cpu.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which somebody ran or wanted to.
    pub periods: u64,
    /// In how many of them the quota was used up.
    pub throttled: u64,
    /// How long nobody ran for that, together.
    pub time: Duration,
}

/// The account of one quota. Moments are durations since any moment that stays the same.
#[derive(Debug)]
pub(crate) struct Account {
    quota: CpuQuota,
    /// When the current period began.
    period: Duration,
    /// What is left, in nanoseconds; below zero a debt.
    balance: i64,
    /// Since when nobody may run.
    stopped: Option<Duration>,
    /// Whether nobody runs until the account is charged again.
    idle: bool,
    throttling: Throttling,
}

/// Who may run until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All may, until they have used so much more.
    Run { left: Duration },
    /// Nobody may, until then.
    Wait { until: Duration },
}

impl Account {
    pub(crate) fn new(quota: CpuQuota, now: Duration) -> Self {
        Self {
            quota,
            period: now,
            balance: nanoseconds(quota.quota),
            stopped: None,
            idle: false,
            throttling: Throttling::default(),
        }
    }

    /// Another quota from now on. A debt remains one.
    pub(crate) fn change(&mut self, quota: CpuQuota) {
        self.balance = self.balance.min(quota.most());
        self.quota = quota;
    }

    /// Nobody runs until the account is charged again: the periods until then are not counted.
    pub(crate) fn rest(&mut self) {
        self.idle = true;
    }

    pub(crate) fn quota(&self) -> CpuQuota {
        self.quota
    }

    pub(crate) fn throttling(&self) -> Throttling {
        self.throttling
    }

    /// Accounts for what was `used` since the last time, and decides.
    ///
    /// Use is taken off before periods are added: it happened in them. So whoever has been idle for
    /// long must be looked at when it begins to run, or it would find the idle periods in its balance.
    pub(crate) fn charge(&mut self, now: Duration, used: Duration) -> Verdict {
        self.balance = self.balance.saturating_sub(nanoseconds(used));
        let length = self.quota.period.as_nanos();
        let passed = now.saturating_sub(self.period).as_nanos() / length;
        let stopped = self.stopped.is_some();
        if passed > 0 {
            self.period += times(self.quota.period, passed);
            let added = nanoseconds(times(self.quota.quota, passed));
            self.balance = self.balance.saturating_add(added).min(self.quota.most());
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            self.throttling.periods += if self.idle { 1 } else { passed };
            // The first and the last of a stop are counted below.
            self.throttling.throttled += if stopped { passed - 1 } else { 0 };
        }
        self.idle = false;
        if self.balance > 0 {
            if let Some(since) = self.stopped.take() {
                self.throttling.time += now.saturating_sub(since);
            }
            return Verdict::Run {
                left: Duration::from_nanos(self.balance.unsigned_abs()),
            };
        }
        if !stopped || passed > 0 {
            self.throttling.throttled += 1;
        }
        self.stopped.get_or_insert(now);
        // The first period after which something is left.
        let debt = u128::from(self.balance.unsigned_abs());
        let periods = debt / self.quota.quota.as_nanos() + 1;
        Verdict::Wait {
            until: self.period + times(self.quota.period, periods),
        }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A century where it would be longer: no guest waits for its end.
fn times(duration: Duration, count: u128) -> Duration {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let nanoseconds = duration.as_nanos().saturating_mul(count);
    let nanoseconds = nanoseconds.min(CENTURY.as_nanos());
    u64::try_from(nanoseconds).map_or(CENTURY, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn account(quota: u64, period: u64) -> Account {
        Account::new(CpuQuota::new(ms(quota), ms(period)).unwrap(), ms(0))
    }

    fn run(left: u64) -> Verdict {
        Verdict::Run { left: ms(left) }
    }

    fn wait(until: u64) -> Verdict {
        Verdict::Wait { until: ms(until) }
    }

    #[test]
    fn a_quota_is_used_up_and_comes_back_with_the_period() {
        let mut account = account(10, 100);
        assert_eq!(account.charge(ms(4), ms(4)), run(6));
        assert_eq!(account.charge(ms(10), ms(6)), wait(100));
        assert_eq!(account.charge(ms(99), ms(0)), wait(100));
        assert_eq!(account.charge(ms(100), ms(0)), run(10));
        let counted = Throttling {
            periods: 1,
            throttled: 1,
            time: ms(90),
        };
        assert_eq!(account.throttling(), counted);
    }

    #[test]
    fn what_was_too_much_is_paid_back() {
        let mut account = account(10, 100);
        assert_eq!(account.charge(ms(13), ms(13)), wait(100));
        assert_eq!(account.charge(ms(100), ms(0)), run(7));
        // A debt of three quotas takes four periods, the fourth to have something.
        assert_eq!(account.charge(ms(140), ms(37)), wait(500));
        assert_eq!(account.charge(ms(350), ms(0)), wait(500));
        assert_eq!(account.charge(ms(500), ms(0)), run(10));
        let counted = Throttling {
            periods: 5,
            throttled: 5,
            time: ms(87 + 360),
        };
        assert_eq!(account.throttling(), counted);
    }

    #[test]
    fn idle_periods_are_not_counted() {
        let mut account = account(10, 100);
        assert_eq!(account.charge(ms(10), ms(1)), run(9));
        account.rest();
        assert_eq!(account.charge(ms(1010), ms(1)), run(10));
        assert_eq!(account.charge(ms(1210), ms(1)), run(10));
        assert_eq!(account.throttling().periods, 3);
    }

    #[test]
    fn what_was_not_used_is_lost_but_for_the_burst() {
        let mut plain = account(10, 100);
        assert_eq!(plain.charge(ms(1000), ms(0)), run(10));
        let quota = CpuQuota::new(ms(10), ms(100)).unwrap().burst(ms(15));
        let mut bursting = Account::new(quota, ms(0));
        assert_eq!(bursting.charge(ms(100), ms(0)), run(20));
        assert_eq!(bursting.charge(ms(1000), ms(0)), run(25));
        assert_eq!(bursting.charge(ms(1025), ms(25)), wait(1100));
    }

    #[test]
    fn more_than_a_core_is_a_quota_above_the_period() {
        let mut account = account(150, 100);
        assert_eq!(account.charge(ms(70), ms(140)), run(10));
        assert_eq!(account.charge(ms(75), ms(10)), wait(100));
        assert_eq!(account.charge(ms(100), ms(0)), run(150));
    }

    #[test]
    fn a_change_counts_at_once_and_forgives_nothing() {
        let mut account = account(10, 100);
        assert_eq!(account.charge(ms(30), ms(30)), wait(300));
        account.change(CpuQuota::new(ms(50), ms(100)).unwrap());
        assert_eq!(account.charge(ms(40), ms(0)), wait(100));
        assert_eq!(account.charge(ms(100), ms(0)), run(30));
        account.change(CpuQuota::new(ms(5), ms(100)).unwrap());
        assert_eq!(account.charge(ms(101), ms(0)), run(5));
    }

    #[test]
    fn none_is_no_quota() {
        assert_eq!(CpuQuota::new(ms(0), ms(100)), None);
        assert_eq!(CpuQuota::new(ms(100), ms(0)), None);
    }

    proptest! {
        /// Whoever runs when it may, and is stopped up to `late` too late, gets no more than its quota
        /// for every period begun, its burst and that lateness; and if it always wants to run, no less
        /// than its quota for every period that is over.
        #[test]
        fn over_any_time_the_quota_is_what_it_says(
            quota in 1_u64..300,
            period in 1_u64..200,
            burst in 0_u64..100,
            steps in prop::collection::vec((0_u64..500, 0_u64..100), 1..200),
            eager in any::<bool>(),
        ) {
            let most = CpuQuota::new(ms(quota), ms(period)).unwrap().burst(ms(burst));
            let mut account = Account::new(most, ms(0));
            let (mut now, mut total, mut latest) = (ms(0), ms(0), ms(0));
            let mut verdict = account.charge(now, ms(0));
            for (idle, late) in steps {
                let used = match verdict {
                    Verdict::Run { left } => {
                        let used = left + ms(late);
                        latest = latest.max(ms(late));
                        now += used;
                        used
                    }
                    Verdict::Wait { until } => {
                        prop_assert!(until > now, "{until:?} is not after {now:?}");
                        now = until;
                        ms(0)
                    }
                };
                total += used;
                verdict = account.charge(now, used);
                if !eager {
                    now += ms(idle);
                    verdict = account.charge(now, ms(0));
                }
            }
            let periods = u32::try_from(now.as_nanos() / ms(period).as_nanos()).unwrap();
            let allowed = ms(quota) * (periods + 1) + ms(burst) + latest;
            prop_assert!(total <= allowed, "{total:?} of {allowed:?}");
            // A period that was used up before it was over brings its quota in full.
            if eager && burst == 0 && quota * 2 <= period && matches!(verdict, Verdict::Wait { .. }) {
                let due = ms(quota) * periods;
                prop_assert!(total >= due, "{total:?} of {due:?}");
            }
        }
    }
}
