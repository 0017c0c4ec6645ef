//! The labels of one label set, and the alternatives to each.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    mem::ManuallyDrop,
    ptr,
};

use super::{
    bounded::{BoundedLabel, check},
    grammar::written,
    names::OTHER,
};
use crate::once::WarnOnce;

/// Labels whose texts live as long as the process. Two parts are compared by the addresses of their texts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// A name and a value.
    Pair(&'static str, &'static str),
    /// Several labels that are always together.
    Pairs(&'static [(&'static str, &'static str)]),
    /// The labels of a scope, and its number.
    Scope(u16, &'static [(&'static str, &'static str)]),
}

impl Part {
    #[inline]
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pair(name, value), Self::Pair(other_name, other_value)) => {
                ptr::eq(*value, *other_value) && ptr::eq(*name, *other_name)
            }
            (Self::Pairs(pairs), Self::Pairs(others)) => ptr::eq(*pairs, *others),
            (Self::Scope(number, _), Self::Scope(other, _)) => number == other,
            _ => false,
        }
    }

    /// The high bits are the best.
    #[inline]
    fn hashed_into(&self, hash: u64) -> u64 {
        const MANY_ONES: u64 = 0x9e37_79b9_7f4a_7c15;

        // Parts that differ in the name alone are rare.
        let identity = match self {
            Self::Pair(_, value) => value.as_ptr().addr(),
            Self::Pairs(pairs) => pairs.as_ptr().addr(),
            Self::Scope(number, _) => usize::from(*number),
        };
        (hash.rotate_left(u64::BITS / 2) ^ identity as u64).wrapping_mul(MANY_ONES)
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        let (one, several) = match *self {
            Self::Pair(name, value) => (Some((name, value)), &[][..]),
            Self::Pairs(pairs) | Self::Scope(_, pairs) => (None, pairs),
        };
        one.into_iter().chain(several.iter().copied())
    }
}

/// Takes the labels of a [`LabelSet`](super::LabelSet). If a name is added twice, the later label is used.
#[derive(Debug)]
pub struct LabelList(Mode);

/// Labels that were composed before are found by a hash and a comparison, without a list of them.
#[derive(Debug)]
enum Mode {
    Hash(u64),
    Compare { rest: &'static [Part], is_same: bool },
    Collect(Vec<Part>),
    Alternatives(Vec<Alternatives>),
}

impl LabelList {
    /// A hash of the addresses of the parts that `append` adds.
    #[inline]
    pub(super) fn hash(seed: usize, append: impl FnOnce(&mut Self)) -> u64 {
        // In this mode there is nothing to drop.
        let mut list = ManuallyDrop::new(Self(Mode::Hash(seed as u64)));
        append(&mut list);
        match list.0 {
            Mode::Hash(hash) => hash,
            _ => 0,
        }
    }

    /// Whether `append` adds these parts.
    #[inline]
    pub(super) fn is(parts: &'static [Part], append: impl FnOnce(&mut Self)) -> bool {
        // In this mode there is nothing to drop.
        let mut list = ManuallyDrop::new(Self(Mode::Compare {
            rest: parts,
            is_same: true,
        }));
        append(&mut list);
        matches!(
            list.0,
            Mode::Compare {
                rest: [],
                is_same: true
            }
        )
    }

    /// The parts that `append` adds.
    pub(super) fn parts(append: impl FnOnce(&mut Self)) -> Vec<Part> {
        let mut list = Self(Mode::Collect(Vec::new()));
        append(&mut list);
        match list.0 {
            Mode::Collect(parts) => parts,
            _ => Vec::new(),
        }
    }

    /// The alternatives to each part that `append` adds, without those that a later label of the same name replaces.
    pub(super) fn alternatives(append: impl FnOnce(&mut Self)) -> Vec<Alternatives> {
        let mut list = Self(Mode::Alternatives(Vec::new()));
        append(&mut list);
        let mut all: Vec<Alternatives> = Vec::new();
        let Mode::Alternatives(alternatives) = list.0 else {
            return all;
        };
        for one in alternatives {
            if let Some(name) = one.name() {
                all.retain(|other| other.name().is_none_or(|other| !written(other).eq(written(name))));
            }
            all.push(one);
        }
        all
    }

    /// Adds a label.
    #[inline]
    pub fn push<L: BoundedLabel>(&mut self, label: L) {
        const { check::<L>() };

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

    /// Adds the labels of a scope. `pairs` is called only where they are listed: a number is enough to find them.
    #[expect(
        clippy::inline_always,
        reason = "the mode of the list is known where it is made"
    )]
    #[inline(always)]
    pub(crate) fn push_scope(
        &mut self,
        number: u16,
        pairs: impl FnOnce() -> &'static [(&'static str, &'static str)],
    ) {
        match &mut self.0 {
            Mode::Hash(_) | Mode::Compare { .. } => self.push_part(Part::Scope(number, &[])),
            Mode::Collect(_) | Mode::Alternatives(_) => self.push_part(Part::Scope(number, pairs())),
        }
    }

    /// Adds a part that has no alternatives.
    #[inline]
    pub(crate) fn push_part(&mut self, part: Part) {
        self.push_one_of(part, || Alternatives {
            known: vec![part],
            later: 0,
        });
    }

    /// Adds a part, and the parts that can be in its place.
    #[expect(
        clippy::inline_always,
        reason = "the mode of the list is known where it is made"
    )]
    #[inline(always)]
    pub(crate) fn push_one_of(&mut self, part: Part, all: impl FnOnce() -> Alternatives) {
        match &mut self.0 {
            Mode::Hash(hash) => *hash = part.hashed_into(*hash),
            Mode::Compare { rest, is_same } => match rest {
                [first, others @ ..] if first.is(&part) => *rest = others,
                _ => *is_same = false,
            },
            Mode::Collect(parts) => parts.push(part),
            Mode::Alternatives(alternatives) => alternatives.push(all()),
        }
    }
}

/// The parts that can be in one place of a list.
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
            .all(|(other, _)| written(other).eq(written(name)))
            .then_some(name)
    }
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
