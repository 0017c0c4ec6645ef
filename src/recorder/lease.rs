//! How long a metric of the inner recorder may be used before it is registered again.
//!
//! An exporter with an idle timeout forgets a metric in two steps of a render: it reads how often the metric was changed,
//! and later deletes it by its key if the number is the same as one idle timeout ago. So a metric is safe while it is
//! changed more often than that, with one exception: a render that has already read the number deletes the metric even
//! if it is changed now, or was registered just now.
//!
//! So a metric that was just registered is [`Unconfirmed`](Interim::Unconfirmed). It may be used for half of the time in
//! [`Expiry`], and is then registered once more. By then, a render that was under way has deleted it or has ended, so the
//! second metric is confirmed by a [`Lease`]: it may be used for as long as each use follows soon enough after the last.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use quanta::Clock;

/// Tells when the exporter may have forgotten a metric.
pub(super) struct Expiry {
    clock: Clock,
    /// In ticks of the raw clock, like all times here.
    after: u64,
    /// The age at which a second registration confirms a metric.
    confirm_after: u64,
    /// The time of the last use is only written when it is this much older, so that threads do not contend for its
    /// cache line at each increment.
    refresh_after: u64,
}

impl Expiry {
    pub(super) fn after(idle: Duration) -> Self {
        Self::with_clock(Clock::new(), idle)
    }

    fn with_clock(clock: Clock, idle: Duration) -> Self {
        const TICKS: u64 = 1 << 40;

        let nanos = u128::from(clock.delta_as_nanos(1, 1 + TICKS).max(1));
        let after =
            u64::try_from(idle.as_nanos().saturating_mul(u128::from(TICKS)) / nanos).unwrap_or(u64::MAX);
        Self {
            clock,
            after,
            confirm_after: after / 2,
            refresh_after: after / 8,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> Now<'_> {
        Now {
            ticks: self.clock.raw(),
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
    #[inline]
    fn since(self, ticks: u64) -> u64 {
        // The clocks of two cores may differ a little.
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

/// The metric that is used while its slot has no valid lease.
pub(super) enum Interim<M> {
    /// Registered, but perhaps deleted by a render that was under way.
    Unconfirmed {
        metric: M,
        /// A time before it was registered and first changed.
        from: u64,
        /// A time after that.
        registered: u64,
    },
    /// Confirmed after the lease of its slot had expired.
    Renewed(Lease<M>),
}

impl<M> Interim<M> {
    /// A metric that was registered and changed since `from`.
    pub(super) fn unconfirmed(metric: M, from: Now<'_>) -> Self {
        Self::Unconfirmed {
            metric,
            from: from.ticks,
            registered: from.expiry.now().ticks,
        }
    }

    pub(super) fn metric(&self) -> &M {
        match self {
            Self::Unconfirmed { metric, .. } | Self::Renewed(Lease { metric, .. }) => metric,
        }
    }

    /// Like [`Lease::with`].
    pub(super) fn with<F: FnOnce(&M)>(&self, now: Option<Now<'_>>, changes: bool, f: F) -> Result<(), F> {
        match (self, now) {
            (Self::Renewed(lease), _) => lease.with(now, changes, f),
            (Self::Unconfirmed { metric, .. }, Some(now)) if !self.is_over(now) && self.is_known(now) => {
                f(metric);
                Ok(())
            }
            (Self::Unconfirmed { .. }, _) => Err(f),
        }
    }

    /// Whether a metric that is registered now is confirmed.
    pub(super) fn is_confirmed_by(&self, now: Now<'_>) -> bool {
        self.is_over(now) && self.is_known(now)
    }

    /// Whether a render that began before the registration has ended.
    fn is_over(&self, now: Now<'_>) -> bool {
        matches!(*self, Self::Unconfirmed { registered, .. } if now.since(registered) >= now.expiry.confirm_after)
    }

    /// Whether too little time has passed since the start for the exporter to find the metric idle.
    fn is_known(&self, now: Now<'_>) -> bool {
        matches!(*self, Self::Unconfirmed { from, .. } if now.since(from) < now.expiry.after)
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
    use std::sync::Arc;

    use quanta::Mock;

    use super::*;

    const IDLE: Duration = Duration::from_millis(500);

    fn mocked() -> (Expiry, Arc<Mock>) {
        let (clock, mock) = Clock::mock();
        mock.increment(1_000_000_000_u64);
        (Expiry::with_clock(clock, IDLE), mock)
    }

    fn millis(mock: &Mock, millis: u64) {
        mock.increment(Duration::from_millis(millis));
    }

    #[test]
    fn ticks_are_as_long_as_they_say() {
        let expiry = Expiry::after(IDLE);
        let nanos = expiry.clock.delta_as_nanos(1, 1 + expiry.after);
        assert!(u128::from(nanos).abs_diff(IDLE.as_nanos()) <= 1_000, "{nanos}");
    }

    #[test]
    fn the_longest_time_does_not_overflow() {
        assert_eq!(Expiry::after(Duration::MAX).after, u64::MAX);
    }

    #[test]
    fn a_lease_lasts_as_long_as_each_use_follows_soon_after_the_last() {
        let (expiry, mock) = mocked();
        let lease = Lease::new((), Some(expiry.now()));
        for _ in 0..10 {
            millis(&mock, 430);
            assert!(lease.with(Some(expiry.now()), true, |()| ()).is_ok());
        }
        millis(&mock, 500);
        assert!(lease.with(Some(expiry.now()), true, |()| ()).is_err());
    }

    #[test]
    fn a_use_that_changes_nothing_does_not_extend_a_lease() {
        let (expiry, mock) = mocked();
        let lease = Lease::new((), Some(expiry.now()));
        for _ in 0..4 {
            millis(&mock, 124);
            assert!(lease.with(Some(expiry.now()), false, |()| ()).is_ok());
        }
        millis(&mock, 4);
        assert!(lease.with(Some(expiry.now()), false, |()| ()).is_err());
    }

    #[test]
    fn an_unconfirmed_metric_is_usable_in_the_first_half_and_confirmed_in_the_second() {
        let (expiry, mock) = mocked();
        let from = expiry.now();
        // Registration takes a moment.
        millis(&mock, 10);
        let metric = Interim::unconfirmed((), from);
        let state = || {
            let now = expiry.now();
            let is_usable = metric.with(Some(now), true, |()| ()).is_ok();
            (is_usable, metric.is_confirmed_by(now))
        };
        assert_eq!(state(), (true, false));
        millis(&mock, 239);
        assert_eq!(state(), (true, false), "after 249 ms");
        millis(&mock, 10);
        // A render may have begun during the registration, and this is its latest end.
        assert_eq!(state(), (true, false), "after 259 ms");
        millis(&mock, 1);
        assert_eq!(state(), (false, true), "after 260 ms");
        millis(&mock, 239);
        assert_eq!(state(), (false, true), "after 499 ms");
        millis(&mock, 1);
        assert_eq!(state(), (false, false), "after 500 ms");
    }

    #[test]
    fn a_metric_whose_registration_took_too_long_is_not_confirmed() {
        let (expiry, mock) = mocked();
        let from = expiry.now();
        millis(&mock, 251);
        let metric = Interim::unconfirmed((), from);
        for after in 252..1_000 {
            millis(&mock, 1);
            let now = expiry.now();
            assert!(!metric.is_confirmed_by(now), "after {after} ms");
            assert_eq!(
                metric.with(Some(now), true, |()| ()).is_ok(),
                after < 500,
                "after {after} ms"
            );
        }
    }
}
