//! A handle that is registered once and chooses its series at each use.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use metrics::{Counter, CounterFn, Histogram, HistogramFn, Key, Label, Level, Metadata, Recorder};
use quanta::Clock;

use super::cache::{Cache, LocalCache};
use crate::{labels::written, scope::Scope};

/// For how many scopes a handle caches what the inner recorder gave it.
pub const CACHED_SCOPES: usize = FIRST_SLOTS + MORE_SLOTS + RENEWED_SLOTS;

/// Enough for the clients of one binding, which is all that most counters see.
const FIRST_SLOTS: usize = 4;
const MORE_SLOTS: usize = 32;
const RENEWED_SLOTS: usize = 64;

/// The recorder that handles register with, and what they have to know about it.
pub(super) struct Target {
    pub(super) id: u64,
    pub(super) recorder: Weak<dyn Recorder + Send + Sync>,
    pub(super) expiry: Option<Expiry>,
    pub(super) cache: bool,
}

/// Tells when an inner handle may have been forgotten by the exporter.
pub(super) struct Expiry {
    clock: Clock,
    /// In ticks of the raw clock, as all times here.
    after: u64,
    /// The time of last use is written only when it is this much older, so that the increments of several threads do
    /// not fight for the line that it is on.
    refresh_after: u64,
}

impl Expiry {
    pub(super) fn after(idle: Duration) -> Self {
        const TICKS: u64 = 1 << 40;

        let clock = Clock::new();
        let nanos = u128::from(clock.delta_as_nanos(1, 1 + TICKS).max(1));
        let after =
            u64::try_from(idle.as_nanos().saturating_mul(u128::from(TICKS)) / nanos).unwrap_or(u64::MAX);
        Self {
            clock,
            after,
            refresh_after: after / 8,
        }
    }

    #[inline]
    fn now(&self) -> Now<'_> {
        Now {
            ticks: self.clock.raw(),
            expiry: self,
        }
    }
}

/// The time, read once for each increment.
#[derive(Clone, Copy)]
struct Now<'a> {
    ticks: u64,
    expiry: &'a Expiry,
}

/// The kinds of metric that choose at their use.
pub(super) trait Metric: Clone + Send + Sync + 'static {
    fn register(recorder: &dyn Recorder, key: &Key, metadata: &Metadata<'_>) -> Self;

    fn from_handle(handle: Arc<Handle<Self>>) -> Self;

    /// `None` where the thread's locals are being destroyed.
    fn with_cache<T>(f: impl FnOnce(&LocalCache<Self>) -> T) -> Option<T>;
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

            #[inline]
            fn with_cache<T>(f: impl FnOnce(&LocalCache<Self>) -> T) -> Option<T> {
                thread_local! {
                    static CACHE: LocalCache<$metric> = const { LocalCache::new(Cache::new()) };
                }
                CACHE.try_with(f).ok()
            }
        }
    };
}

impl_metric!(Counter, register_counter);
impl_metric!(Histogram, register_histogram);

/// What the inner recorder gave for one scope.
struct Slot<M> {
    scope: Scope,
    metric: M,
    /// When it was used last, or a little before.
    used: AtomicU64,
    key: Arc<Key>,
}

impl<M> Slot<M> {
    /// Whether the exporter cannot have forgotten the metric by `now`.
    #[inline]
    fn is_fresh(&self, now: Option<Now<'_>>) -> bool {
        let Some(Now { ticks, expiry }) = now else {
            return true;
        };
        // Clocks of two cores may differ by a little.
        let idle = ticks.saturating_sub(self.used.load(Ordering::Relaxed));
        if idle >= expiry.after {
            return false;
        }
        if idle > expiry.refresh_after {
            self.used.store(ticks, Ordering::Relaxed);
        }
        true
    }
}

type Slots<M, const N: usize> = [OnceLock<Slot<M>>; N];

