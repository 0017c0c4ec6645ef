//! Makes scopes from labels and from each other, and says what is used instead at the limit.

use std::cell::Cell;

use super::{
    Scope, TooManyLabelSets, compose,
    intern::{self, LabelSetData},
    pairs::{self, Pairs, pairs_of_list},
    reader,
};
use crate::labels::{
    LabelList, LabelSet,
    list::{Part, list_of},
};

impl Scope {
    /// This scope's labels, added to those of the scope in force.
    #[inline]
    pub(crate) fn within_current(self) -> Self {
        match Self::current() {
            Self { set: None } => self,
            outer => outer.nest_inner(self),
        }
    }

    /// Usually no scope is in force, so this stays out of the way.
    #[inline(never)]
    fn nest_inner(self, inner: Self) -> Self {
        self.nest(inner)
    }

    /// This scope with more labels, or this scope alone if the process has too many label sets.
    #[inline]
    pub(crate) fn with<L: LabelSet>(self, labels: &L) -> Self {
        self.store_with(labels).unwrap_or_else(|_| Self::overflow(self))
    }

    /// Finds in a few nanoseconds what was composed before.
    #[inline]
    pub(super) fn store_with<L: LabelSet>(self, labels: &L) -> Result<Self, TooManyLabelSets> {
        let list = list_of(labels);
        match compose::composed(self.set, &list) {
            Some(set) => Ok(Self { set: Some(set) }),
            None => self.store_composed(&list),
        }
    }

    #[cold]
    fn store_composed(self, list: &LabelList) -> Result<Self, TooManyLabelSets> {
        list.parts()
            .try_fold(self, |scope, part| scope.store_nested(Self::of_part(*part)?))
            .or_else(|_| self.store_at_once(list))
    }

    /// At the limit, the steps on the way to a set may be missing although the set is there.
    #[cold]
    fn store_at_once(self, list: &LabelList) -> Result<Self, TooManyLabelSets> {
        let pairs: Pairs = pairs::borrowed(self.pairs().iter().copied()).collect();
        Self::store(pairs.with(pairs_of_list(list)), self)
    }

    #[inline]
    pub(super) fn of_part(part: Part) -> Result<Self, TooManyLabelSets> {
        match compose::of_part(&part) {
            Some(set) => Ok(Self { set: Some(set) }),
            None => Self::store_part(part),
        }
    }

    #[cold]
    fn store_part(part: Part) -> Result<Self, TooManyLabelSets> {
        let scope = Self::store(pairs::borrowed(part.pairs()).collect(), Self::none())?;
        if let Some(set) = scope.set {
            compose::remember_part(part, set);
        }
        Ok(scope)
    }

    #[inline]
    pub(super) fn store_nested(self, inner: Self) -> Result<Self, TooManyLabelSets> {
        let (Some(outer_set), Some(inner_set)) = (self.set, inner.set) else {
            return Ok(if self.set.is_some() { self } else { inner });
        };
        match compose::nested(outer_set, inner_set) {
            Some(set) => Ok(Self { set: Some(set) }),
            None => self.store_new_nested(inner),
        }
    }

    #[cold]
    fn store_new_nested(self, inner: Self) -> Result<Self, TooManyLabelSets> {
        let both = [self, inner]
            .into_iter()
            .flat_map(|scope| scope.pairs().iter().copied());
        let nested = Self::store(pairs::borrowed(both).collect(), self)?;
        if let (Some(outer), Some(inner), Some(both)) = (self.set, inner.set, nested.set) {
            compose::remember_nested(outer, inner, both);
        }
        Ok(nested)
    }

    /// A scope that has no place yet, and is replaced by `outer` if it cannot have one when it is entered.
    pub(super) fn store(pairs: Pairs, outer: Self) -> Result<Self, TooManyLabelSets> {
        if pairs.as_slice().is_empty() {
            return Ok(Self::none());
        }
        intern::intern(pairs, outer.set).map(|set| Self { set: Some(set) })
    }

    pub(super) fn with_place(self) -> Result<Self, TooManyLabelSets> {
        self.set.map_or(Ok(()), LabelSetData::take_place)?;
        Ok(self)
    }

    /// This scope, or what is used instead if it has no place and cannot have one.
    #[inline]
    pub(super) fn enterable(self) -> Self {
        match self.set {
            Some(set) if set.place() == 0 => self.with_place_or_outer(),
            _ => self,
        }
    }

    #[cold]
    fn with_place_or_outer(self) -> Self {
        if self.with_place().is_ok() {
            return self;
        }
        let mut outers = std::iter::successors(self.set, |set| set.outer());
        let set = outers.find(|set| set.take_place().is_ok());
        Self::overflow(set.map_or_else(Self::current, |set| Self { set: Some(set) }))
    }

    #[cold]
    pub(super) fn overflow(instead: Self) -> Self {
        thread_local! {
            static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
        }

        struct Counted;

        impl Drop for Counted {
            fn drop(&mut self) {
                IS_COUNTING.set(false);
            }
        }

        intern::count_overflow();
        // A recorder that itself makes scopes can overflow again while it counts.
        if reader::has_reader() && !IS_COUNTING.replace(true) {
            let _counted = Counted;
            Self::none().run(reader::count_overflow);
        }
        instead
    }
}
