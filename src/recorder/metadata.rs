//! The origin of a metric.

use metrics::{Level, Metadata};

/// The [`Metadata`] of a metric, kept for later registrations.
pub(super) struct OwnedMetadata {
    target: Box<str>,
    level: Level,
    module_path: ModulePath,
}

enum ModulePath {
    /// In a macro without a `target:`.
    Target,
    Other(Option<Box<str>>),
}

impl OwnedMetadata {
    pub(super) fn new(metadata: &Metadata<'_>) -> Self {
        let (target, module_path) = (metadata.target(), metadata.module_path());
        Self {
            target: target.into(),
            level: *metadata.level(),
            module_path: if module_path == Some(target) {
                ModulePath::Target
            } else {
                ModulePath::Other(module_path.map(Into::into))
            },
        }
    }

    #[inline]
    pub(super) fn is(&self, metadata: &Metadata<'_>) -> bool {
        let (target, module_path) = (metadata.target(), metadata.module_path());
        if self.level != *metadata.level() || *self.target != *target {
            return false;
        }
        match &self.module_path {
            // A macro uses one string for both, which need not be compared twice.
            ModulePath::Target => {
                module_path.is_some_and(|path| std::ptr::eq(path, target) || path == target)
            }
            ModulePath::Other(other) => other.as_deref() == module_path,
        }
    }

    pub(super) fn borrowed(&self) -> Metadata<'_> {
        let module_path = match &self.module_path {
            ModulePath::Target => Some(&*self.target),
            ModulePath::Other(other) => other.as_deref(),
        };
        Metadata::new(&self.target, self.level, module_path)
    }
}
