//! The handles that a thread registered last. The cache has a fixed size and is never borrowed while foreign code runs.

use std::{cell::RefCell, mem, sync::Arc};

use metrics::{Counter, Histogram, Key, Metadata};

use super::{
    handle::{Handle, Metric, Target},
    metadata::OwnedMetadata,
};

/// How many handles of a kind (counters, histograms) a thread caches.
const CACHED_HANDLES: usize = SETS * WAYS;

// A handle is stored in one of the `WAYS` places of its set. With one place per set, two busy counters with the same
// set would evict each other at each increment.
const SETS: usize = 256;
const WAYS: usize = 4;
const SHARED_METADATA: usize = 64;

/// A kind of metric that each thread has a cache for.
pub(super) trait Cached: Metric {
    /// Returns `None` while the thread's locals are being destroyed.
    fn with_cache<T>(f: impl FnOnce(&RefCell<Cache<Self>>) -> T) -> Option<T>;
}

macro_rules! impl_cached {
    ($metric:ident) => {
        impl Cached for $metric {
            #[inline]
            fn with_cache<T>(f: impl FnOnce(&RefCell<Cache<Self>>) -> T) -> Option<T> {
                thread_local! {
                    static CACHE: RefCell<Cache<$metric>> = const { RefCell::new(Cache::new()) };
                }
                CACHE.try_with(f).ok()
            }
        }
    };
}

impl_cached!(Counter);
impl_cached!(Histogram);

struct Entry<M> {
    hash: u64,
    handle: Arc<Handle<M>>,
}

pub(super) struct Cache<M> {
    entries: Vec<Option<Entry<M>>>,
    next_victim: usize,
    /// Shared by the handles, because most metrics of a program come from few modules.
    metadata: Vec<Arc<OwnedMetadata>>,
}

impl<M> Cache<M> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            next_victim: 0,
            metadata: Vec::new(),
        }
    }

    #[inline]
    fn set_of(hash: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let set = hash as usize % SETS;
        set * WAYS
    }

    #[inline]
    fn find(
        &self,
        hash: u64,
        target: &Arc<Target>,
        key: &Key,
        metadata: &Metadata<'_>,
    ) -> Option<&Arc<Handle<M>>> {
        let at = Self::set_of(hash);
        self.entries
            .get(at..at + WAYS)?
            .iter()
            .flatten()
            .find(|entry| entry.hash == hash && entry.handle.is_for(target, key, metadata))
            .map(|entry| &entry.handle)
    }

    /// An empty cache whose memory is allocated: filling it allocates nothing.
    fn allocated() -> Self {
        Self {
            entries: std::iter::repeat_with(|| None).take(CACHED_HANDLES).collect(),
            next_victim: 0,
            metadata: Vec::with_capacity(SHARED_METADATA),
        }
    }

    fn shared(&self, metadata: &Metadata<'_>) -> Option<Arc<OwnedMetadata>> {
        self.metadata.iter().find(|known| known.is(metadata)).cloned()
    }

    fn share(&mut self, metadata: &Arc<OwnedMetadata>) {
        if self.metadata.len() < SHARED_METADATA {
            self.metadata.push(Arc::clone(metadata));
        }
    }

    /// Stores a handle. It replaces, in this order: an equal one, nothing, one whose recorder is gone, any other.
    /// Returns what was replaced, to be dropped when the cache is no longer borrowed.
    fn insert(&mut self, hash: u64, handle: Arc<Handle<M>>) -> Option<Entry<M>> {
        let at = Self::set_of(hash);
        let set = &mut self.entries[at..at + WAYS];
        let position = |is_it: &dyn Fn(&Entry<M>) -> bool| {
            set.iter().position(|entry| entry.as_ref().is_some_and(is_it))
        };
        let way = position(&|entry| entry.hash == hash && entry.handle.is_same(&handle))
            .or_else(|| set.iter().position(Option::is_none))
            .or_else(|| position(&|entry| entry.handle.is_orphan()))
            .unwrap_or_else(|| {
                self.next_victim = self.next_victim.wrapping_add(1);
                self.next_victim % WAYS
            });
        set[way].replace(Entry { hash, handle })
    }
}

/// The handle that this thread has for `key`, or a new one if the name `is_scoped`. `None` for a name that is not.
///
/// While the thread's locals are being destroyed there is no cache, and a handle is made at each call.
#[inline]
pub(super) fn find_or_insert<M: Cached>(
    target: &Arc<Target>,
    key: &Key,
    metadata: &Metadata<'_>,
    is_scoped: impl FnOnce() -> bool,
) -> Option<Arc<Handle<M>>> {
    // Two recorders that use the same key get different sets.
    let hash = key.get_hash() ^ (Arc::as_ptr(target) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let known = M::with_cache(|cache| {
        let cache = cache.try_borrow().ok()?;
        let handle = cache.find(hash, target, key, metadata)?;
        (!handle.is_stale()).then(|| Arc::clone(handle))
    });
    known
        .flatten()
        .or_else(|| is_scoped().then(|| insert(hash, target, key, metadata)))
}

#[cold]
fn insert<M: Cached>(hash: u64, target: &Arc<Target>, key: &Key, metadata: &Metadata<'_>) -> Arc<Handle<M>> {
    // Memory is allocated and freed outside of the borrows: a global allocator may count, and so come back here.
    let known = M::with_cache(|cache| cache.try_borrow().ok()?.shared(metadata)).flatten();
    let is_new = known.is_none();
    let shared = known.unwrap_or_else(|| Arc::new(OwnedMetadata::new(metadata)));
    let handle = Arc::new(Handle::new(target, key, Arc::clone(&shared)));
    let is_empty = M::with_cache(|cache| cache.try_borrow().is_ok_and(|cache| cache.entries.is_empty()));
    let mut allocated = (is_empty == Some(true)).then(Cache::allocated);
    let replaced = M::with_cache(|cache| {
        let mut cache = cache.try_borrow_mut().ok()?;
        if cache.entries.is_empty() {
            mem::swap(&mut *cache, allocated.as_mut()?);
        }
        if is_new {
            cache.share(&shared);
        }
        cache.insert(hash, Arc::clone(&handle))
    });
    drop((replaced, allocated));
    handle
}
