//! Label sets that are equal are stored once, for the life of the process, and only so many of them.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// How many different label sets one process can have.
///
/// A server binding takes five: one for each value of [`ClientLabels`](crate::ClientLabels), and one without a
/// client.
pub const MAX_LABEL_SETS: usize = 4096;

type Pairs = &'static [(&'static str, &'static str)];

#[derive(Debug)]
pub(super) struct LabelSetData {
    id: usize,
    pairs: Pairs,
}

impl LabelSetData {
    /// A small number that no other set has.
    pub(super) fn id(&self) -> usize {
        self.id
    }

    pub(super) fn pairs(&self) -> Pairs {
        self.pairs
    }

    /// True at the first call.
    pub(super) fn warn_once(&self) -> bool {
        // Not in the set itself, which has to be immutable to be a key.
        static WARNED: [AtomicBool; MAX_LABEL_SETS] = [const { AtomicBool::new(false) }; MAX_LABEL_SETS];

        let warned = &WARNED[self.id];
        !warned.load(Ordering::Relaxed) && !warned.swap(true, Ordering::Relaxed)
    }
}

/// One label set more than [`MAX_LABEL_SETS`] was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TooManyLabelSets;

impl fmt::Display for TooManyLabelSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MAX_LABEL_SETS} different label sets are in use, which is all there can be: make scopes at start-up, \
             from labels with few values, and `ServerBinding`s from the listener's `local_addr()`, never from a peer"
        )
    }
}

impl std::error::Error for TooManyLabelSets {}

static SETS: Mutex<Option<HashMap<Pairs, &'static LabelSetData>>> = Mutex::new(None);

/// The one stored set with these labels. Nothing is stored when there is an error.
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

/// Takes the map at the lifetime of the key that is looked for.
fn lookup<'a>(
    sets: &HashMap<&'a [(&'a str, &'a str)], &'static LabelSetData>,
    pairs: &'a [(&'a str, &'a str)],
) -> Option<&'static LabelSetData> {
    sets.get(pairs).copied()
}
