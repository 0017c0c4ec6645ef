//! Stores each label set once, for the life of the process, up to a limit.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// How many different label sets a process can have.
///
/// A server binding takes five: one for each value of [`ClientLabels`](crate::ClientLabels), and one without a client.
pub const MAX_LABEL_SETS: usize = 4096;

type Pairs = &'static [(&'static str, &'static str)];

#[derive(Debug)]
pub(super) struct LabelSetData {
    id: usize,
    pairs: Pairs,
}

impl LabelSetData {
    /// A small number that identifies the set.
    pub(super) fn id(&self) -> usize {
        self.id
    }

    pub(super) fn pairs(&self) -> Pairs {
        self.pairs
    }

    /// Returns true at the first call.
    pub(super) fn warn_once(&self) -> bool {
        // Not a field of the set: a `Scope` with interior mutability would be a bad key of a map.
        static WARNED: [AtomicBool; MAX_LABEL_SETS] = [const { AtomicBool::new(false) }; MAX_LABEL_SETS];

        let warned = &WARNED[self.id];
        !warned.load(Ordering::Relaxed) && !warned.swap(true, Ordering::Relaxed)
    }
}

/// The process already has [`MAX_LABEL_SETS`] label sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooManyLabelSets;

impl fmt::Display for TooManyLabelSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the process already has {MAX_LABEL_SETS} different label sets, which is the limit: make scopes at start-up, \
             from labels with few values, and make a `ServerBinding` from the listener's `local_addr()`, never from a \
             peer"
        )
    }
}

impl std::error::Error for TooManyLabelSets {}

static SETS: Mutex<Option<HashMap<Pairs, &'static LabelSetData>>> = Mutex::new(None);

/// The stored set with these labels. Stores nothing if it returns an error.
pub(super) fn intern(
    pairs: Vec<(&'static str, Cow<'static, str>)>,
) -> Result<&'static LabelSetData, TooManyLabelSets> {
    let borrowed: Vec<_> = pairs.iter().map(|(name, value)| (*name, &**value)).collect();
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let sets = sets.get_or_insert_default();
    if let Some(set) = lookup(sets, &borrowed) {
        return Ok(set);
    }
    if sets.len() >= MAX_LABEL_SETS {
        return Err(TooManyLabelSets);
    }

    let pairs: Pairs = Vec::leak(
        pairs
            .into_iter()
            .map(|(name, value)| match value {
                Cow::Borrowed(value) => (name, value),
                Cow::Owned(value) => (name, &*value.leak()),
            })
            .collect(),
    );
    let set: &'static LabelSetData = Box::leak(Box::new(LabelSetData {
        id: sets.len(),
        pairs,
    }));
    sets.insert(pairs, set);
    Ok(set)
}

/// Shortens the lifetime of the map's keys to that of `pairs`.
fn lookup<'a>(
    sets: &HashMap<&'a [(&'a str, &'a str)], &'static LabelSetData>,
    pairs: &'a [(&'a str, &'a str)],
) -> Option<&'static LabelSetData> {
    sets.get(pairs).copied()
}
