//! The labels of a label set: those of one value, and all that there can be.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    ptr,
};

use super::{
    BoundedLabel, LabelSet, OTHER,
    grammar::{self, written},
    set,
};
use crate::once::WarnOnce;

/// Labels that were never made at run time: they are identified by where their texts are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// A name and a value.
    Pair(&'static str, &'static str),
    /// Several labels that are always together.
    Pairs(&'static [(&'static str, &'static str)]),
}

impl Part {
    /// Whether the texts of both are at the same addresses.
    #[inline]
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pair(name, value), Self::Pair(other_name, other_value)) => {
                ptr::eq(*value, *other_value) && ptr::eq(*name, *other_name)
            }
            (Self::Pairs(pairs), Self::Pairs(others)) => ptr::eq(*pairs, *others),
            _ => false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Pairs([]))
    }

    /// A hash of the addresses.
    #[inline]
    pub(crate) fn hash(&self) -> u64 {
        const MANY_ONES: u64 = 0x9e37_79b9_7f4a_7c15;

        let (a, b) = match *self {
            Self::Pair(name, value) => (name.as_ptr().addr(), value.as_ptr().addr()),
            Self::Pairs(pairs) => (pairs.as_ptr().addr(), 0),
        };
        let mixed = (a as u64).wrapping_mul(MANY_ONES) ^ b as u64;
        mixed.wrapping_mul(MANY_ONES) >> 32
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let (one, several) = match *self {
            Self::Pair(name, value) => (Some((name, value)), &[][..]),
            Self::Pairs(pairs) => (None, pairs),
        };
        one.into_iter().chain(several.iter().copied())
    }
}

const INLINE: usize = 6;

/// The labels of a [`LabelSet`]. If a name is added twice, the later label is used.
#[derive(Clone, Debug)]
pub struct LabelList {
    inline: [Part; INLINE],
    len: usize,
    more: Vec<Part>,
    // Collected only if asked for.
    alternatives: Option<Vec<Alternatives>>,
}

impl LabelList {
    const NEW: Self = Self {
        inline: [Part::Pairs(&[]); INLINE],
        len: 0,
        more: Vec::new(),
        alternatives: None,
    };

    /// Adds a label.
    pub fn push<L: BoundedLabel>(&mut self, label: L) {
        const { set::check::<L>() };

        let index = label.index();
        let value = L::VALUES.get(index).copied().unwrap_or_else(|| {
            warn_no_such_value(L::NAME, index, L::VALUES.len());
            OTHER
        });
        self.push_one_of(Part::Pair(L::NAME, value), || Alternatives {
            known: L::VALUES.iter().map(|value| Part::Pair(L::NAME, value)).collect(),
            later: 0,
        });
    }

    pub(crate) fn push_part(&mut self, part: Part) {
        self.push_one_of(part, || Alternatives {
            known: vec![part],
            later: 0,
        });
    }

    /// Adds a part, and says which others can be in its place.
    #[inline]
    pub(crate) fn push_one_of(&mut self, part: Part, all: impl FnOnce() -> Alternatives) {
        if let Some(alternatives) = &mut self.alternatives {
            alternatives.push(all());
            return;
        }
        match self.inline.get_mut(self.len) {
            Some(place) => *place = part,
            None => self.more.push(part),
        }
        self.len += 1;
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.inline[..self.len.min(INLINE)].iter().chain(&self.more)
    }

    /// The parts, if they are few.
    #[inline]
    pub(crate) fn few(&self) -> Option<&[Part]> {
        self.inline.get(..self.len)
    }
}

impl Default for LabelList {
    fn default() -> Self {
        Self::NEW
    }
}

/// What can be in the place of a part.
#[derive(Clone, Debug)]
pub(crate) struct Alternatives {
    pub(crate) known: Vec<Part>,
    /// How many more there can be later.
    pub(crate) later: usize,
}

impl Alternatives {
    /// The name, if all are values of one label.
    fn name(&self) -> Option<&'static str> {
        let mut pairs = self.known.iter().flat_map(Part::pairs);
        let (name, _) = pairs.next()?;
        pairs
            .all(|(other, _)| grammar::are_written_alike(name, other))
            .then_some(name)
    }
}

/// The labels of `labels`.
#[inline]
pub(crate) fn list_of<L: LabelSet>(labels: &L) -> LabelList {
    let mut list = LabelList::NEW;
    labels.append_to(&mut list);
    list
}

/// All values that the labels of `labels` can have.
pub(crate) fn alternatives<L: LabelSet>(labels: &L) -> Vec<Alternatives> {
    let mut list = LabelList {
        alternatives: Some(Vec::new()),
        ..LabelList::NEW
    };
    labels.append_to(&mut list);
    let mut all: Vec<Alternatives> = Vec::new();
    for one in list.alternatives.unwrap_or_default() {
        // A later label replaces one of the same name.
        if let Some(name) = one.name() {
            all.retain(|other| other.name().is_none_or(|other| !written(other).eq(written(name))));
        }
        all.push(one);
    }
    all
}

