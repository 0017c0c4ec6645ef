//! The code that the derives make.

use dualstack_metrics::{BoundedLabel, ClientLabels, FixedLabel, LabelSet, Scope, labels::max_label_sets};

#[derive(Clone, Copy, BoundedLabel)]
#[label(name = "plan")]
enum Tariff {
    /// A comment.
    Free,
    #[label(value = "pay-as-you-go")]
    PayAsYouGo,
    #[cfg(any())]
    Free,
    #[cfg(not(any()))]
    LongTerm = 7,
    r#True,
}

mod inner {
    use super::{BoundedLabel, LabelSet};

    /// A comment.
    #[derive(Clone, Copy, Debug, PartialEq, BoundedLabel)]
    pub(super) enum HttpRegion<const N: usize> {
        EuWest1,
        UsEast,
    }

    /// A comment.
    #[derive(Clone, Copy, LabelSet)]
    pub(super) struct Who<R, T = ()>
    where
        R: Copy,
    {
        /// A comment.
        pub(super) plan: super::Tariff,
        pub(super) region: R,
        pub(super) more: T,
        #[cfg(any())]
        nothing: String,
    }

    #[derive(LabelSet)]
    pub(super) struct Two<'a>(pub(super) super::Tariff, pub(super) super::Borrowed<'a>);

    #[derive(LabelSet)]
    pub(super) struct Nothing;
}

struct Borrowed<'a>(&'a str);

impl LabelSet for Borrowed<'_> {
    fn append_to(&self, list: &mut dualstack_metrics::LabelList) {
        list.push(if self.0 == "eu" {
            Region::EuWest1
        } else {
            Region::UsEast
        });
    }
}

type Region = inner::HttpRegion<3>;

#[test]
fn an_enum_is_a_label() {
    assert_eq!(Tariff::NAME, "plan");
    assert_eq!(Tariff::VALUES, ["free", "pay-as-you-go", "long_term", "true"]);
    let tariffs = [Tariff::Free, Tariff::PayAsYouGo, Tariff::LongTerm, Tariff::True];
    for (at, tariff) in tariffs.into_iter().enumerate() {
        assert_eq!(tariff.index(), at);
        assert_eq!(Scope::new(&tariff).pairs(), [("plan", Tariff::VALUES[at])]);
    }
    assert_eq!(Region::NAME, "http_region");
    assert_eq!(Region::VALUES, ["eu_west1", "us_east"]);
}

#[test]
fn a_struct_has_the_labels_of_its_fields() {
    let tenants = FixedLabel::new("tenant", ["acme"]).unwrap();
    let who = inner::Who {
        plan: Tariff::PayAsYouGo,
        region: Region::UsEast,
        more: (tenants.value("acme"), ClientLabels::UNKNOWN),
    };
    assert_eq!(
        Scope::new(&who).pairs(),
        [
            ("client_address_ip_family", "unknown"),
            ("client_address_ip_type", "unknown"),
            ("http_region", "us_east"),
            ("plan", "pay-as-you-go"),
            ("tenant", "acme"),
        ]
    );
    assert_eq!(max_label_sets(&who), 4 * 2 * 2 * ClientLabels::ALL.len());

    let two = inner::Two(Tariff::Free, Borrowed("eu"));
    assert_eq!(
        Scope::new(&two).pairs(),
        [("http_region", "eu_west1"), ("plan", "free")]
    );
    assert_eq!(Scope::new(&inner::Nothing), Scope::none());
}
