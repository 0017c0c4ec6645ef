//! What was composed before, found without a lock, an allocation or anything that a thread has to keep.
//!
//! Sets are named by their indices, so that a search goes through no set.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::intern::{self, LabelSetData};
use crate::labels::list::{LabelList, Part};

type Index = u16;

const WAYS: usize = 4;
const BUCKETS: usize = 4096;

/// The set that two sets make together. An entry is `1 << 48`, the index of the outer set `<< 32`, that of the inner set
/// `<< 16`, and that of both together. Only the pages that are used take memory.
static NESTED: [[AtomicU64; WAYS]; BUCKETS] = [const { [const { AtomicU64::new(0) }; WAYS] }; BUCKETS];

/// An entry without its last part.
fn key_of(outer: Index, inner: Index) -> u64 {
    1 << 32 | u64::from(outer) << 16 | u64::from(inner)
}

#[inline]
fn bucket_of(key: u64) -> &'static [AtomicU64; WAYS] {
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    &NESTED[usize::try_from(hash).unwrap_or(0) % BUCKETS]
}

#[inline]
fn nested_index(outer: Index, inner: Index) -> Option<Index> {
    let key = key_of(outer, inner);
    let mut entries = bucket_of(key).iter().map(|entry| entry.load(Ordering::Relaxed));
    #[expect(clippy::cast_possible_truncation, reason = "the last part is wanted")]
    entries
        .find(|entry| entry >> 16 == key)
        .map(|entry| entry as Index)
}

/// The set that was remembered for this pair.
#[inline]
pub(super) fn nested(outer: &LabelSetData, inner: &LabelSetData) -> Option<&'static LabelSetData> {
    intern::by_index(nested_index(outer.index(), inner.index())?)
}

/// Remembers the set of a pair. It may replace another.
pub(super) fn remember_nested(outer: &LabelSetData, inner: &LabelSetData, both: &LabelSetData) {
    let key = key_of(outer.index(), inner.index());
    let bucket = bucket_of(key);
    let free = bucket.iter().find(|entry| entry.load(Ordering::Relaxed) == 0);
    let entry = free.unwrap_or(&bucket[usize::from(both.index()) % WAYS]);
    entry.store(key << 16 | u64::from(both.index()), Ordering::Relaxed);
}

struct Single {
    part: Part,
    set: Index,
}

const SINGLES: usize = 8192;
const PROBES: usize = 8;

/// The sets of single parts. What does not fit is looked up under the lock each time.
static OF_PARTS: [OnceLock<Single>; SINGLES] = [const { OnceLock::new() }; SINGLES];

fn places(part: &Part) -> impl Iterator<Item = &'static OnceLock<Single>> {
    let start = usize::try_from(part.hash()).unwrap_or(0);
    (start..start + PROBES).map(|at| &OF_PARTS[at % SINGLES])
}

#[inline]
fn index_of_part(part: &Part) -> Option<Index> {
    places(part)
        .map_while(OnceLock::get)
        .find(|single| single.part.is(part))
        .map(|single| single.set)
}

/// The set that was remembered for this part.
pub(super) fn of_part(part: &Part) -> Option<&'static LabelSetData> {
    intern::by_index(index_of_part(part)?)
}

pub(super) fn remember_part(part: Part, set: &LabelSetData) {
    let set = set.index();
    let mut single = Single { part, set };
    for place in places(&part) {
        match place.set(single) {
            Ok(()) => return,
            Err(_) if place.get().is_some_and(|there| there.part.is(&part)) => return,
            Err(back) => single = back,
        }
    }
}

/// The set of an outer set with labels, if all steps to it were remembered. `None` is the set without labels, too.
#[inline]
pub(super) fn composed(
    outer: Option<&'static LabelSetData>,
    list: &LabelList,
) -> Option<&'static LabelSetData> {
    let mut set = outer.map(LabelSetData::index);
    for part in list.few()? {
        if part.is_empty() {
            continue;
        }
        let inner = index_of_part(part)?;
        set = Some(match set {
            Some(outer) => nested_index(outer, inner)?,
            None => inner,
        });
    }
    intern::by_index(set?)
}
