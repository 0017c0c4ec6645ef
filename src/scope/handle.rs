use std::fmt;

use super::intern::LabelSetData;
use crate::labels::{LabelList, LabelSet, list::Part, written};

/// A handle to a list of labels that can be put in force. It is `Copy`, and as small as a pointer.
///
/// Scopes with the same labels are equal.
#[derive(Clone, Copy)]
pub struct Scope {
    set: Option<&'static LabelSetData>,
}

impl Scope {
    /// No labels. Entering it leaves every scope.
    #[must_use]
    pub const fn none() -> Self {
        Self { set: None }
    }

    /// The labels, as name and value, ordered by name. Empty for [`none`](Self::none).
    #[must_use]
    pub fn pairs(self) -> &'static [(&'static str, &'static str)] {
        self.set.map_or(&[], LabelSetData::pairs)
    }

    /// The value of the label `name`, or `None` if the scope has no such label.
    #[must_use]
    pub fn value_of(self, name: &str) -> Option<&'static str> {
        self.pairs()
            .iter()
            .find(|(other, _)| written(other).eq(written(name)))
            .map(|&(_, value)| value)
    }

    pub(super) const fn of_set(set: &'static LabelSetData) -> Self {
        Self { set: Some(set) }
    }

    /// An address that identifies the scope.
    #[inline]
    pub(super) fn address(self) -> usize {
        self.set.map_or(0, |set| std::ptr::from_ref(set).addr())
    }

    /// A number up to [`MAX_LABEL_SETS`](super::MAX_LABEL_SETS) that identifies the scope. It is 0 for
    /// [`none`](Self::none).
    #[inline]
    pub(crate) fn id(self) -> usize {
        self.set.map_or(0, |set| 1 + usize::from(set.index()))
    }

    /// Returns true at the first call for this scope.
    pub(crate) fn warn_once(self) -> bool {
        self.set.is_some_and(LabelSetData::warn_once)
    }
}

impl PartialEq for Scope {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (self.set, other.set) {
            // Sets are interned by content.
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Scope {}

impl std::hash::Hash for Scope {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.set.map(LabelSetData::index).hash(state);
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope ")?;
        f.debug_map().entries(self.pairs().iter().copied()).finish()
    }
}

/// The labels of the scope. They are bounded, because the number of scopes is.
impl LabelSet for Scope {
    #[expect(
        clippy::inline_always,
        reason = "the mode of the list is known where it is made"
    )]
    #[inline(always)]
    fn append_to(&self, list: &mut LabelList) {
        if let Some(set) = self.set {
            list.push_part(Part::Pairs(set.pairs()));
        }
    }
}
