//! Where a metric says that it comes from.

use metrics::{Level, Metadata};

/// The [`Metadata`] of a metric, kept for later registrations.
pub(super) struct OwnedMetadata {
    target: Box<str>,
    level: Level,
    module_path: Option<Box<str>>,
    /// True for a macro without a `target:`.
    target_is_module_path: bool,
}

impl OwnedMetadata {
    pub(super) fn new(metadata: &Metadata<'_>) -> Self {
        Self {
            target: metadata.target().into(),
            level: *metadata.level(),
            module_path: metadata.module_path().map(Into::into),
            target_is_module_path: metadata.module_path() == Some(metadata.target()),
        }
    }

    #[inline]
    pub(super) fn is(&self, metadata: &Metadata<'_>) -> bool {
        let (target, module_path) = (metadata.target(), metadata.module_path());
        if self.level != *metadata.level() || *self.target != *target {
            return false;
        }
        // A macro uses one string for both, which need not be compared twice.
        let are_one = module_path.is_some_and(|path| std::ptr::eq(path, target));
        are_one && self.target_is_module_path || self.module_path.as_deref() == module_path
    }

    pub(super) fn borrowed(&self) -> Metadata<'_> {
        Metadata::new(&self.target, self.level, self.module_path.as_deref())
    }
}
