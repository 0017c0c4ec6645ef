//! Whether anything in this process reads the scopes.

use std::sync::OnceLock;

use crate::once::WarnOnce;

/// The function with which each kind of reader, such as a recorder, counts overflows.
static COUNT_OVERFLOW: [OnceLock<fn()>; 2] = [const { OnceLock::new() }; 2];

/// Notes that something that reads scopes was made in this process. It counts overflows by `count_overflow`. Call it once
/// for each kind of reader.
pub(crate) fn reader_made(count_overflow: fn()) {
    _ = COUNT_OVERFLOW
        .iter()
        .find(|place| place.set(count_overflow).is_ok());
}

/// Whether something that reads scopes was ever made in this process.
pub(super) fn has_reader() -> bool {
    COUNT_OVERFLOW[0].get().is_some()
}

/// Counts an overflow with each kind of reader.
pub(super) fn count_overflow() {
    let counts = COUNT_OVERFLOW.iter().map_while(OnceLock::get);
    counts.for_each(|count| count());
}

/// Logs a warning if the first client of the process is served and nothing was made that reads scopes.
#[inline]
pub(crate) fn warn_without_recorder() {
    static FIRST_CLIENT: WarnOnce = WarnOnce::new();

    #[cold]
    fn check() {
        if !has_reader() {
            tracing::warn!(
                "a client is served, but its labels are not added to any counter, because this process has no scoped \
                 recorder: call `dualstack_metrics::prometheus::install(PrometheusBuilder::new())` at start-up, or \
                 install your own recorder as `ScopedRecorderLayer::new().wrap(recorder)`; for OpenTelemetry, wrap the \
                 provider as `ScopedMeterProvider::new(provider)`"
            );
        }
    }

    if FIRST_CLIENT.first() {
        check();
    }
}
