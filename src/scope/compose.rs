//! What was composed before, found without a lock, an allocation or anything that a thread has to keep.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::intern::{self, LabelSetData};
use crate::labels::set::Part;

const WAYS: usize = 4;
const BUCKETS: usize = 4096;

/// The set that two sets make together. An entry is `1 << 48`, the index of the outer set `<< 32`, that of the inner set
/// `<< 16`, and that of both together. Only the pages that are used take memory.
static NESTED: [[AtomicU64; WAYS]; BUCKETS] = [const { [const { AtomicU64::new(0) }; WAYS] }; BUCKETS];

/// In the same form, but without the last part.
fn key_of(outer: &LabelSetData, inner: &LabelSetData) -> u64 {
    1 << 32 | (outer.index() as u64) << 16 | inner.index() as u64
}

fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

#[inline]
fn at(hash: u64, len: usize) -> usize {
    usize::try_from(hash).unwrap_or(0) % len
}

/// The set that was remembered for this pair.
#[inline]
pub(super) fn nested(outer: &LabelSetData, inner: &LabelSetData) -> Option<&'static LabelSetData> {
    let key = key_of(outer, inner);
    let entry = NESTED[at(hash(key), BUCKETS)]
        .iter()
        .map(|entry| entry.load(Ordering::Relaxed))
        .find(|entry| entry >> 16 == key)?;
    intern::by_index(entry & 0xffff)
}

/// Remembers the set of a pair. It may replace another.
pub(super) fn remember_nested(outer: &LabelSetData, inner: &LabelSetData, both: &LabelSetData) {
    let key = key_of(outer, inner);
    let bucket = &NESTED[at(hash(key), BUCKETS)];
    let free = bucket.iter().find(|entry| entry.load(Ordering::Relaxed) == 0);
    let entry = free.unwrap_or(&bucket[both.index() % WAYS]);
    entry.store(key << 16 | both.index() as u64, Ordering::Relaxed);
}

struct Single {
    part: Part,
    set: &'static LabelSetData,
}

const SINGLES: usize = 8192;
const PROBES: usize = 8;

/// The sets of single parts. What does not fit is looked up under the lock each time.
static OF_PARTS: [OnceLock<Single>; SINGLES] = [const { OnceLock::new() }; SINGLES];

fn places(part: &Part) -> impl Iterator<Item = &'static OnceLock<Single>> {
    let start = at(part.hash(), SINGLES);
    (start..start + PROBES).map(|at| &OF_PARTS[at % SINGLES])
}

/// The set that was remembered for this part.
#[inline]
pub(super) fn of_part(part: &Part) -> Option<&'static LabelSetData> {
    places(part)
        .map_while(OnceLock::get)
        .find(|single| single.part.is(part))
        .map(|single| single.set)
}

pub(super) fn remember_part(part: Part, set: &'static LabelSetData) {
    let mut single = Single { part, set };
    for place in places(&part) {
        match place.set(single) {
            Ok(()) => return,
            Err(_) if place.get().is_some_and(|there| there.part.is(&part)) => return,
            Err(back) => single = back,
        }
    }
}
