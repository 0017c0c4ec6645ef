//! A cache of a fixed size. Nothing is locked or borrowed while it allocates, frees or calls other code, so all of these may
//! use the same cache again.

use std::{
    cell::Cell,
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

#[cfg(feature = "opentelemetry")]
use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;

// An entry is stored in one of the `WAYS` places of one of its two sets, so that the cache is almost full before busy
// entries evict each other.
const SETS: usize = 512;
const WAYS: usize = 4;

/// In full sets, an entry is replaced when another is missed twice in a row, or this many others were missed. So entries
/// that are used once rarely evict those in use.
const PATIENCE: usize = 8;

pub(crate) trait Cached {
    /// Whether the other entry takes the place of this one. Called if their hashes are equal.
    fn is_same(&self, other: &Self) -> bool;

    /// Whether this entry is replaced before others. Called when a place is needed.
    fn is_idle(&self) -> bool;
}

/// A place for one entry: a `Cell` in the cache of a thread, an `ArcSwapOption` in a shared one.
pub(crate) trait Place: Default {
    type Entry: Cached;

    fn with<T>(&self, f: impl FnOnce(Option<&Arc<Self::Entry>>) -> T) -> T;

    fn store(&self, entry: Arc<Self::Entry>);
}

impl<E: Cached> Place for Cell<Option<Arc<E>>> {
    type Entry = E;

    /// `f` must not use the cache, because the place is empty meanwhile.
    #[inline]
    fn with<T>(&self, f: impl FnOnce(Option<&Arc<E>>) -> T) -> T {
        let entry = self.take();
        let result = f(entry.as_ref());
        // Replaces nothing. Even a drop of nothing costs instructions.
        mem::forget(self.replace(entry));
        result
    }

    fn store(&self, entry: Arc<E>) {
        self.set(Some(entry));
    }
}

#[cfg(feature = "opentelemetry")]
impl<E: Cached> Place for ArcSwapOption<E> {
    type Entry = E;

    #[inline]
    fn with<T>(&self, f: impl FnOnce(Option<&Arc<E>>) -> T) -> T {
        f(self.load().as_ref())
    }

    fn store(&self, entry: Arc<E>) {
        self.store(Some(entry));
    }
}

struct Set<P> {
    hashes: [AtomicU64; WAYS],
    places: [P; WAYS],
    last_missed: AtomicU64,
    missed: AtomicUsize,
}

impl<P: Place> Set<P> {
    fn new() -> Self {
        Self {
            hashes: [const { AtomicU64::new(0) }; WAYS],
            places: std::array::from_fn(|_| P::default()),
            last_missed: AtomicU64::new(0),
            missed: AtomicUsize::new(0),
        }
    }

    fn store(&self, way: usize, hash: u64, entry: Arc<P::Entry>) {
        self.hashes[way].store(hash, Ordering::Relaxed);
        self.places[way].store(entry);
    }

    fn way_of(&self, hash: u64, entry: &P::Entry) -> Option<usize> {
        let is_it = |known: Option<&Arc<P::Entry>>| known.is_some_and(|known| known.is_same(entry));
        (0..WAYS)
            .find(|&way| self.hashes[way].load(Ordering::Relaxed) == hash && self.places[way].with(is_it))
    }

    /// The first empty place.
    fn free(&self) -> Option<usize> {
        (0..WAYS).find(|&way| self.places[way].with(|entry| entry.is_none()))
    }

    /// The place of an idle entry, or of any, if one is to be replaced now.
    fn victim(&self, hash: u64) -> Option<usize> {
        let missed = self.missed.fetch_add(1, Ordering::Relaxed);
        let is_second = self.last_missed.swap(hash, Ordering::Relaxed) == hash;
        if !is_second && !missed.is_multiple_of(PATIENCE) {
            return None;
        }
        let is_idle = |way: &usize| self.places[*way].with(|entry| entry.is_none_or(|entry| entry.is_idle()));
        let from = missed / PATIENCE;
        let mut ways = (from..from + WAYS).map(|way| way % WAYS);
        ways.find(is_idle).or(Some(from % WAYS))
    }
}

/// Up to 2,048 entries by hash. Sets are allocated at their first use.
pub(crate) struct Cache<P> {
    sets: OnceBox<[OnceBox<Set<P>>; SETS]>,
}

impl<P: Place> Cache<P> {
    pub(crate) const fn new() -> Self {
        Self { sets: OnceBox::new() }
    }

    /// Calls `f` with each entry of this hash, until it returns something.
    #[inline]
    pub(crate) fn find<T>(&self, hash: u64, mut f: impl FnMut(&Arc<P::Entry>) -> Option<T>) -> Option<T> {
        let sets = self.sets.get()?;
        for at in sets_of(hash) {
            let Some(set) = sets[at].get() else { continue };
            for (known, place) in set.hashes.iter().zip(&set.places) {
                if known.load(Ordering::Relaxed) == hash
                    && let Some(found) = place.with(|entry| f(entry?))
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Stores an entry in the place of the same one, in the set with more empty places, or in the place of an idle
    /// one. In full sets, it often stores nothing.
    pub(crate) fn insert(&self, hash: u64, entry: Arc<P::Entry>) {
        let sets = self
            .sets
            .get_or_init(|| Box::new([const { OnceBox::new() }; SETS]));
        let sets = sets_of(hash).map(|at| sets[at].get_or_init(|| Box::new(Set::new())));
        if let Some((set, way)) = sets.iter().find_map(|set| Some((set, set.way_of(hash, &entry)?))) {
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

/// The two sets of a hash.
#[inline]
fn sets_of(hash: u64) -> [usize; 2] {
    [hash, hash >> 32].map(|bits| usize::try_from(bits % SETS as u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry {
        number: u64,
        is_idle: bool,
    }

    impl Cached for Entry {
        fn is_same(&self, other: &Self) -> bool {
            self.number == other.number
        }

        fn is_idle(&self) -> bool {
            self.is_idle
        }
    }

    type Entries = Cache<Cell<Option<Arc<Entry>>>>;

    /// Inserts an entry, and returns the numbers of all entries.
    fn after(cache: &Entries, hash: u64, number: u64, is_idle: bool) -> Vec<u64> {
        cache.insert(hash, Arc::new(Entry { number, is_idle }));
        let sets = cache.sets.get().into_iter().flatten().filter_map(OnceBox::get);
        let places = sets.flat_map(|set| &set.places);
        let numbers = places.filter_map(|place| place.with(|entry| Some(entry?.number)));
        numbers.collect()
    }

    #[test]
    fn different_entries_of_one_hash_have_places_of_their_own() {
        let cache = Entries::new();
        assert_eq!(after(&cache, 7, 1, false), [1]);
        assert_eq!(after(&cache, 7, 2, false), [2, 1]);
        assert_eq!(after(&cache, 7, 1, false), [2, 1]);
        for number in [1, 2] {
            let found = cache.find(7, |entry| (entry.number == number).then_some(number));
            assert_eq!(found, Some(number));
        }
        assert_eq!(cache.find(7, |_| None::<()>), None);
    }

    #[test]
    fn in_full_sets_idle_entries_are_replaced_first_and_busy_ones_rarely() {
        let cache = Entries::new();
        let after = |number, is_idle| after(&cache, number * SETS as u64, number, is_idle);
        for number in 1..4 {
            after(number, number == 3);
        }
        assert_eq!(after(4, false), [1, 2, 3, 4]);
        assert_eq!(after(5, false), [1, 2, 5, 4]);
        for once in 6..13 {
            assert_eq!(after(once, false), [1, 2, 5, 4]);
        }
        assert_eq!(after(12, false), [1, 12, 5, 4], "missed twice in a row");
    }
}