/// A metric that is registered with the inner recorder once for each scope it is used in.
pub(super) struct Handle<M> {
    target: Arc<Target>,
    key: Key,
    level: Level,
    metric_target: Box<str>,
    module_path: Option<Box<str>>,
    is_scoped: bool,
    is_stale: AtomicBool,
    first: Slots<M, FIRST_SLOTS>,
    more: OnceLock<Box<Slots<M, MORE_SLOTS>>>,
    /// A slot above is filled once. What it held and has expired, and what it has no room for, goes here.
    renewed: ArcSwapOption<Vec<Arc<Slot<M>>>>,
}

impl<M: Metric> Handle<M> {
    pub(super) fn new(target: &Arc<Target>, key: &Key, metadata: &Metadata<'_>, is_scoped: bool) -> Self {
        Self {
            target: Arc::clone(target),
            key: key.to_retained(),
            level: *metadata.level(),
            metric_target: metadata.target().into(),
            module_path: metadata.module_path().map(Into::into),
            is_scoped,
            is_stale: AtomicBool::new(false),
            first: [const { OnceLock::new() }; FIRST_SLOTS],
            more: OnceLock::new(),
            renewed: ArcSwapOption::empty(),
        }
    }

    /// Calls `f` with the inner metric of a scope.
    #[inline]
    fn with(&self, scope: Scope, f: impl FnOnce(&M)) {
        let now = self.target.expiry.as_ref().map(Expiry::now);
        if let Some(slot) = self.slot(scope)
            && slot.is_fresh(now)
        {
            f(&slot.metric);
        } else {
            self.with_renewed(scope, now, f);
        }
    }

    /// The slot of a scope. Slots are filled from the front, so the first empty one ends the search.
    #[inline]
    fn slot(&self, scope: Scope) -> Option<&Slot<M>> {
        for slot in &self.first {
            let slot = slot.get()?;
            if slot.scope == scope {
                return Some(slot);
            }
        }
        self.more_of(scope)?
            .iter()
            .map_while(OnceLock::get)
            .find(|slot| slot.scope == scope)
    }

    fn more_of(&self, scope: Scope) -> Option<&[OnceLock<Slot<M>>]> {
        let at = Self::set_of(scope);
        Some(&self.more.get()?[at..at + FIRST_SLOTS])
    }

    fn set_of(scope: Scope) -> usize {
        scope.id() % (MORE_SLOTS / FIRST_SLOTS) * FIRST_SLOTS
    }

    fn with_renewed(&self, scope: Scope, now: Option<Now<'_>>, f: impl FnOnce(&M)) {
        if !self.target.cache {
            return self.with_registered(scope, now, None, f);
        }
        let renewed = self.renewed.load();
        let slot = renewed
            .iter()
            .flat_map(|slots| slots.iter())
            .find(|slot| slot.scope == scope);
        match slot {
            Some(slot) if slot.is_fresh(now) => f(&slot.metric),
            Some(slot) => self.with_registered(scope, now, Some(slot), f),
            None => self.with_registered(scope, now, self.slot(scope), f),
        }
    }

    /// Registers with the inner recorder, where what is known has expired. Nothing is locked or borrowed meanwhile.
    #[cold]
    fn with_registered(
        &self,
        scope: Scope,
        now: Option<Now<'_>>,
        expired: Option<&Slot<M>>,
        f: impl FnOnce(&M),
    ) {
        let Some(recorder) = self.target.recorder.upgrade() else {
            // Whoever holds the exporter's handle can still render what was registered before.
            if let Some(slot) = expired {
                f(&slot.metric);
            }
            return;
        };
        let key = expired.map_or_else(
            || Arc::new(scoped_key(&self.key, scope)),
            |slot| Arc::clone(&slot.key),
        );
        let metadata = Metadata::new(&self.metric_target, self.level, self.module_path.as_deref());
        let metric = M::register(&*recorder, &key, &metadata);
        f(&metric);
        if self.target.cache {
            // The time from before the metric was used: it cannot have been forgotten earlier than that.
            let used = AtomicU64::new(now.map_or(0, |now| now.ticks));
            let slot = Slot {
                scope,
                metric,
                used,
                key,
            };
            self.remember(slot, expired.is_some());
        }
    }

