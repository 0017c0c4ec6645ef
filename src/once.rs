//! Warnings that are logged once.

use std::sync::atomic::{AtomicBool, Ordering};

/// Remembers whether a warning was logged.
#[derive(Debug, Default)]
pub(crate) struct WarnOnce(AtomicBool);

impl WarnOnce {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Whether this is the first call. Later calls only read.
    #[inline]
    pub(crate) fn first(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && self.set()
    }

    #[cold]
    fn set(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }
}
