//! A handle that is registered once and chooses its series at each use.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicIsize, Ordering},
};

use metrics::{Counter, CounterFn, Histogram, HistogramFn, Key, Metadata, Recorder};

use super::{
    key,
    lease::{Expiry, Latest, Lease, Now},
    metadata::OwnedMetadata,
    slots::{Slot, Slots},
};
use crate::scope::Scope;

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

/// A metric that is registered with the inner recorder once for each scope that it is used in.
///
/// Nothing is locked or borrowed while it registers, allocates or calls an inner metric, so all of these may use the
/// same handle again.
// In this order, so that what each use reads is close together.
#[repr(C)]
pub(super) struct Handle<M> {
    metadata: Arc<OwnedMetadata>,
    key: Key,
    /// Slots in use, minus renewals.
    credit: AtomicIsize,
    target: Arc<Target>,
    slots: Slots<M>,
}

impl<M: Metric> Handle<M> {
    pub(super) fn new(target: &Arc<Target>, key: &Key, metadata: Arc<OwnedMetadata>) -> Self {
        Self {
            target: Arc::clone(target),
            metadata,
            key: key.to_retained(),
            slots: Slots::new(Slot::new()),
            credit: AtomicIsize::new(0),
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
        self.with_latest(scope, now, changes, f);
    }

    #[inline(never)]
    fn with_latest<F: FnOnce(&M)>(&self, scope: Scope, now: Option<Now<'_>>, changes: bool, f: F) {
        if !self.target.cache {
            if let Some(recorder) = self.target.recorder.upgrade() {
                f(&self.registration(&*recorder, scope)());
            }
            return;
        }
        let slot = self.slots.get_or_allocate(scope);
        let latest = slot.latest.load();
        let f = match latest.as_deref() {
            Some(latest) => match latest.with(now, changes, f) {
                Ok(()) => return,
                Err(f) => f,
            },
            None => f,
        };
        let Some(recorder) = self.target.recorder.upgrade() else {
            // The exporter may still render what was registered last.
            let last = latest.as_deref().map(Latest::metric);
            if let Some(metric) = last.or_else(|| Some(&slot.confirmed.get()?.metric)) {
                f(metric);
            }
            return;
        };

        let register = self.registration(&*recorder, scope);
        let metric = register();
        f(&metric);
        let confirmed = match now {
            // Without a change, the exporter may forget the metric as if it had not been used.
            Some(_) if !changes => return,
            Some(now)
                if !latest
                    .as_deref()
                    .is_some_and(|latest| latest.is_confirmed_by(now)) =>
            {
                // Registered again, because the exporter may have forgotten the first metric before `f` used it. Then
                // only this use is lost, as with a macro without this layer.
                let trial = Latest::trial(register(), now);
                slot.latest.store(Some(Arc::new(trial)));
                return;
            }
            _ => Lease::new(metric, now),
        };
        match (slot.confirmed.set(confirmed), slot.confirmed.get()) {
            (Ok(()), _) => {
                self.credit.fetch_add(1, Ordering::Relaxed);
                slot.latest.store(None);
            }
            // Another thread was faster.
            (Err(_), Some(confirmed)) if confirmed.is_valid(now) => {}
            (Err(renewed), _) => {
                self.credit.fetch_sub(1, Ordering::Relaxed);
                slot.latest.store(Some(Arc::new(Latest::Renewed(renewed))));
            }
        }
    }

    fn registration(&self, recorder: &dyn Recorder, scope: Scope) -> impl Fn() -> M {
        let key = key::scoped(&self.key, scope);
        move || M::register(recorder, &key, &self.metadata.borrowed())
    }
}

impl<M> Handle<M> {
    #[inline]
    pub(super) fn is_for(&self, target: &Arc<Target>, key: &Key, metadata: &Metadata<'_>) -> bool {
        Arc::ptr_eq(&self.target, target) && key::is_same(&self.key, key) && self.metadata.is(metadata)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.is_for(&other.target, &other.key, &other.metadata.borrowed())
    }

    /// Whether a new handle would be faster, because more leases were renewed than there are slots. A new handle costs
    /// about as many registrations as that took.
    #[inline]
    pub(super) fn is_stale(&self) -> bool {
        self.credit.load(Ordering::Relaxed) < 0
    }

    /// Whether its recorder is gone.
    pub(super) fn is_orphan(&self) -> bool {
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
