//! The inner metrics of a handle: a slot for each scope.

use std::sync::OnceLock;

use arc_swap::ArcSwapOption;

use super::lease::{Interim, Lease};
use crate::scope::ScopeTable;

/// The metric of one scope.
pub(super) struct Slot<M> {
    /// Set once, at the first confirmation. It is the fastest to use.
    pub(super) confirmed: OnceLock<Lease<M>>,
    /// Used before `confirmed` is set, and after it has expired.
    pub(super) interim: ArcSwapOption<Interim<M>>,
}

impl<M> Slot<M> {
    pub(super) const fn new() -> Self {
        Self {
            confirmed: OnceLock::new(),
            interim: ArcSwapOption::const_empty(),
        }
    }
}

impl<M> Default for Slot<M> {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) type Slots<M> = ScopeTable<Slot<M>>;
