//! A handle that is registered once and chooses its series at each use.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicBool, AtomicU16, Ordering},
};

use arc_swap::ArcSwapOption;
use metrics::{Counter, CounterFn, Histogram, HistogramFn, Key, Metadata, Recorder};

use super::{
    key,
    lease::{Expiry, Lease, Now},
    metadata::OwnedMetadata,
};
use crate::scope::{MAX_LABEL_SETS, Scope};

/// For how many scopes a handle caches what the inner recorder gave it.
pub const CACHED_SCOPES: usize = FIRST_SLOTS + MORE_SLOTS + OVERFLOW_SLOTS;

/// Enough for the clients of one binding, which is all that most counters see.
const FIRST_SLOTS: usize = 4;
/// In sets of so many [`WAYS`], by the scope.
const MORE_SLOTS: usize = 32;
const WAYS: usize = 4;
const OVERFLOW_SLOTS: usize = 64;

/// The recorder that handles register with, and what they have to know about it.
pub(super) struct Target {
    pub(super) recorder: Weak<dyn Recorder + Send + Sync>,
    pub(super) expiry: Option<Expiry>,
    pub(super) cache: bool,
}

/// The kinds of metric that choose at their use.
pub(super) trait Metric: Clone + Send + Sync + 'static {
    fn register(recorder: &dyn Recorder, key: &Key, metadata: &Metadata<'_>) -> Self;

    fn from_handle(handle: Arc<Handle<Self>>) -> Self;
}

macro_rules! impl_metric {
    ($metric:ident, $register:ident) => {
        impl Metric for $metric {
            fn register(recorder: &dyn Recorder, key: &Key, metadata: &Metadata<'_>) -> Self {
                recorder.$register(key, metadata)
            }

            fn from_handle(handle: Arc<Handle<Self>>) -> Self {
                Self::from_arc(handle)
            }
        }
    };
}

impl_metric!(Counter, register_counter);
impl_metric!(Histogram, register_histogram);

/// What a handle knows of one scope.
struct Slot<M> {
    scope: Scope,
    first: Lease<M>,
    /// In the place of the first lease, when that has expired: a slot is filled once.
    renewed: ArcSwapOption<Lease<M>>,
}

type Slots<M, const N: usize> = [OnceLock<Slot<M>>; N];

/// A metric that is registered with the inner recorder once for each scope it is used in.
// In this order, so that what each use reads stands together.
#[repr(C)]
pub(super) struct Handle<M> {
    target: Arc<Target>,
    metadata: Arc<OwnedMetadata>,
    key: Key,
    is_stale: AtomicBool,
    /// The scopes of the slots, as ids plus one, so that a search does not go through the slots themselves.
    tags: [AtomicU16; FIRST_SLOTS + MORE_SLOTS],
    more: OnceLock<Box<Slots<M, MORE_SLOTS>>>,
    first: Slots<M, FIRST_SLOTS>,
    overflow: ArcSwapOption<Vec<Arc<Slot<M>>>>,
}

impl<M: Metric> Handle<M> {
    pub(super) fn new(target: &Arc<Target>, key: &Key, metadata: Arc<OwnedMetadata>) -> Self {
        Self {
            target: Arc::clone(target),
            key: key.to_retained(),
            metadata,
            is_stale: AtomicBool::new(false),
            tags: [const { AtomicU16::new(0) }; FIRST_SLOTS + MORE_SLOTS],
            first: [const { OnceLock::new() }; FIRST_SLOTS],
            more: OnceLock::new(),
            overflow: ArcSwapOption::empty(),
        }
    }

    /// Calls `f` with the inner metric of a scope.
    #[inline]
    fn with(&self, scope: Scope, f: impl FnOnce(&M)) {
        let now = self.target.expiry.as_ref().map(Expiry::now);
        match self.slot(scope) {
            Some(slot) if slot.first.is_fresh(now) => f(&slot.first.metric),
            Some(slot) => self.with_renewed(slot, now, f),
            None => self.with_overflow(scope, now, f),
        }
    }

    #[inline]
    fn slot(&self, scope: Scope) -> Option<&Slot<M>> {
        let tag = tag(scope);
        let is_it = |at: &usize| self.tags[*at].load(Ordering::Acquire) == tag;
        if let Some(at) = (0..FIRST_SLOTS).find(is_it) {
            return self.first[at].get();
        }
        let set = set_of(scope);
        let at = (FIRST_SLOTS + set..FIRST_SLOTS + set + WAYS).find(is_it)?;
        self.more.get()?[at - FIRST_SLOTS].get()
    }

    #[inline(never)]
    fn with_renewed(&self, slot: &Slot<M>, now: Option<Now<'_>>, f: impl FnOnce(&M)) {
        let renewed = slot.renewed.load();
        if let Some(lease) = &*renewed
            && lease.is_fresh(now)
        {
            if !self.is_stale() {
                // It is in use again: a macro gets a new handle, which has this in a first lease.
                self.is_stale.store(true, Ordering::Relaxed);
            }
            return f(&lease.metric);
        }
        match self.with_registered(slot.scope, f) {
            Ok(metric) => slot.renewed.store(Some(Arc::new(Lease::new(metric, now)))),
            // Whoever holds the exporter's handle can still render what was registered before.
            Err(f) => f(&renewed.as_ref().map_or(&slot.first, |lease| lease).metric),
        }
    }

