//! Stores each label set once, for the life of the process, up to a limit.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
};

use super::pairs::Pairs as OwnedPairs;
use crate::once::WarnOnce;

/// How many different label sets a process can have.
///
/// A label set takes a place when it is first entered, or when a function whose name begins with `try_` makes it. Sets
/// that are only steps on the way to another set take no place. The sets that are made but not entered use memory,
/// which has a limit of four times this number.
///
/// [`ClientScopes::try_new`](crate::ClientScopes::try_new) takes five places: one for each of
/// [`ClientLabels::ALL`](crate::ClientLabels::ALL), and one without a client. With a
/// [NAT64 prefix](crate::ClientScopesBuilder::nat64) there are six.
pub const MAX_LABEL_SETS: usize = 4096;

const MAX_STORED: usize = 4 * MAX_LABEL_SETS;

type Pairs = &'static [(&'static str, &'static str)];

#[derive(Debug)]
pub(super) struct LabelSetData {
    index: u16,
    outer: Option<&'static LabelSetData>,
    pairs: Pairs,
}

/// The state of each set. Not fields of the set: a `Scope` with interior mutability would be a bad key of a map.
struct State {
    /// From 1 to [`MAX_LABEL_SETS`]; 0 as long as the set has no place.
    place: AtomicU16,
    has_warned: WarnOnce,
}

// One for each `u16`, so that the bounds need no check. Only the pages that are used take memory.
static STATES: [State; 1 << u16::BITS] = [const {
    State {
        place: AtomicU16::new(0),
        has_warned: WarnOnce::new(),
    }
}; 1 << u16::BITS];

// Set together with `SETS`, and read without the lock.
static BY_INDEX: [OnceLock<&'static LabelSetData>; MAX_STORED] = [const { OnceLock::new() }; MAX_STORED];

static SETS: Mutex<Option<HashMap<Pairs, &'static LabelSetData>>> = Mutex::new(None);
// A lock of its own, under which nothing is allocated: an allocator that counts may enter a scope.
static PLACES_TAKEN: Mutex<u16> = Mutex::new(0);
// Changed under the lock of `PLACES_TAKEN`, as `IS_FULL` is.
static LIMIT: AtomicUsize = AtomicUsize::new(MAX_LABEL_SETS);
static IS_FULL: AtomicBool = AtomicBool::new(false);
static OVERFLOWS: AtomicU64 = AtomicU64::new(0);

impl LabelSetData {
    /// A small number that identifies the set. Stays below `4 * MAX_LABEL_SETS`.
    #[inline]
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    /// From 1 to [`MAX_LABEL_SETS`]; 0 as long as the set has no place.
    #[inline]
    pub(super) fn place(&self) -> usize {
        self.state().place.load(Ordering::Relaxed).into()
    }

    /// The set that is used instead if this one cannot have a place.
    pub(super) fn outer(&self) -> Option<&'static Self> {
        self.outer
    }

    pub(super) fn pairs(&self) -> Pairs {
        self.pairs
    }

    /// Returns true at the first call.
    pub(super) fn warn_once(&self) -> bool {
        self.state().has_warned.first()
    }

    /// Gives the set a place, unless it has one.
    pub(super) fn take_place(&self) -> Result<(), TooManyLabelSets> {
        self.can_have_place()?;
        let mut taken = PLACES_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        self.can_have_place()?;
        if self.place() == 0 {
            *taken += 1;
            self.state().place.store(*taken, Ordering::Relaxed);
            IS_FULL.store(usize::from(*taken) >= label_set_limit(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn can_have_place(&self) -> Result<(), TooManyLabelSets> {
        if self.place() == 0 && IS_FULL.load(Ordering::Relaxed) {
            return Err(TooManyLabelSets::now());
        }
        Ok(())
    }

    #[inline]
    fn state(&self) -> &'static State {
        &STATES[usize::from(self.index)]
    }
}

/// How many label sets have a place now. It is at most [`label_set_limit`].
#[must_use]
pub fn label_sets() -> usize {
    (*PLACES_TAKEN.lock().unwrap_or_else(PoisonError::into_inner)).into()
}

/// The limit in force: [`MAX_LABEL_SETS`], unless [`limit_label_sets`] has set a lower one.
///
/// A counter without labels of its own has at most this many series in the whole process, and one more for what is
/// counted outside every scope.
#[must_use]
pub fn label_set_limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Sets the limit of the process, for an operator who wants fewer series than [`MAX_LABEL_SETS`], and checks that the
/// program needs no more. Call it once, at start-up. Zero turns off all labels.
///
/// `needed` is how many label sets the program can enter. Each layer enters a scope, and [`Scope::add`] makes another, so
/// the number is a sum. With [`LabelsLayer`] inside [`ClientLabelsLayer`] it is `scopes.max_label_sets(&())` for the outer
/// layer, and `scopes.max_label_sets(&labels)` for both: see [`ClientScopes::max_label_sets`]. Add one for each binding,
/// because the scope of the socket itself counts as well. From then on, no request can exceed the limit, even if the sum
/// was wrong. A `limit` above `MAX_LABEL_SETS` counts as that.
///
/// ```
/// use dualstack_metrics::{ClientScopes, FixedLabel, Protocol, ServerBinding, scope};
///
/// let http = ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse()?));
/// let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
///
/// // Four classes of clients in the outer layer. In the inner layer, each with three tenants, one of them `other`.
/// let needed = http.max_label_sets(&()) + http.max_label_sets(&tenants.other());
/// let limit = 10; // from the configuration
/// assert_eq!(
///     scope::limit_label_sets(limit, needed).unwrap_err().to_string(),
///     "the labels can make 16 series of each counter, but the limit is 10: raise the limit, use labels with fewer values, \
///      or lower the cap of a `CappedLabel`",
/// );
/// scope::limit_label_sets(500, needed)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// If `needed`, or the number of label sets that the process already has, is above `limit`. The limit stays as it was.
///
/// [`ClientLabelsLayer`]: crate::ClientLabelsLayer
/// [`ClientScopes::max_label_sets`]: crate::ClientScopes::max_label_sets
/// [`LabelsLayer`]: crate::LabelsLayer
/// [`Scope::add`]: crate::Scope::add
pub fn limit_label_sets(limit: usize, needed: usize) -> Result<(), TooManyLabelSets> {
    let limit = limit.min(MAX_LABEL_SETS);
    let taken = PLACES_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if needed.max((*taken).into()) > limit {
        return Err(TooManyLabelSets {
            limit,
            needed: Some(needed.max((*taken).into())),
        });
    }
    LIMIT.store(limit, Ordering::Relaxed);
    IS_FULL.store(usize::from(*taken) >= limit, Ordering::Relaxed);
    Ok(())
}

/// Fails if so many label sets can never fit.
pub(super) fn check_limit(needed: usize) -> Result<(), TooManyLabelSets> {
    let limit = label_set_limit();
    if needed > limit {
        return Err(TooManyLabelSets {
            limit,
            needed: Some(needed),
        });
    }
    Ok(())
}

/// The process already has as many label sets as its limit allows, or can have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyLabelSets {
    limit: usize,
    /// How many there can be.
    needed: Option<usize>,
}

impl TooManyLabelSets {
    fn now() -> Self {
        Self {
            limit: label_set_limit(),
            needed: None,
        }
    }
}

impl fmt::Display for TooManyLabelSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit;
        match self.needed {
            Some(needed) => write!(
                f,
                "the labels can make {needed} series of each counter, but the limit is {limit}: raise the limit, use labels \
                 with fewer values, or lower the cap of a `CappedLabel`"
            ),
            None => write!(
                f,
                "the process already has {limit} different label sets, which is the limit: make scopes at start-up, from \
                 labels with few values, and make a `ServerBinding` from the listener's `local_addr()`, never from a peer"
            ),
        }
    }
}

