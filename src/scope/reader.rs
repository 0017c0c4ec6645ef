//! Whether anything in this process reads the scopes.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

static COUNT_OVERFLOW: OnceLock<fn()> = OnceLock::new();

/// Notes that a recorder that reads scopes was made in this process. It counts overflows by `count_overflow`.
pub(crate) fn recorder_made(count_overflow: fn()) {
    COUNT_OVERFLOW.get_or_init(|| count_overflow);
}

/// Whether a recorder that reads scopes was ever made in this process.
fn has_recorder() -> bool {
    COUNT_OVERFLOW.get().is_some()
}

pub(super) fn count_overflow() -> Option<fn()> {
    COUNT_OVERFLOW.get().copied()
}

/// Logs a warning if the first client of the process is served and no scoped recorder was made.
#[inline]
pub(crate) fn warn_without_recorder() {
    static IS_CHECKED: AtomicBool = AtomicBool::new(false);

    #[cold]
    fn check() {
        if !IS_CHECKED.swap(true, Ordering::Relaxed) && !has_recorder() {
            tracing::warn!(
                "a client is served, but its labels are not added to any counter, because this process has no scoped \
                 recorder: call `dualstack_metrics::prometheus::install(PrometheusBuilder::new())` at start-up, or \
                 install your own recorder as `ScopedRecorderLayer::new().layer(recorder)`"
            );
        }
    }

    if !IS_CHECKED.load(Ordering::Relaxed) {
        check();
    }
}