    #[cold]
    fn with_overflow(&self, scope: Scope, now: Option<Now<'_>>, f: impl FnOnce(&M)) {
        if !self.target.cache {
            // Without a recorder there is nothing that was kept either.
            let _ = self.with_registered(scope, f);
            return;
        }
        let overflow = self.overflow.load();
        let slot = overflow
            .iter()
            .flat_map(|slots| slots.iter())
            .find(|slot| slot.scope == scope);
        match slot {
            Some(slot) if slot.first.is_fresh(now) => f(&slot.first.metric),
            Some(slot) => self.with_renewed(slot, now, f),
            None => {
                if let Ok(metric) = self.with_registered(scope, f) {
                    self.remember(Slot {
                        scope,
                        first: Lease::new(metric, now),
                        renewed: ArcSwapOption::empty(),
                    });
                }
            }
        }
    }

    /// Calls `f` with a metric that is registered for it, and returns one to keep; or `f`, where the recorder is gone.
    /// Nothing is locked or borrowed meanwhile.
    #[cold]
    fn with_registered<F: FnOnce(&M)>(&self, scope: Scope, f: F) -> Result<M, F> {
        let Some(recorder) = self.target.recorder.upgrade() else {
            return Err(f);
        };
        let (key, metadata) = (key::scoped(&self.key, scope), self.metadata.borrowed());
        let metric = M::register(&*recorder, &key, &metadata);
        f(&metric);
        if self.target.expiry.is_none() {
            return Ok(metric);
        }
        // An exporter that forgot it just before it was used has lost this one use, as it would a macro's. But it has
        // to be asked again before its answer is kept: what it has now was used just now, or is new.
        Ok(M::register(&*recorder, &key, &metadata))
    }

    fn remember(&self, slot: Slot<M>) {
        let scope = slot.scope;
        let (first_tags, more_tags) = self.tags.split_at(FIRST_SLOTS);
        let Err(slot) = fill(&self.first, first_tags, slot) else {
            return;
        };
        let more = self
            .more
            .get_or_init(|| Box::new([const { OnceLock::new() }; MORE_SLOTS]));
        let set = set_of(scope)..set_of(scope) + WAYS;
        let Err(slot) = fill(&more[set.clone()], &more_tags[set], slot) else {
            return;
        };
        let slot = Arc::new(slot);
        self.overflow.rcu(|slots| {
            let mut slots = slots.as_deref().cloned().unwrap_or_default();
            if slots.len() == OVERFLOW_SLOTS {
                slots.remove(0);
            }
            slots.push(Arc::clone(&slot));
            Some(Arc::new(slots))
        });
    }
}

/// Never 0, which is the tag of an empty slot.
#[inline]
fn tag(scope: Scope) -> u16 {
    const { assert!(MAX_LABEL_SETS < u16::MAX as usize) };
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let tag = scope.id() as u16 + 1;
    tag
}

#[inline]
fn set_of(scope: Scope) -> usize {
    scope.id() % (MORE_SLOTS / WAYS) * WAYS
}

/// Puts a slot in the first free place, unless another thread has put the same there.
fn fill<M>(places: &[OnceLock<Slot<M>>], tags: &[AtomicU16], mut slot: Slot<M>) -> Result<(), Slot<M>> {
    let scope = slot.scope;
    for (place, its_tag) in places.iter().zip(tags) {
        match place.set(slot) {
            Ok(()) => {
                its_tag.store(tag(scope), Ordering::Release);
                return Ok(());
            }
            Err(_) if place.get().is_some_and(|there| there.scope == scope) => return Ok(()),
            Err(back) => slot = back,
        }
    }
    Err(slot)
}

impl<M> Handle<M> {
    #[inline]
    pub(super) fn is_for(&self, target: &Arc<Target>, key: &Key, metadata: &Metadata<'_>) -> bool {
        Arc::ptr_eq(&self.target, target) && key::is_same(&self.key, key) && self.metadata.is(metadata)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.is_for(&other.target, &other.key, &other.metadata.borrowed())
    }

    /// Whether something in it was renewed and is in use, so that a new handle would be faster.
    #[inline]
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Whether its recorder is gone.
    pub(super) fn is_orphan(&self) -> bool {
        self.target.recorder.strong_count() == 0
    }
}

impl CounterFn for Handle<Counter> {
    fn increment(&self, value: u64) {
        self.with(Scope::current(), |counter| counter.increment(value));
    }

    fn absolute(&self, value: u64) {
        self.with(Scope::none(), |counter| counter.absolute(value));
    }
}

impl HistogramFn for Handle<Histogram> {
    fn record(&self, value: f64) {
        self.with(Scope::current(), |histogram| histogram.record(value));
    }

    fn record_many(&self, value: f64, count: usize) {
        self.with(Scope::current(), |histogram| {
            histogram.record_many(value, count);
        });
    }
}
