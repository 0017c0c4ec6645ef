//! A handle that is registered once and chooses its series at each use.

use std::{
    cell::Cell,
    sync::{
        Arc, Weak,
        atomic::{AtomicIsize, Ordering},
    },
};

use metrics::{Counter, CounterFn, Histogram, HistogramFn, Key, Metadata, Recorder};

use super::{
    key,
    lease::{Expiry, Interim, Lease, Now, Slot},
    metadata::OwnedMetadata,
};
use crate::{
    cache::{Cache, Cached},
    scope::{Scope, ScopeTable},
};

/// The recorder that handles register with, and its settings.
pub(super) struct Target {
    pub(super) recorder: Weak<dyn Recorder + Send + Sync>,
    pub(super) expiry: Option<Expiry>,
    pub(super) cache: bool,
}

/// The kinds of metric that are scoped at each use.
pub(super) trait Metric: Clone + Send + Sync + 'static {
    fn register(recorder: &dyn Recorder, key: &Key, metadata: &Metadata<'_>) -> Self;

    fn from_handle(handle: Arc<Handle<Self>>) -> Self;

    /// Calls `f` with the cache of this thread. Returns `None` while the thread's locals are being destroyed.
    fn with_cache<T>(f: impl FnOnce(&ThreadCache<Self>) -> T) -> Option<T>;
}

type ThreadCache<M> = Cache<Cell<Option<Arc<Handle<M>>>>>;

macro_rules! impl_metric {
    ($metric:ident, $register:ident) => {
        impl Metric for $metric {
            fn register(recorder: &dyn Recorder, key: &Key, metadata: &Metadata<'_>) -> Self {
                recorder.$register(key, metadata)
            }

            fn from_handle(handle: Arc<Handle<Self>>) -> Self {
                Self::from_arc(handle)
            }

            #[inline]
            fn with_cache<T>(f: impl FnOnce(&ThreadCache<Self>) -> T) -> Option<T> {
                thread_local! {
                    static CACHE: ThreadCache<$metric> = const { Cache::new() };
                }
                CACHE.try_with(f).ok()
            }
        }
    };
}

impl_metric!(Counter, register_counter);
impl_metric!(Histogram, register_histogram);

/// A metric that is registered with the inner recorder once for each scope that it is used in.
///
/// Nothing is locked or borrowed while it registers, allocates or calls an inner metric, so all of these may use the
/// same handle again.
// In this order, so that the fields that each use reads are close together.
#[repr(C)]
pub(super) struct Handle<M> {
    metadata: OwnedMetadata,
    key: Key,
    /// Slots in use, minus renewals.
    renewal_budget: AtomicIsize,
    target: Arc<Target>,
    slots: ScopeTable<Slot<M>>,
}