    fn remember(&self, slot: Slot<M>, has_expired: bool) {
        if has_expired {
            // A macro's next use gets a new handle, which has this in a first slot again.
            self.is_stale.store(true, Ordering::Relaxed);
            self.renew(slot);
            return;
        }
        let Err(slot) = fill(&self.first, slot) else {
            return;
        };
        let more = self
            .more
            .get_or_init(|| Box::new([const { OnceLock::new() }; MORE_SLOTS]));
        let at = Self::set_of(slot.scope);
        if let Err(slot) = fill(&more[at..at + FIRST_SLOTS], slot) {
            self.renew(slot);
        }
    }

    fn renew(&self, slot: Slot<M>) {
        let slot = Arc::new(slot);
        self.renewed.rcu(|slots| {
            let mut slots = slots.as_deref().cloned().unwrap_or_default();
            slots.retain(|other| other.scope != slot.scope);
            if slots.len() == RENEWED_SLOTS {
                slots.remove(0);
            }
            slots.push(Arc::clone(&slot));
            Some(Arc::new(slots))
        });
    }
}

/// Puts a slot in the first free place, unless another thread has put the same there.
fn fill<M>(places: &[OnceLock<Slot<M>>], mut slot: Slot<M>) -> Result<(), Slot<M>> {
    for place in places {
        match place.set(slot) {
            Ok(()) => return Ok(()),
            Err(back) if place.get().is_some_and(|there| there.scope == back.scope) => {
                return Ok(());
            }
            Err(back) => slot = back,
        }
    }
    Err(slot)
}

impl<M> Handle<M> {
    #[inline]
    pub(super) fn is_for(&self, target: &Target, key: &Key, metadata: &Metadata<'_>) -> bool {
        self.target.id == target.id
            && self.key == *key
            && self.level == *metadata.level()
            && *self.metric_target == *metadata.target()
            && self.module_path.as_deref() == metadata.module_path()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let metadata = Metadata::new(&other.metric_target, other.level, other.module_path.as_deref());
        self.is_for(&other.target, &other.key, &metadata)
    }

    /// Whether something in it has expired, so that a new one would be faster.
    #[inline]
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Whether its recorder is gone.
    pub(super) fn is_orphan(&self) -> bool {
        self.target.recorder.strong_count() == 0
    }

    /// Whether it stands for a scoped metric, or says that a name is excluded.
    #[inline]
    pub(super) fn is_scoped(&self) -> bool {
        self.is_scoped
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

/// `key` with the labels of `scope`. Outside every scope it is the key itself, whatever that holds.
pub(super) fn scoped_key(key: &Key, scope: Scope) -> Key {
    if scope == Scope::none() {
        return key.clone();
    }
    let is = |label: &Label, name: &str| written(label.key()).eq(written(name));

    let mut labels: Vec<Label> = Vec::new();
    for label in key.labels() {
        // The exporter keeps the last of labels that are named twice.
        labels.retain(|other| !is(other, label.key()));
        labels.push(label.clone());
    }
    for &(name, value) in scope.pairs() {
        if !labels.iter().any(|label| is(label, name)) {
            labels.push(Label::from_static_parts(name, value));
        }
    }
    Key::from_parts(key.name_shared(), labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_as_long_as_they_say() {
        let idle = Duration::from_millis(500);
        let expiry = Expiry::after(idle);
        let nanos = expiry.clock.delta_as_nanos(1, 1 + expiry.after);
        assert!(u128::from(nanos).abs_diff(idle.as_nanos()) <= 1_000, "{nanos}");
    }

    #[test]
    fn the_longest_time_does_not_overflow() {
        assert_eq!(Expiry::after(Duration::MAX).after, u64::MAX);
    }
}
