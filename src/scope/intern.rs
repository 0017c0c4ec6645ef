//! Stores each label set once, for the life of the process, up to a limit.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use super::{names::note_names, pairs::Pairs as OwnedPairs};
use crate::once::WarnOnce;

/// How many different label sets a process can have.
///
/// [`ClientScopes`](crate::ClientScopes) take five: one for each of [`ClientLabels::ALL`](crate::ClientLabels::ALL), and one
/// without a client. With a [NAT64 prefix](crate::ClientScopesBuilder::nat64) there are six.
pub const MAX_LABEL_SETS: usize = 4096;

type Pairs = &'static [(&'static str, &'static str)];

// By the number of the set. The number 0 has no labels.
static LABELS: [OnceLock<Pairs>; 1 + MAX_LABEL_SETS] = [const { OnceLock::new() }; 1 + MAX_LABEL_SETS];
static WARNINGS: [WarnOnce; 1 + MAX_LABEL_SETS] = [const { WarnOnce::new() }; 1 + MAX_LABEL_SETS];

static SETS: Mutex<Option<HashMap<Pairs, u16>>> = Mutex::new(None);
// Changed under the lock of `SETS`, as `COUNT` is.
static LIMIT: AtomicUsize = AtomicUsize::new(MAX_LABEL_SETS);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static OVERFLOWS: AtomicU64 = AtomicU64::new(0);

#[inline]
pub(super) fn labels_of(set: u16) -> Pairs {
    LABELS[usize::from(set)].get().copied().unwrap_or_default()
}

/// Returns true at the first call for a set.
pub(super) fn warn_once(set: u16) -> bool {
    set != 0 && WARNINGS[usize::from(set)].first()
}

/// How many label sets the process has now. It is at most [`label_set_limit`].
#[must_use]
pub fn label_sets() -> usize {
    COUNT.load(Ordering::Relaxed)
}

/// The limit in force: [`MAX_LABEL_SETS`], unless [`limit_label_sets`] has set a lower one.
///
/// A counter without labels of its own has at most this many series in the whole process, and one more for
/// increments outside every scope.
#[must_use]
pub fn label_set_limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Sets the limit of the process, for an operator who wants fewer series than [`MAX_LABEL_SETS`], and checks that the
/// program needs no more. Call it once, at start-up. Zero turns off all labels.
///
/// `needed` is how many label sets the program can make. Each layer makes a scope, and [`Scope::add`] makes another, so the
/// number is a sum. With [`LabelsLayer`] inside [`ClientLabelsLayer`] it is `scopes.max_label_sets(&())` for the outer
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
/// // The socket itself. Four classes of clients in the outer layer. In the inner layer, each with three tenants, one of them
/// // `other`.
/// let needed = 1 + http.max_label_sets(&()) + http.max_label_sets(&tenants.other());
/// let limit = 10; // from the configuration
/// assert_eq!(
///     scope::limit_label_sets(limit, needed).unwrap_err().to_string(),
///     "the labels can make 17 series of each counter, but the limit is 10: raise the limit, use labels with fewer values, \
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
    let _sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    check(needed.max(label_sets()), limit)?;
    LIMIT.store(limit, Ordering::Relaxed);
    Ok(())
}

/// Fails if so many label sets can never fit.
pub(super) fn check_limit(needed: usize) -> Result<(), TooManyLabelSets> {
    check(needed, label_set_limit())
}

fn check(needed: usize, limit: usize) -> Result<(), TooManyLabelSets> {
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

/// How often labels were left out of a scope, because the process already had as many label sets as its
/// [limit](super#the-limit) allows.
///
/// The first time is logged as a warning. Scoped recorders count it in `label_sets_overflowed_total`. When it grows, the
/// labels of some series are incomplete.
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

/// The set with these labels, if there is one.
pub(super) fn stored(pairs: &OwnedPairs) -> Option<u16> {
    let sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    lookup(sets.as_ref()?, &borrowed(pairs))
}

/// The set with these labels. Fails at the limit, and stores nothing then.
pub(super) fn intern(pairs: OwnedPairs) -> Result<u16, TooManyLabelSets> {
    let mut locked = SETS.lock().unwrap_or_else(PoisonError::into_inner);
    let sets = locked.get_or_insert_default();
    if let Some(set) = lookup(sets, &borrowed(&pairs)) {
        return Ok(set);
    }
    let set = match u16::try_from(sets.len() + 1) {
        Ok(set) if sets.len() < label_set_limit() => set,
        _ => return Err(TooManyLabelSets::now()),
    };

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
    _ = LABELS[usize::from(set)].set(pairs);
    sets.insert(pairs, set);
    COUNT.store(sets.len(), Ordering::Relaxed);
    // Without the lock, because whatever logs may make scopes.
    drop(locked);
    note_names(pairs.iter().map(|(name, _)| *name));
    Ok(set)
}

fn borrowed(pairs: &OwnedPairs) -> Vec<(&str, &str)> {
    let pairs = pairs.as_slice().iter();
    pairs.map(|(name, value)| (&**name, &**value)).collect()
}

/// Shortens the lifetime of the map's keys to the lifetime of `pairs`.
fn lookup<'a>(sets: &HashMap<&'a [(&'a str, &'a str)], u16>, pairs: &'a [(&'a str, &'a str)]) -> Option<u16> {
    sets.get(pairs).copied()
}
