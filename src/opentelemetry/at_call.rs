//! The attributes at the call that an instrument was used with, by scope.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use opentelemetry::KeyValue;

use super::{attributes, binding::Inner, instrument::Instrument};
use crate::{
    cache::{Cache, Cached},
    scope::Scope,
};

/// Attributes at the call in one scope, alone and with the attributes of the scope.
struct Entry<I: Instrument> {
    scope: Scope,
    at_call: Box<[KeyValue]>,
    merged: Box<[KeyValue]>,
    /// Set at the second use, so that attributes that occur once bind nothing.
    bound: OnceLock<I::Bound>,
    was_used: AtomicBool,
}

impl<I: Instrument> Entry<I> {
    fn is_for(&self, scope: Scope, at_call: &[KeyValue]) -> bool {
        self.scope == scope && *self.at_call == *at_call
    }

    #[inline]
    fn measure(&self, inner: &Inner<I>, value: I::Value) {
        if !self.was_used.load(Ordering::Relaxed) {
            self.was_used.store(true, Ordering::Relaxed);
        }
        match self.bound.get().or_else(|| self.bind(inner)) {
            Some(bound) => I::measure_bound(bound, value),
            None => inner.instrument.measure(value, &self.merged),
        }
    }

    fn bind(&self, inner: &Inner<I>) -> Option<&I::Bound> {
        if !inner.binding.is_known_to_work() {
            return None;
        }
        // Made before, because making it may come back here.
        let bound = inner.bind(&self.merged)?;
        Some(self.bound.get_or_init(|| bound))
    }
}

impl<I: Instrument> Cached for Entry<I> {
    fn is_same(&self, other: &Self) -> bool {
        self.is_for(other.scope, &other.at_call)
    }

    /// Whether it was not used since the last call.
    fn is_idle(&self) -> bool {
        !self.was_used.swap(false, Ordering::Relaxed)
    }
}

pub(super) struct AtCall<I: Instrument> {
    cache: Cache<ArcSwapOption<Entry<I>>>,
}

impl<I: Instrument> AtCall<I> {
    pub(super) const fn new() -> Self {
        Self { cache: Cache::new() }
    }

    #[inline]
    pub(super) fn measure(&self, inner: &Inner<I>, scope: Scope, value: I::Value, at_call: &[KeyValue]) {
        let hash = hash(scope, at_call);
        let known = self.cache.find(hash, |entry| {
            let is_it = entry.is_for(scope, at_call);
            is_it.then(|| entry.measure(inner, value))
        });
        if known.is_none() {
            self.measure_new(hash, inner, scope, value, at_call);
        }
    }

    #[cold]
    fn measure_new(&self, hash: u64, inner: &Inner<I>, scope: Scope, value: I::Value, at_call: &[KeyValue]) {
        let merged = attributes::merged(scope, at_call);
        let bound = OnceLock::new();
        // A provider shows only with new attributes whether it binds.
        let first = (!inner.binding.is_known_to_work()).then(|| inner.bind(&merged));
        match first.flatten() {
            Some(first) => I::measure_bound(bound.get_or_init(|| first), value),
            None => inner.instrument.measure(value, &merged),
        }
        // A value that is not equal to itself would not be found again.
        if at_call.iter().any(|pair| *pair != pair.clone()) {
            return;
        }
        let entry = Entry {
            scope,
            at_call: at_call.into(),
            merged,
            bound,
            was_used: AtomicBool::new(false),
        };
        self.cache.insert(hash, Arc::new(entry));
    }
}

#[inline]
fn hash(scope: Scope, at_call: &[KeyValue]) -> u64 {
    let mut hasher = DefaultHasher::default();
    scope.hash(&mut hasher);
    for pair in at_call {
        pair.hash(&mut hasher);
    }
    hasher.finish()
}
