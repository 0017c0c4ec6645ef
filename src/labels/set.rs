//! Label sets: labels that a scope can have, because the number of their values is bounded.

use super::{
    bounded::BoundedLabel,
    class::ClientLabels,
    list::{Alternatives, LabelList, Part},
};

/// Labels that can be in force in a [`Scope`](crate::Scope): a [`BoundedLabel`], a value of a
/// [`FixedLabel`](super::FixedLabel) or of a [`CappedLabel`](super::CappedLabel), [`ClientLabels`], a `Scope`, or a tuple
/// of label sets.
///
/// You can derive it for a struct of several labels (feature `derive`), or implement it. The number of its values is
/// bounded, because it can only add bounded labels:
///
/// ```
/// # use dualstack_metrics::{BoundedLabel, LabelList, LabelSet, Scope};
/// # #[derive(Clone, Copy)] enum Tier { Free }
/// # impl BoundedLabel for Tier {
/// #     const NAME: &'static str = "tier"; const VALUES: &'static [&'static str] = &["free"];
/// #     fn index(self) -> usize { self as usize }
/// # }
/// # #[derive(Clone, Copy)] enum Region { Eu }
/// # impl BoundedLabel for Region {
/// #     const NAME: &'static str = "region"; const VALUES: &'static [&'static str] = &["eu"];
/// #     fn index(self) -> usize { self as usize }
/// # }
/// struct Tenant {
///     tier: Tier,
///     region: Region,
/// }
///
/// impl LabelSet for Tenant {
///     fn append_to(&self, list: &mut LabelList) {
///         (self.tier, self.region).append_to(list);
///     }
/// }
///
/// let scope = Scope::new(&Tenant { tier: Tier::Free, region: Region::Eu });
/// assert_eq!(scope.pairs(), [("region", "eu"), ("tier", "free")]);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no fixed set of values, so it cannot label a scope",
    label = "not a bounded label set",
    note = "each value of a label makes a time series; use an enum that implements `BoundedLabel`, a `FixedLabel` for \
            values that are known at start-up, a `CappedLabel` for values that clients send, or `ClientLabels` for a \
            client's address",
    note = "write a reference to a label as `*label`; an `Option` has no fixed set of values either: give `None` a value of its \
            own, as `FixedLabel::value(None::<&str>)` and `CappedLabel::value(None::<&str>)` do with `other`"
)]
pub trait LabelSet {
    /// Adds the labels of this value to `list`.
    fn append_to(&self, list: &mut LabelList);
}

impl<L: BoundedLabel> LabelSet for L {
    #[expect(
        clippy::inline_always,
        reason = "the mode of the list is known where it is made"
    )]
    #[inline(always)]
    fn append_to(&self, list: &mut LabelList) {
        list.push(*self);
    }
}

impl LabelSet for ClientLabels {
    #[expect(
        clippy::inline_always,
        reason = "the mode of the list is known where it is made"
    )]
    #[inline(always)]
    fn append_to(&self, list: &mut LabelList) {
        list.push_one_of(Part::Pairs(self.pairs()), || Alternatives {
            known: Self::ALL
                .iter()
                .map(|client| Part::Pairs(client.pairs()))
                .collect(),
            later: 0,
        });
    }
}

/// No labels.
impl LabelSet for () {
    #[inline]
    fn append_to(&self, _: &mut LabelList) {}
}

macro_rules! tuple_label_sets {
    ($($set:ident)+) => {
        impl<$($set: LabelSet),+> LabelSet for ($($set,)+) {
            #[inline]
            #[allow(non_snake_case)]
            fn append_to(&self, list: &mut LabelList) {
                let ($($set,)+) = self;
                $($set.append_to(list);)+
            }
        }
    };
}

tuple_label_sets!(A);
tuple_label_sets!(A B);
tuple_label_sets!(A B C);
tuple_label_sets!(A B C D);
tuple_label_sets!(A B C D E);
tuple_label_sets!(A B C D E F);

/// A hash of the labels. It is equal for labels whose texts are at the same addresses.
#[inline]
pub(crate) fn hash_of<L: LabelSet>(labels: &L, seed: usize) -> u64 {
    LabelList::hash(seed, |list| labels.append_to(list))
}

/// Whether the labels are these parts.
#[inline]
pub(crate) fn are<L: LabelSet>(labels: &L, parts: &'static [Part]) -> bool {
    LabelList::is(parts, |list| labels.append_to(list))
}

pub(crate) fn parts_of<L: LabelSet>(labels: &L) -> Vec<Part> {
    LabelList::parts(|list| labels.append_to(list))
}

/// All values that the labels of `labels` can have.
pub(crate) fn alternatives<L: LabelSet>(labels: &L) -> Vec<Alternatives> {
    LabelList::alternatives(|list| labels.append_to(list))
}

/// How many label sets the labels of `labels` can be, which is how many series a counter can have with them.
///
/// `labels` is any value of the labels: the number includes all values that its labels can have, and those that a
/// [`CappedLabel`](super::CappedLabel) can still take. With the classes of clients it is
/// [`ClientScopes::max_label_sets`](crate::ClientScopes::max_label_sets).
///
/// If you implement [`LabelSet`] yourself and add different labels for different values, only the labels that `labels`
/// adds are counted.
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::labels::{CappedLabel, FixedLabel, ServerBinding};

    static_assertions::assert_not_impl_any!(String: LabelSet);
    static_assertions::assert_not_impl_any!(&'static str: LabelSet);
    static_assertions::assert_not_impl_any!(IpAddr: LabelSet);
    static_assertions::assert_not_impl_any!(SocketAddr: LabelSet);
    static_assertions::assert_not_impl_any!(u16: LabelSet);
    static_assertions::assert_not_impl_any!(ServerBinding: LabelSet);
    static_assertions::assert_not_impl_any!((ClientLabels, u16): LabelSet);

    #[derive(Clone, Copy)]
    struct Plan(usize);

    impl BoundedLabel for Plan {
        const NAME: &'static str = "plan";
        const VALUES: &'static [&'static str] = &["free", "paid"];

        fn index(self) -> usize {
            self.0
        }
    }

    fn pairs<L: LabelSet>(labels: &L) -> Vec<(&'static str, &'static str)> {
        parts_of(labels).iter().flat_map(Part::pairs).collect()
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
    }
}
