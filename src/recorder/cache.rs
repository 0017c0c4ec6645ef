//! The handles that a thread registered last. Of a fixed size, and never borrowed while foreign code runs.

use std::{cell::RefCell, sync::Arc};

use metrics::{Key, Metadata};

use super::handle::{Handle, Metric, Target};

/// How many handles of a kind (counters, histograms) a thread caches at the most.
pub const CACHED_HANDLES: usize = SETS * WAYS;

// Handles compete for a place with those of the same set only: with one way per set, two busy counters that fall
// together would evict each other at each increment.
const SETS: usize = 256;
const WAYS: usize = 4;

pub(super) type LocalCache<M> = RefCell<Cache<M>>;

struct Entry<M> {
    hash: u64,
    handle: Arc<Handle<M>>,
}

pub(super) struct Cache<M> {
    entries: Vec<Option<Entry<M>>>,
    next_victim: usize,
}

impl<M> Cache<M> {
    pub(super) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            next_victim: 0,
        }
    }

    fn set_of(hash: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
        let set = hash as usize % SETS;
        set * WAYS
    }

    #[inline]
    fn find(
        &self,
        hash: u64,
        target: &Target,
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

    /// Puts a handle in the place of the same one, of none, of one whose recorder is gone, or of any; in this order.
    /// Returns what was there, to be dropped when the cache is not borrowed.
    fn insert(&mut self, hash: u64, handle: Arc<Handle<M>>) -> Option<Entry<M>> {
        if self.entries.is_empty() {
            self.entries.resize_with(CACHED_HANDLES, || None);
        }
        let at = Self::set_of(hash);
        let set = &mut self.entries[at..at + WAYS];
        let way = set
            .iter()
            .position(|entry| {
                entry
                    .as_ref()
                    .is_some_and(|entry| entry.hash == hash && entry.handle.is_same(&handle))
            })
            .or_else(|| set.iter().position(Option::is_none))
            .or_else(|| {
                set.iter()
                    .position(|entry| entry.as_ref().is_some_and(|entry| entry.handle.is_orphan()))
            })
            .unwrap_or_else(|| {
                self.next_victim = self.next_victim.wrapping_add(1);
                self.next_victim % WAYS
            });
        set[way].replace(Entry { hash, handle })
    }
}

/// The handle that this thread has for `key`, or the one that `make` makes.
///
/// Where the thread's locals are being destroyed there is no cache, and a handle is made each time.
#[inline]
pub(super) fn find_or_insert<M: Metric>(
    target: &Target,
    key: &Key,
    metadata: &Metadata<'_>,
    make: impl FnOnce() -> Handle<M>,
) -> Arc<Handle<M>> {
    let hash = key.get_hash() ^ target.id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let found = M::with_cache(|cache| {
        let cache = cache.try_borrow().ok()?;
        cache
            .find(hash, target, key, metadata)
            .filter(|handle| !handle.is_stale())
            .cloned()
    });
    if let Some(handle) = found.flatten() {
        return handle;
    }
    insert(hash, Arc::new(make()))
}

#[cold]
fn insert<M: Metric>(hash: u64, handle: Arc<Handle<M>>) -> Arc<Handle<M>> {
    let evicted = M::with_cache(|cache| cache.try_borrow_mut().ok()?.insert(hash, Arc::clone(&handle)));
    drop(evicted);
    handle
}
