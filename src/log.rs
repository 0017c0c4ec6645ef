//! Limits how often a line is logged.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Allows one line in each interval, and counts those that are left out.
#[derive(Debug)]
pub(crate) struct LogLimit {
    interval: Duration,
    /// When the next line is allowed, in milliseconds since [`START`].
    next: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    pub(crate) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How many lines were left out since the last one, if a line is allowed now.
    pub(crate) fn should_log(&self) -> Option<u64> {
        self.should_log_at(START.elapsed())
    }

    fn should_log_at(&self, now: Duration) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let allowed = |next| (millis(now) >= next).then(|| millis(now.saturating_add(self.interval)));
        if self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, allowed)
            .is_ok()
        {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_allowed_in_each_interval() {
        let limit = LogLimit::new(Duration::from_secs(60));
        let at = |seconds| limit.should_log_at(Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!(at(0), None);
        assert_eq!(at(59), None);
        assert_eq!(at(60), Some(2));
        assert_eq!(at(119), None);
        assert_eq!(at(500), Some(1));
    }

    #[test]
    fn the_longest_interval_has_one_line() {
        let limit = LogLimit::new(Duration::MAX);
        assert_eq!(limit.should_log_at(Duration::from_secs(1)), Some(0));
        assert_eq!(limit.should_log_at(Duration::from_secs(1_000_000_000)), None);
    }
}