/// How many label sets the labels of `labels` can be, which is how many series a counter can have with them.
///
/// `labels` is any value of the labels: the number is that of all values that its labels can have. The values of a
/// [`CappedLabel`](super::CappedLabel) that are still to come are counted, too. With the classes of clients it is
/// [`ClientScopes::max_label_sets`](crate::ClientScopes::max_label_sets).
///
/// If you implement [`LabelSet`] yourself and add different labels for different values, the number is that of the
/// labels which `labels` adds.
///
/// ```
/// use dualstack_metrics::labels::{CappedLabel, ClientLabels, FixedLabel, max_label_sets};
///
/// static REFERER: CappedLabel = CappedLabel::new("referer", 20);
/// let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
///
/// // With `other`, there are 3 tenants and 21 referers.
/// assert_eq!(max_label_sets(&(tenants.other(), REFERER.other())), 3 * 21);
/// assert_eq!(max_label_sets(&(tenants.other(), ClientLabels::UNKNOWN)), 3 * ClientLabels::ALL.len());
/// # Ok::<(), dualstack_metrics::labels::LabelError>(())
/// ```
#[must_use]
pub fn max_label_sets<L: LabelSet>(labels: &L) -> usize {
    alternatives(labels)
        .iter()
        .map(|one| one.known.len().saturating_add(one.later))
        .fold(1, usize::saturating_mul)
}

/// Logs a warning once for each label.
#[cold]
fn warn_no_such_value(name: &'static str, index: usize, values: usize) {
    // Not a set of names, which would need a lock. Labels whose hashes are equal share a warning.
    static WARNED: [WarnOnce; 256] = [const { WarnOnce::new() }; 256];

    let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(name);
    let [at, ..] = hash.to_le_bytes();
    if WARNED[usize::from(at)].first() {
        tracing::warn!(
            label = name,
            index,
            values,
            "`BoundedLabel::index` of a label returned a position that its `VALUES` do not have, so the label has the \
             value `other`"
        );
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::labels::{CappedLabel, ClientLabels, FixedLabel};

    #[derive(Clone, Copy)]
    pub(in crate::labels) struct Plan(pub(in crate::labels) usize);

    impl BoundedLabel for Plan {
        const NAME: &'static str = "plan";
        const VALUES: &'static [&'static str] = &["free", "paid"];

        fn index(self) -> usize {
            self.0
        }
    }

    fn pairs<L: LabelSet>(labels: &L) -> Vec<(&'static str, &'static str)> {
        list_of(labels).parts().flat_map(Part::pairs).collect()
    }

    #[test]
    fn an_index_outside_of_the_values_is_other() {
        assert_eq!(pairs(&Plan(1)), [("plan", "paid")]);
        assert_eq!(pairs(&Plan(2)), [("plan", "other")]);
        assert_eq!(pairs(&Plan(usize::MAX)), [("plan", "other")]);
    }

    #[test]
    fn a_long_list_keeps_all_labels_in_order() {
        let three = (Plan(0), Plan(1), Plan(0));
        let values = pairs(&(three, three, three));
        assert_eq!(values.len(), 9);
        for (at, &(name, value)) in values.iter().enumerate() {
            assert_eq!((name, value), ("plan", ["free", "paid", "free"][at % 3]));
        }
        assert_eq!(pairs(&()), []);
    }

    #[test]
    fn the_number_of_label_sets_is_the_product() {
        static CAPPED: CappedLabel = CappedLabel::new("capped", 7);

        let tenants = FixedLabel::new("tenant", ["a", "b"]).unwrap();
        assert_eq!(max_label_sets(&()), 1);
        assert_eq!(max_label_sets(&Plan(0)), 2);
        assert_eq!(max_label_sets(&ClientLabels::UNKNOWN), ClientLabels::ALL.len());
        assert_eq!(max_label_sets(&tenants.value("a")), 3);
        assert_eq!(max_label_sets(&CAPPED.other()), 8);
        _ = CAPPED.value("x");
        assert_eq!(max_label_sets(&CAPPED.other()), 8);
        assert_eq!(max_label_sets(&(Plan(0), tenants.other(), CAPPED.other())), 48);
        assert_eq!(max_label_sets(&(Plan(0), Plan(1))), 2, "the later label is used");
        let scope = crate::Scope::new(&(Plan(0), tenants.other()));
        assert_eq!(max_label_sets(&(scope, CAPPED.other())), 8);
    }
}
