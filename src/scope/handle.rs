use std::fmt;

use super::intern;
use crate::labels::{LabelList, LabelSet, written};

/// A handle to a list of labels that can be put in force. It is `Copy`, and smaller than a pointer.
///
/// Scopes with the same labels are equal.
#[derive(Clone, Copy)]
pub struct Scope {
    /// The number of the label set in the lower half, and in the upper half the number that it had when the scope was
    /// entered. In one integer, which is copied in one instruction.
    sets: u32,
}

impl Scope {
    /// No labels. Entering it leaves every scope.
    #[must_use]
    pub const fn none() -> Self {
        Self::of_set(0)
    }

    /// The labels, as name and value, ordered by name. Empty for [`none`](Self::none).
    #[must_use]
    pub fn pairs(self) -> &'static [(&'static str, &'static str)] {
        intern::labels_of(self.set())
    }

    /// The value of the label `name`, or `None` if the scope has no such label.
    #[must_use]
    pub fn value_of(self, name: &str) -> Option<&'static str> {
        self.pairs()
            .iter()
            .find(|(other, _)| written(other).eq(written(name)))
            .map(|&(_, value)| value)
    }

    pub(super) const fn of_set(set: u16) -> Self {
        Self {
            sets: set as u32 | (set as u32) << u16::BITS,
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn set(self) -> u16 {
        self.sets as u16
    }

    /// The scope without the labels that [`add`](Self::add) added to it. It is the same at both ends of a request.
    #[inline]
    pub(crate) const fn as_entered(self) -> Self {
        Self::of_set((self.sets >> u16::BITS) as u16)
    }

    /// This scope with the labels of `all`, which it gets after it was entered.
    pub(super) const fn with_added(self, all: Self) -> Self {
        Self {
            sets: all.set() as u32 | self.sets & !(u16::MAX as u32),
        }
    }

    /// A number up to [`MAX_LABEL_SETS`](super::MAX_LABEL_SETS) that identifies the labels. It is 0 for
    /// [`none`](Self::none).
    #[inline]
    pub(crate) fn id(self) -> usize {
        self.set().into()
    }

    /// Returns true at the first call for these labels.
    pub(crate) fn warn_once(self) -> bool {
        intern::warn_once(self.set())
    }
}

impl PartialEq for Scope {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        // Sets are interned by content.
        self.set() == other.set()
    }
}

impl Eq for Scope {}

impl std::hash::Hash for Scope {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.set().hash(state);
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
        if self.set() != 0 {
            list.push_scope(self.set(), || self.pairs());
        }
    }
}