impl std::error::Error for TooManyLabelSets {}

/// How often a scope could not be made or entered, because the process already had [`MAX_LABEL_SETS`] label sets.
///
/// Each time another scope was used instead: the outer scope of [`nest`](super::Scope::nest), and otherwise the scope
/// that was in force. The first time this is logged as a warning. Scoped recorders count it in
/// `label_sets_overflowed_total`. When it grows, the labels of some series are incomplete.
#[must_use]
pub fn overflows() -> u64 {
    OVERFLOWS.load(Ordering::Relaxed)
}

#[cold]
pub(super) fn count_overflow() {
    if OVERFLOWS.fetch_add(1, Ordering::Relaxed) == 0 {
        tracing::warn!("some labels are left out: {}", TooManyLabelSets::now());
    }
}

/// The stored set of this index.
#[inline]
pub(super) fn by_index(index: u16) -> Option<&'static LabelSetData> {
    BY_INDEX.get(usize::from(index))?.get().copied()
}

/// The stored set with these labels. Fails if they are not stored and no place is free, and stores nothing then.
pub(super) fn intern(
    pairs: OwnedPairs,
    outer: Option<&'static LabelSetData>,
) -> Result<&'static LabelSetData, TooManyLabelSets> {
    let borrowed: Vec<_> = pairs
        .as_slice()
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let sets = sets.get_or_insert_default();
    if let Some(set) = lookup(sets, &borrowed) {
        return Ok(set);
    }
    if sets.len() == MAX_STORED || IS_FULL.load(Ordering::Relaxed) {
        return Err(TooManyLabelSets::now());
    }
    let index = u16::try_from(sets.len()).map_err(|_| TooManyLabelSets::now())?;

    let leak = |text: Cow<'static, str>| match text {
        Cow::Borrowed(text) => text,
        Cow::Owned(text) => &*text.leak(),
    };
    let pairs: Pairs = Vec::leak(
        pairs
            .into_vec()
            .into_iter()
            .map(|(name, value)| (leak(name), leak(value)))
            .collect(),
    );
    let set: &'static LabelSetData = Box::leak(Box::new(LabelSetData { index, outer, pairs }));
    sets.insert(pairs, set);
    // Nothing is allocated here, so an allocator that counts cannot come back.
    _ = BY_INDEX[usize::from(index)].set(set);
    Ok(set)
}

/// Shortens the lifetime of the map's keys to that of `pairs`.
fn lookup<'a>(
    sets: &HashMap<&'a [(&'a str, &'a str)], &'static LabelSetData>,
    pairs: &'a [(&'a str, &'a str)],
) -> Option<&'static LabelSetData> {
    sets.get(pairs).copied()
}
