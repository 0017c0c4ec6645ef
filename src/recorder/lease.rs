//! How long a metric of the inner recorder may be used before it is registered again.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use quanta::Clock;

/// Tells when an inner handle may have been forgotten by the exporter.
pub(super) struct Expiry {
    clock: Clock,
    /// In ticks of the raw clock, like all times here.
    after: u64,
    /// The time of the last use is only written when it is this much older, so that threads do not contend for its
    /// cache line at each increment.
    refresh_after: u64,
}

impl Expiry {
    pub(super) fn after(idle: Duration) -> Self {
        const TICKS: u64 = 1 << 40;

        let clock = Clock::new();
        let nanos = u128::from(clock.delta_as_nanos(1, 1 + TICKS).max(1));
        let after =
            u64::try_from(idle.as_nanos().saturating_mul(u128::from(TICKS)) / nanos).unwrap_or(u64::MAX);
        Self {
            clock,
            after,
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

/// The time, read once per use.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    ticks: u64,
    expiry: &'a Expiry,
}

/// A metric of the inner recorder, to be used for as long as the exporter cannot have forgotten it.
pub(super) struct Lease<M> {
    pub(super) metric: M,
    /// When it was last used, or a little before.
    used: AtomicU64,
}

impl<M> Lease<M> {
    pub(super) fn new(metric: M, now: Option<Now<'_>>) -> Self {
        Self {
            metric,
            used: AtomicU64::new(now.map_or(0, |now| now.ticks)),
        }
    }

    #[inline]
    pub(super) fn is_fresh(&self, now: Option<Now<'_>>) -> bool {
        let Some(Now { ticks, expiry }) = now else {
            return true;
        };
        // The clocks of two cores may differ a little.
        let idle = ticks.saturating_sub(self.used.load(Ordering::Relaxed));
        if idle >= expiry.after {
            return false;
        }
        if idle > expiry.refresh_after {
            self.used.store(ticks, Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_as_long_as_they_say() {
        let idle = Duration::from_millis(500);
        let expiry = Expiry::after(idle);
        let nanos = expiry.clock.delta_as_nanos(1, 1 + expiry.after);
        assert!(u128::from(nanos).abs_diff(idle.as_nanos()) <= 1_000, "{nanos}");
    }

    #[test]
    fn the_longest_time_does_not_overflow() {
        assert_eq!(Expiry::after(Duration::MAX).after, u64::MAX);
    }
}
