//! A place for each scope, found by the scope's number.

use once_cell::race::OnceBox;

use super::{handle::Scope, intern::MAX_LABEL_SETS};

/// A table has 32 branches of 16 leaves of 8 places: one place for each scope. Leaves are small, because most tables are
/// used in few scopes, whose numbers follow each other.
const BRANCHES: usize = 32;
const LEAVES: usize = 16;
const PLACES: usize = 8;
const _: () = assert!(MAX_LABEL_SETS <= BRANCHES * LEAVES * PLACES);

type Leaf<T> = [T; PLACES];
type Branch<T> = [OnceBox<Leaf<T>>; LEAVES];

/// A value for each scope, allocated in groups at their first use. Nothing is locked meanwhile: of two threads that
/// allocate the same group, one drops its own.
// In this order, so that the first branches share a cache line with the fields in front of the table.
#[repr(C)]
pub(crate) struct ScopeTable<T> {
    branches: [OnceBox<Branch<T>>; BRANCHES],
    outside: T,
}

impl<T: Default> ScopeTable<T> {
    /// An empty table, with the value outside every scope.
    pub(crate) const fn new(outside: T) -> Self {
        Self {
            branches: [const { OnceBox::new() }; BRANCHES],
            outside,
        }
    }

    /// `None` if the scope's group was never used.
    #[inline]
    pub(crate) fn get(&self, scope: Scope) -> Option<&T> {
        let Some((branch, leaf, place)) = position(scope) else {
            return Some(&self.outside);
        };
        Some(&self.branches[branch].get()?[leaf].get()?[place])
    }

    pub(crate) fn get_or_allocate(&self, scope: Scope) -> &T {
        let Some((branch, leaf, place)) = position(scope) else {
            return &self.outside;
        };
        let leaves = self.branches[branch].get_or_init(|| Box::new([const { OnceBox::new() }; LEAVES]));
        let places = leaves[leaf].get_or_init(|| Box::new(std::array::from_fn(|_| T::default())));
        &places[place]
    }
}

/// `None` outside every scope.
#[inline]
fn position(scope: Scope) -> Option<(usize, usize, usize)> {
    let at = scope.id().checked_sub(1)?;
    Some((at / PLACES / LEAVES % BRANCHES, at / PLACES % LEAVES, at % PLACES))
}
