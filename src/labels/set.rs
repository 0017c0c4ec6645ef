//! Label sets: labels that a scope can have, because the number of their values is bounded.

use super::{
    ClientLabels, LabelList, grammar,
    list::{Alternatives, Part},
};

/// A label whose values are known when the program is compiled. Usually an enum.
///
/// A value can only come from [`VALUES`](Self::VALUES), so the number of series is known. A `String`, an `IpAddr` or a
/// `u16` has no fixed set of values and does not compile as a label:
///
/// ```
/// use dualstack_metrics::{BoundedLabel, Scope};
///
/// #[derive(Clone, Copy)]
/// enum RequestKind {
///     Announce,
///     Scrape,
/// }
///
/// impl BoundedLabel for RequestKind {
///     const NAME: &'static str = "request_kind";
///     const VALUES: &'static [&'static str] = &["announce", "scrape"];
///
///     fn index(self) -> usize {
///         self as usize
///     }
/// }
///
/// let scope = Scope::new(&RequestKind::Announce);
/// assert_eq!(scope.pairs(), [("request_kind", "announce")]);
/// # let _ = RequestKind::Scrape;
/// ```
///
/// ```compile_fail
/// use dualstack_metrics::Scope;
///
/// let scope = Scope::new(&String::from("192.0.2.7"));
/// ```
///
/// ```compile_fail
/// use dualstack_metrics::Scope;
///
/// let scope = Scope::new(&std::net::IpAddr::from([192, 0, 2, 7]));
/// ```
///
/// ```compile_fail
/// use dualstack_metrics::Scope;
///
/// let scope = Scope::new(&50_000_u16);
/// ```
///
/// For tenants from a configuration file, use a [`FixedLabel`](super::FixedLabel). For values that clients send, use a
/// [`CappedLabel`](super::CappedLabel).
///
/// # Errors
///
/// Names and values are checked when the program is compiled. `NAME` must be a label name of Prometheus that is free to
/// use. `VALUES` must have at least one value, none twice, none empty, and none with a control character or a backslash.
///
/// ```compile_fail
/// use dualstack_metrics::{BoundedLabel, Scope};
///
/// #[derive(Clone, Copy)]
/// struct Always;
///
/// impl BoundedLabel for Always {
///     const NAME: &'static str = "not-a-name";
///     const VALUES: &'static [&'static str] = &["yes"];
///
///     fn index(self) -> usize {
///         0
///     }
/// }
///
/// let scope = Scope::new(&Always);
/// ```
pub trait BoundedLabel: Copy {
    /// The label's name.
    const NAME: &'static str;

    /// All values that the label can have.
    const VALUES: &'static [&'static str];

    /// The position of this value in [`VALUES`](Self::VALUES).
    ///
    /// A position outside of `VALUES` is a mistake, but it does not panic. The label gets the value `other`, and a warning
    /// with the name of the label is logged once.
    fn index(self) -> usize;
}

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
            client's address"
)]
pub trait LabelSet {
    /// The names of the labels, as far as they are known when the program is compiled. The derive compares them.
    #[doc(hidden)]
    const NAMES: LabelNames = LabelNames::Unknown;

    /// Adds the labels of this value to `list`.
    fn append_to(&self, list: &mut LabelList);
}

impl<L: BoundedLabel> LabelSet for L {
    const NAMES: LabelNames = LabelNames::One(L::NAME);

    fn append_to(&self, list: &mut LabelList) {
        list.push(*self);
    }
}

impl LabelSet for ClientLabels {
    const NAMES: LabelNames = LabelNames::All(&[
        LabelNames::One(super::CLIENT_ADDRESS_IP_FAMILY),
        LabelNames::One(super::CLIENT_ADDRESS_IP_TYPE),
    ]);

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
    fn append_to(&self, _: &mut LabelList) {}
}

macro_rules! tuple_label_sets {
    ($($set:ident)+) => {
        impl<$($set: LabelSet),+> LabelSet for ($($set,)+) {
            const NAMES: LabelNames = LabelNames::All(&[$($set::NAMES),+]);

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

/// The names of labels that are known when the program is compiled.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum LabelNames {
    /// They are known at start-up.
    Unknown,
    /// The name of one label.
    One(&'static str),
    /// The names of several label sets.
    All(&'static [LabelNames]),
}

impl LabelNames {
    /// Whether a name is in both. Names that the exporter writes alike are one name.
    #[must_use]
    pub const fn share_a_name(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => false,
            (Self::One(a), Self::One(b)) => grammar::are_written_alike(a, b),
            (Self::All(all), one) | (one, Self::All(all)) => {
                let mut at = 0;
                while at < all.len() {
                    if all[at].share_a_name(one) {
                        return true;
                    }
                    at += 1;
                }
                false
            }
        }
    }
}

/// What the derive checks at the right place, for labels that are written by hand.
pub(super) const fn check<L: BoundedLabel>() {
    assert!(
        grammar::is_name(L::NAME),
        "`BoundedLabel::NAME` is not a label name: use letters, digits, `_` and `.`, do not begin with a digit, a dot or \
         `__`, and do not use `le` or `quantile`"
    );
    assert!(!L::VALUES.is_empty(), "`BoundedLabel::VALUES` is empty");
    let mut at = 0;
    while at < L::VALUES.len() {
        assert!(
            grammar::is_value(L::VALUES[at]),
            "one of `BoundedLabel::VALUES` is empty, or has a control character or a backslash"
        );
        let mut other = 0;
        while other < at {
            assert!(
                !grammar::is_same(L::VALUES[at], L::VALUES[other]),
                "one of `BoundedLabel::VALUES` is there twice"
            );
            other += 1;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::labels::{ServerBinding, list::tests::Plan};

    static_assertions::assert_not_impl_any!(String: LabelSet);
    static_assertions::assert_not_impl_any!(&'static str: LabelSet);
    static_assertions::assert_not_impl_any!(IpAddr: LabelSet);
    static_assertions::assert_not_impl_any!(SocketAddr: LabelSet);
    static_assertions::assert_not_impl_any!(u16: LabelSet);
    static_assertions::assert_not_impl_any!(ServerBinding: LabelSet);
    static_assertions::assert_not_impl_any!((ClientLabels, u16): LabelSet);

    #[test]
    fn names_are_compared_as_they_are_written() {
        let one = LabelNames::One;
        assert!(one("a.b").share_a_name(&one("a_b")));
        assert!(!one("a.b").share_a_name(&one("a_c")));
        assert!(!LabelNames::Unknown.share_a_name(&LabelNames::Unknown));
        let names = <(ClientLabels, (Plan, ()))>::NAMES;
        assert!(names.share_a_name(&Plan::NAMES));
        assert!(Plan::NAMES.share_a_name(&names));
        assert!(<(Plan,)>::NAMES.share_a_name(&names));
        assert!(names.share_a_name(&one("client.address_ip_type")));
        assert!(!names.share_a_name(&one("tenant")));
    }
}
