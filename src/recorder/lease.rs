//! How long a metric of the inner recorder may be used before it is registered again.
//!
//! An exporter with an idle timeout forgets a metric in two steps of a render: it reads how often the metric was changed,
//! and later deletes it by its key if the number is the same as one idle timeout ago. So a metric is safe while it is
//! changed more often than that, with one exception: a render that has already read the number deletes the metric even
//! if it is changed now, or was registered just now.
//!
//! So a metric that was just registered is [`Unconfirmed`]. It is registered again at its 2nd, 4th, 8th … change. If a
//! render deletes it after `n` changes, these are lost, as without this layer, and fewer than `n` more.
//!
//! After half of the time in [`Expiry`], it is registered a last time. By then, a render that was under way has deleted
//! it or has ended, so this metric is confirmed by a [`Lease`]: it may be used for as long as each use follows soon
//! enough after the last.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;

use super::clock;

/// Tells when the exporter may have forgotten a metric. In ticks of the clock, like all times here.
pub(super) struct Expiry {
    after: u64,
    /// The age at which the next registration confirms a metric.
    confirm_after: u64,
    /// The time of the last use is only written when it is this much older, so that threads do not contend for its
    /// cache line at each increment.
    refresh_after: u64,
}

impl Expiry {
    /// The clock steps, so each time is shorter or longer by a step, on the safe side. If that leaves no time, each use
    /// registers.
    pub(super) fn after(idle: Duration) -> Self {
        let step = clock::ticks(clock::RESOLUTION);
        let after = clock::ticks(idle).saturating_sub(step);
        Self {
            after,
            confirm_after: clock::ticks(idle / 2).saturating_add(step),
            refresh_after: after / 8,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> Now<'_> {
        Now {
            ticks: clock::now(),
            expiry: self,
        }
    }
}

/// The time, read once per use. It is `None` where no metric is ever forgotten.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    ticks: u64,
    expiry: &'a Expiry,
}

impl Now<'_> {
    /// The time now.
    pub(super) fn again(self) -> Self {
        self.expiry.now()
    }

    #[inline]
    fn since(self, ticks: u64) -> u64 {
        // Another thread may have read the clock later.
        self.ticks.saturating_sub(ticks)
    }
}

/// A confirmed metric.
pub(super) struct Lease<M> {
    pub(super) metric: M,
    /// When it was last changed, or a little before.
    used: AtomicU64,
}

impl<M> Lease<M> {
    /// `now` is a time before the registration.
    pub(super) fn new(metric: M, now: Option<Now<'_>>) -> Self {
        Self {
            metric,
            used: AtomicU64::new(now.map_or(0, |now| now.ticks)),
        }
    }

    /// Calls `f` with the metric, or returns `f` if the exporter may have forgotten the metric. `changes` tells whether
    /// the exporter takes the call for a use.
    #[inline]
    pub(super) fn with<F: FnOnce(&M)>(&self, now: Option<Now<'_>>, changes: bool, f: F) -> Result<(), F> {
        let Some(now) = now else {
            f(&self.metric);
            return Ok(());
        };
        if self.idle(now) <= now.expiry.refresh_after {
            f(&self.metric);
            return Ok(());
        }
        self.with_refreshed(now, changes, f)
    }