impl<M: Metric> Handle<M> {
    /// The handle that this thread has for `key`, or a new one if the name `is_scoped`. `None` for a name that is not.
    /// `made` is called with a new one.
    ///
    /// While the thread's locals are being destroyed there is no cache, and a handle is made at each call.
    #[inline]
    pub(super) fn find_or_make(
        target: &Arc<Target>,
        key: &Key,
        metadata: &Metadata<'_>,
        is_scoped: impl FnOnce() -> bool,
        made: impl FnOnce(&Arc<Self>),
    ) -> Option<Arc<Self>> {
        // Two recorders that use the same key get different hashes.
        let hash = key.get_hash() ^ (Arc::as_ptr(target) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let known = M::with_cache(|cache| {
            cache.find(hash, |handle| {
                (handle.is_for(target, key, metadata) && !handle.is_stale()).then(|| Arc::clone(handle))
            })
        });
        known
            .flatten()
            .or_else(|| is_scoped().then(|| Self::make(hash, target, key, metadata, made)))
    }

    #[cold]
    fn make(
        hash: u64,
        target: &Arc<Target>,
        key: &Key,
        metadata: &Metadata<'_>,
        made: impl FnOnce(&Arc<Self>),
    ) -> Arc<Self> {
        let handle = Arc::new(Self {
            target: Arc::clone(target),
            metadata: OwnedMetadata::new(metadata),
            key: key.to_retained(),
            slots: ScopeTable::new(Slot::default()),
            renewal_budget: AtomicIsize::new(0),
        });
        M::with_cache(|cache| cache.insert(hash, Arc::clone(&handle)));
        made(&handle);
        handle
    }

    /// Registers the metric of a scope, which the exporter then renders as zero.
    pub(super) fn start_at_zero(&self, scope: Scope) {
        if let Some(recorder) = self.target.recorder.upgrade() {
            self.register(&*recorder, scope);
        }
    }

    /// Calls `f` with the inner metric of a scope. `changes` tells whether the exporter takes the call for a use.
    #[inline]
    fn with(&self, scope: Scope, changes: bool, f: impl FnOnce(&M)) {
        let now = self.target.expiry.as_ref().map(Expiry::now);
        let confirmed = self.slots.get(scope).and_then(|slot| slot.confirmed.get());
        let f = match confirmed {
            Some(lease) => match lease.with(now, changes, f) {
                Ok(()) => return,
                Err(f) => f,
            },
            None => f,
        };
        self.with_interim(scope, now, changes, f);
    }

    #[inline(never)]
    fn with_interim<F: FnOnce(&M)>(&self, scope: Scope, now: Option<Now<'_>>, changes: bool, f: F) {
        if !self.target.cache {
            if let Some(recorder) = self.target.recorder.upgrade() {
                f(&self.register(&*recorder, scope));
            }
            return;
        }
        let slot = self.slots.get_or_allocate(scope);
        let interim = slot.interim.load();
        let f = match interim.as_deref() {
            Some(interim) => match interim.with(now, changes, f) {
                Ok(()) => return,
                Err(f) => f,
            },
            None => f,
        };
        let Some(recorder) = self.target.recorder.upgrade() else {
            // The exporter may still render the last metric.
            let last = interim.as_deref().map(Interim::metric);
            if let Some(metric) = last.or_else(|| Some(&slot.confirmed.get()?.metric)) {
                f(metric);
            }
            return;
        };

        let metric = self.register(&*recorder, scope);
        f(&metric);
        if let Some(now) = now {
            // Without a change, the exporter may forget the metric as if it had not been used.
            if !changes {
                return;
            }
            let earlier = interim.as_deref();
            if !earlier.is_some_and(|earlier| earlier.is_confirmed_by(now)) {
                let unconfirmed = Interim::unconfirmed(metric, earlier, now, now.again());
                slot.interim.store(Some(Arc::new(unconfirmed)));
                return;
            }
        }
        let confirmed = Lease::new(metric, now);
        match (slot.confirmed.set(confirmed), slot.confirmed.get()) {
            (Ok(()), _) => {
                self.renewal_budget.fetch_add(1, Ordering::Relaxed);
                slot.interim.store(None);
            }
            // Another thread was faster.
            (Err(_), Some(confirmed)) if confirmed.is_valid(now) => {}
            (Err(renewed), _) => {
                self.renewal_budget.fetch_sub(1, Ordering::Relaxed);
                slot.interim.store(Some(Arc::new(Interim::Renewed(renewed))));
            }
        }
    }

    fn register(&self, recorder: &dyn Recorder, scope: Scope) -> M {
        M::register(
            recorder,
            &key::scoped(&self.key, scope),
            &self.metadata.borrowed(),
        )
    }
}

impl<M> Handle<M> {
    #[inline]
    fn is_for(&self, target: &Arc<Target>, key: &Key, metadata: &Metadata<'_>) -> bool {
        Arc::ptr_eq(&self.target, target) && key::is_same(&self.key, key) && self.metadata.is(metadata)
    }

    /// Whether more leases were renewed than there are slots. A new handle is then faster, and costs about as many
    /// registrations.
    #[inline]
    fn is_stale(&self) -> bool {
        self.renewal_budget.load(Ordering::Relaxed) < 0
    }
}

impl<M> Cached for Handle<M> {
    fn is_same(&self, other: &Self) -> bool {
        self.is_for(&other.target, &other.key, &other.metadata.borrowed())
    }

    /// Whether its recorder is gone.
    fn is_idle(&self) -> bool {
        self.target.recorder.strong_count() == 0
    }
}

impl CounterFn for Handle<Counter> {
    fn increment(&self, value: u64) {
        self.with(Scope::current(), true, |counter| counter.increment(value));
    }

    fn absolute(&self, value: u64) {
        self.with(Scope::none(), true, |counter| counter.absolute(value));
    }
}

impl HistogramFn for Handle<Histogram> {
    fn record(&self, value: f64) {
        self.with(Scope::current(), true, |histogram| histogram.record(value));
    }

    fn record_many(&self, value: f64, count: usize) {
        self.with(Scope::current(), count > 0, |histogram| {
            histogram.record_many(value, count);
        });
    }
}
