//! What was measured with attributes at the call, by scope and attributes. An instrument remembers a fixed number.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwapOption, Guard};
use once_cell::race::OnceBox;
use opentelemetry::KeyValue;

use super::{attributes, binding::Inner, instrument::Instrument};
use crate::scope::Scope;

// An entry is stored in one of the `WAYS` places of one of its two sets, so that the table is almost full before busy
// entries evict each other. The SDK has 2,000 series of an instrument by default.
const SETS: usize = 512;
const WAYS: usize = 4;

/// In full sets, an entry is replaced when another is missed twice in a row, or this many others were missed. So values
/// that occur once rarely evict what is in use.
const PATIENCE: usize = 8;

/// The attributes at the call in one scope, with those of the scope.
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

struct Set<I: Instrument> {
    hashes: [AtomicU64; WAYS],
    entries: [ArcSwapOption<Entry<I>>; WAYS],
    last_missed: AtomicU64,
    missed: AtomicUsize,
}

impl<I: Instrument> Set<I> {
    fn new() -> Self {
        Self {
            hashes: [const { AtomicU64::new(0) }; WAYS],
            entries: [const { ArcSwapOption::const_empty() }; WAYS],
            last_missed: AtomicU64::new(0),
            missed: AtomicUsize::new(0),
        }
    }

    #[inline]
    fn find(&self, hash: u64, is_it: impl Fn(&Entry<I>) -> bool) -> Option<Guard<Option<Arc<Entry<I>>>>> {
        let mut entries = self.hashes.iter().zip(&self.entries);
        entries.find_map(|(known, entry)| {
            if known.load(Ordering::Relaxed) != hash {
                return None;
            }
            let entry = entry.load();
            entry.as_deref().is_some_and(&is_it).then_some(entry)
        })
    }

    fn store(&self, way: usize, hash: u64, entry: Arc<Entry<I>>) {
        self.hashes[way].store(hash, Ordering::Relaxed);
        self.entries[way].store(Some(entry));
    }

    fn way_with(&self, hash: u64) -> Option<usize> {
        (0..WAYS).find(|&way| self.hashes[way].load(Ordering::Relaxed) == hash)
    }

    /// The first empty place.
    fn free(&self) -> Option<usize> {
        (0..WAYS).find(|&way| self.entries[way].load().is_none())
    }

    /// The place of an entry that was not used since this last looked, if it is to be replaced now.
    fn victim(&self, hash: u64) -> Option<usize> {
        let missed = self.missed.fetch_add(1, Ordering::Relaxed);
        let is_second = self.last_missed.swap(hash, Ordering::Relaxed) == hash;
        if !is_second && !missed.is_multiple_of(PATIENCE) {
            return None;
        }
        let is_idle = |way: &usize| {
            let entry = self.entries[*way].load();
            entry
                .as_ref()
                .is_none_or(|entry| !entry.was_used.swap(false, Ordering::Relaxed))
        };
        let from = missed / PATIENCE;
        let mut ways = (from..from + WAYS).map(|way| way % WAYS);
        ways.find(is_idle).or(Some(from % WAYS))
    }
}

type Table<I> = [OnceBox<Set<I>>; SETS];

/// Nothing is locked meanwhile, and sets are allocated at their first use.
pub(super) struct AtCall<I: Instrument> {
    table: OnceBox<Table<I>>,
}

impl<I: Instrument> AtCall<I> {
    pub(super) const fn new() -> Self {
        Self {
            table: OnceBox::new(),
        }
    }

    #[inline]
    pub(super) fn measure(&self, inner: &Inner<I>, scope: Scope, value: I::Value, at_call: &[KeyValue]) {
        let hash = hash(scope, at_call);
        if let Some(table) = self.table.get() {
            let mut sets = sets_of(hash).into_iter().filter_map(|at| table[at].get());
            let entry = sets.find_map(|set| set.find(hash, |entry| entry.is_for(scope, at_call)));
            if let Some(entry) = entry.as_ref().and_then(|entry| entry.as_deref()) {
                return entry.measure(inner, value);
            }
        }
        self.measure_new(hash, inner, scope, value, at_call);
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
        // What is not equal to itself would not be found again.
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
        self.insert(hash, Arc::new(entry));
    }

    /// Stores an entry in the place of an equal one, in the set with more empty places, or in that of an idle one.
    fn insert(&self, hash: u64, entry: Arc<Entry<I>>) {
        let table = self
            .table
            .get_or_init(|| Box::new([const { OnceBox::new() }; SETS]));
        let sets = sets_of(hash).map(|at| table[at].get_or_init(|| Box::new(Set::new())));
        if let Some((set, way)) = sets.iter().find_map(|set| Some((set, set.way_with(hash)?))) {
            return set.store(way, hash, entry);
        }
        let free = sets.iter().filter_map(|set| Some((set, set.free()?)));
        if let Some((set, way)) = free.min_by_key(|(_, way)| *way) {
            return set.store(way, hash, entry);
        }
        let [first, _] = sets;
        if let Some(way) = first.victim(hash) {
            first.store(way, hash, entry);
        }
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

/// The two sets of a hash.
#[inline]
fn sets_of(hash: u64) -> [usize; 2] {
    [hash, hash >> 32].map(|bits| usize::try_from(bits % SETS as u64).unwrap_or(0))
}