    // Not inlined, because code after the call makes the frequent case slower.
    #[inline(never)]
    fn with_refreshed<F: FnOnce(&M)>(&self, now: Now<'_>, changes: bool, f: F) -> Result<(), F> {
        if self.idle(now) >= now.expiry.after {
            return Err(f);
        }
        f(&self.metric);
        // Not before the call, because other threads rely on this use.
        if changes {
            self.used.store(now.ticks, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn is_valid(&self, now: Option<Now<'_>>) -> bool {
        now.is_none_or(|now| self.idle(now) < now.expiry.after)
    }

    #[inline]
    fn idle(&self, now: Now<'_>) -> u64 {
        now.since(self.used.load(Ordering::Relaxed))
    }
}

/// A metric that was registered, but perhaps deleted by a render that was under way.
pub(super) struct Unconfirmed<M> {
    metric: M,
    /// A time before it was first registered and changed.
    from: u64,
    /// A time after that.
    registered: u64,
    /// Changes since `from`, and their number at which it is registered again.
    changes: AtomicU64,
    again_at: u64,
}

impl<M> Unconfirmed<M> {
    /// Like [`Lease::with`].
    fn with<F: FnOnce(&M)>(&self, now: Now<'_>, changes: bool, f: F) -> Result<(), F> {
        if !self.is_in_time(now)
            || (changes && self.changes.fetch_add(1, Ordering::Relaxed) + 1 >= self.again_at)
        {
            return Err(f);
        }
        f(&self.metric);
        Ok(())
    }

    /// Whether it is too early to confirm it.
    fn is_in_time(&self, now: Now<'_>) -> bool {
        !self.is_over(now) && self.is_known(now)
    }

    /// Whether a render that began before the registration has ended.
    fn is_over(&self, now: Now<'_>) -> bool {
        now.since(self.registered) >= now.expiry.confirm_after
    }

    /// Whether too little time has passed since the start for the exporter to find the metric idle.
    fn is_known(&self, now: Now<'_>) -> bool {
        now.since(self.from) < now.expiry.after
    }
}

/// The metric that is used while its slot has no valid lease.
pub(super) enum Interim<M> {
    Unconfirmed(Unconfirmed<M>),
    /// Confirmed after the lease of its slot had expired.
    Renewed(Lease<M>),
}

impl<M> Interim<M> {
    /// A metric that was registered and changed between `from` and `now`, perhaps in place of an earlier one.
    pub(super) fn unconfirmed(metric: M, earlier: Option<&Self>, from: Now<'_>, now: Now<'_>) -> Self {
        let (from, registered, changes) = match earlier {
            Some(Self::Unconfirmed(earlier)) if earlier.is_in_time(from) => (
                earlier.from,
                earlier.registered,
                earlier.changes.load(Ordering::Relaxed),
            ),
            _ => (from.ticks, now.ticks, 1),
        };
        Self::Unconfirmed(Unconfirmed {
            metric,
            from,
            registered,
            changes: AtomicU64::new(changes),
            again_at: changes.saturating_mul(2),
        })
    }

    pub(super) fn metric(&self) -> &M {
        match self {
            Self::Unconfirmed(Unconfirmed { metric, .. }) | Self::Renewed(Lease { metric, .. }) => metric,
        }
    }

    /// Like [`Lease::with`].
    pub(super) fn with<F: FnOnce(&M)>(&self, now: Option<Now<'_>>, changes: bool, f: F) -> Result<(), F> {
        match (self, now) {
            (Self::Renewed(lease), _) => lease.with(now, changes, f),
            (Self::Unconfirmed(unconfirmed), Some(now)) => unconfirmed.with(now, changes, f),
            (Self::Unconfirmed(_), None) => Err(f),
        }
    }

    /// Whether a metric that is registered now is confirmed.
    pub(super) fn is_confirmed_by(&self, now: Now<'_>) -> bool {
        matches!(self, Self::Unconfirmed(earlier) if earlier.is_over(now) && earlier.is_known(now))
    }
}

/// The metric of one scope.
pub(super) struct Slot<M> {
    /// Set once, at the first confirmation. It is the fastest to use.
    pub(super) confirmed: OnceLock<Lease<M>>,
    /// Used before `confirmed` is set, and after it has expired.
    pub(super) interim: ArcSwapOption<Interim<M>>,
}

impl<M> Default for Slot<M> {
    fn default() -> Self {
        Self {
            confirmed: OnceLock::new(),
            interim: ArcSwapOption::empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(500);
    /// What is left of it and of its half when the steps of the clock are taken into account.
    const EXPIRES: u64 = 480;
    const CONFIRMED: u64 = 270;

    impl Expiry {
        fn at(&self, millis: u64) -> Now<'_> {
            // A clock starts anywhere. Ticks are rounded down, and a few more do not matter.
            let ticks = 1_000_000 + clock::ticks(Duration::from_millis(millis)) + millis;
            Now { ticks, expiry: self }
        }
    }

    fn is_usable(lease: &Lease<()>, now: Now<'_>, changes: bool) -> bool {
        lease.with(Some(now), changes, |()| ()).is_ok()
    }

    #[test]
    fn the_clock_ticks_as_it_says_and_does_not_step_too_far() {
        let expiry = Expiry::after(IDLE);
        let (start, exact) = (expiry.now(), std::time::Instant::now());
        while exact.elapsed() < 5 * clock::RESOLUTION {
            std::thread::yield_now();
        }
        let passed = expiry.now().since(start.ticks);
        let most = exact.elapsed();
        assert!(passed >= clock::ticks(4 * clock::RESOLUTION), "{passed}");
        assert!(
            passed <= clock::ticks(most + clock::RESOLUTION),
            "{passed} in {most:?}"
        );
    }

    #[test]
    fn the_longest_time_does_not_overflow() {
        let Expiry {
            after, confirm_after, ..
        } = Expiry::after(Duration::MAX);
        let century = clock::ticks(Duration::from_secs(100 * 365 * 24 * 60 * 60 / 2));
        assert!(after > century && confirm_after > century);
    }

    #[test]
    fn in_a_time_that_is_shorter_than_the_steps_of_the_clock_nothing_is_cached() {
        for idle in [Duration::from_nanos(1), clock::RESOLUTION] {
            let expiry = Expiry::after(idle);
            let (metric, now) = (
                Interim::unconfirmed((), None, expiry.at(0), expiry.at(0)),
                expiry.at(0),
            );
            assert!(metric.with(Some(now), true, |()| ()).is_err());
            assert!(!metric.is_confirmed_by(now));
        }
    }

    #[test]
    fn a_lease_lasts_as_long_as_each_use_follows_soon_after_the_last() {
        let expiry = Expiry::after(IDLE);
        let lease = Lease::new((), Some(expiry.at(0)));
        let uses: Vec<_> = (1..=10).map(|use_| use_ * 430).collect();
        for &millis in &uses {
            assert!(is_usable(&lease, expiry.at(millis), true));
        }
        let expires = uses[9] + EXPIRES;
        assert!(is_usable(&lease, expiry.at(expires - 1), false));
        assert!(!is_usable(&lease, expiry.at(expires), true));
    }

    #[test]
    fn a_use_that_changes_nothing_does_not_extend_a_lease() {
        let expiry = Expiry::after(IDLE);
        let lease = Lease::new((), Some(expiry.at(0)));
        for millis in [120, 240, 360, EXPIRES - 1] {
            assert!(is_usable(&lease, expiry.at(millis), false));
        }
        assert!(!is_usable(&lease, expiry.at(EXPIRES), false));
    }

    #[test]
    fn an_unconfirmed_metric_is_usable_in_the_first_half_and_confirmed_in_the_second() {
        let expiry = Expiry::after(IDLE);
        // Registration takes a moment. A render may have begun meanwhile, and this is its latest end.
        for (registered, is_confirmed) in [(10, true), (EXPIRES - CONFIRMED, false)] {
            let metric = Interim::unconfirmed((), None, expiry.at(0), expiry.at(registered));
            for millis in registered..1_000 {
                let now = expiry.at(millis);
                let is_early = millis < registered + CONFIRMED;
                assert_eq!(
                    metric.with(Some(now), false, |()| ()).is_ok(),
                    is_early && millis < EXPIRES,
                    "after {millis} ms"
                );
                assert_eq!(
                    metric.is_confirmed_by(now),
                    is_confirmed && !is_early && millis < EXPIRES,
                    "after {millis} ms"
                );
            }
        }
    }

    #[test]
    fn an_unconfirmed_metric_is_registered_again_when_its_changes_have_doubled() {
        let expiry = Expiry::after(IDLE);
        let mut metric = Interim::unconfirmed((), None, expiry.at(0), expiry.at(0));
        let mut again = Vec::new();
        for change in 2..100 {
            let now = expiry.at(change);
            assert!(metric.with(Some(now), false, |()| ()).is_ok());
            if metric.with(Some(now), true, |()| ()).is_err() {
                again.push(change);
                metric = Interim::unconfirmed((), Some(&metric), now, now);
            }
        }
        assert_eq!(again, [2, 4, 8, 16, 32, 64]);
        // The first registration counts.
        assert!(!metric.is_confirmed_by(expiry.at(CONFIRMED - 1)));
        assert!(metric.is_confirmed_by(expiry.at(CONFIRMED)));
    }
}
