//! The inner metrics of a handle, found by the number of a scope.

use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;
use std::sync::OnceLock;

use super::lease::{Latest, Lease};
use crate::scope::{MAX_LABEL_SETS, Scope};

/// A table has 32 branches of 16 leaves of 8 slots: one slot for each scope. Leaves are small, because most handles are
/// used in few scopes, whose numbers follow each other.
const BRANCHES: usize = 32;
const LEAVES: usize = 16;
const SLOTS: usize = 8;
const _: () = assert!(MAX_LABEL_SETS <= BRANCHES * LEAVES * SLOTS);

/// The metric of one scope.
pub(super) struct Slot<M> {
    /// Set once, at the first confirmation. What this holds is the fastest to use.
    pub(super) confirmed: OnceLock<Lease<M>>,
    /// What is in use before `confirmed` is set, and after it has expired.
    pub(super) latest: ArcSwapOption<Latest<M>>,
}

impl<M> Slot<M> {
    const fn new() -> Self {
        Self {
            confirmed: OnceLock::new(),
            latest: ArcSwapOption::const_empty(),
        }
    }
}

type Leaf<M> = [Slot<M>; SLOTS];
type Branch<M> = [OnceBox<Leaf<M>>; LEAVES];

/// A slot for each scope, allocated in groups at their first use. Nothing is locked meanwhile: of two threads that
/// allocate the same group, one drops its own.
// In this order, so that the first branches are next to what each use reads in the handle.
#[repr(C)]
pub(super) struct Slots<M> {
    branches: [OnceBox<Branch<M>>; BRANCHES],
    outside: Slot<M>,
}

impl<M> Slots<M> {
    pub(super) const fn new() -> Self {
        Self {
            branches: [const { OnceBox::new() }; BRANCHES],
            outside: Slot::new(),
        }
    }

    #[inline]
    pub(super) fn get(&self, scope: Scope) -> Option<&Slot<M>> {
        let Some((branch, leaf, slot)) = position(scope) else {
            return Some(&self.outside);
        };
        Some(&self.branches[branch].get()?[leaf].get()?[slot])
    }

    pub(super) fn get_or_allocate(&self, scope: Scope) -> &Slot<M> {
        let Some((branch, leaf, slot)) = position(scope) else {
            return &self.outside;
        };
        let leaves = self.branches[branch].get_or_init(|| Box::new([const { OnceBox::new() }; LEAVES]));
        let slots = leaves[leaf].get_or_init(|| Box::new([const { Slot::new() }; SLOTS]));
        &slots[slot]
    }
}

/// `None` outside every scope.
#[inline]
fn position(scope: Scope) -> Option<(usize, usize, usize)> {
    let at = scope.id().checked_sub(1)?;
    Some((at / SLOTS / LEAVES % BRANCHES, at / SLOTS % LEAVES, at % SLOTS))
}
