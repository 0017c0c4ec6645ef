//! The time in ticks, from a clock that is cheap to read on every processor, but steps.
//!
//! On Linux it is the system's coarse clock, which reads a few bytes of memory. A raw read of the processor's clock takes
//! 8 to 37 ns, more than an increment. Other systems use a clock of the processor.

use std::time::Duration;

/// The most that a time is old when it is read. The slowest clock of Linux steps each 10 ms, and may miss a step.
pub(super) const RESOLUTION: Duration = Duration::from_millis(20);

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use coarsetime::{Duration, Instant};

    #[inline]
    pub(in super::super) fn now() -> u64 {
        Instant::now_without_cache_update().as_ticks()
    }

    pub(in super::super) fn ticks(duration: std::time::Duration) -> u64 {
        // The type ends at this number of seconds.
        let seconds = duration.as_secs().min(u32::MAX.into());
        Duration::new(seconds, duration.subsec_nanos()).as_ticks()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::{sync::LazyLock, time::Duration};

    use quanta::Clock;

    #[inline]
    pub(in super::super) fn now() -> u64 {
        static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::new);

        CLOCK.delta_as_nanos(0, CLOCK.raw())
    }

    pub(in super::super) fn ticks(duration: Duration) -> u64 {
        u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
    }
}

pub(super) use system::{now, ticks};
