use std::fmt;

use super::{
    list::{Alternatives, LabelList, Part},
    set::LabelSet,
};

/// A label whose values are known when the program runs.
pub(super) trait Values: Sync {
    /// All values that the label has, and how many it can still take.
    fn alternatives(&'static self) -> Alternatives;
}

/// A value of a [`FixedLabel`](super::FixedLabel) or a [`CappedLabel`](super::CappedLabel). It is a [`LabelSet`].
#[derive(Clone, Copy)]
pub struct LabelValue {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    pub(super) label: &'static dyn Values,
}

impl LabelValue {
    /// The value, such as `acme` or `other`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.value
    }
}

impl LabelSet for LabelValue {
    #[expect(
        clippy::inline_always,
        reason = "the mode of the list is known where it is made"
    )]
    #[inline(always)]
    fn append_to(&self, list: &mut LabelList) {
        list.push_one_of(Part::Pair(self.name, self.value), || self.label.alternatives());
    }
}

impl fmt::Debug for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={:?}", self.name, self.value)
    }
}

impl PartialEq for LabelValue {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value && self.name == other.name
    }
}

impl Eq for LabelValue {}

#[cfg(test)]
mod tests {
    use crate::labels::{CappedLabel, FixedLabel};

    static CAPPED: CappedLabel = CappedLabel::new("tenant", 2);

    #[test]
    fn values_are_equal_if_name_and_text_are() {
        let fixed = FixedLabel::new("tenant", ["acme", "globex"]).unwrap();
        let plan = FixedLabel::new("plan", ["acme"]).unwrap();
        assert_eq!(fixed.value("acme"), CAPPED.value("acme"));
        assert_ne!(CAPPED.value("acme"), CAPPED.value("globex"));
        assert_ne!(fixed.value("acme"), plan.value("acme"));
        assert_eq!(format!("{:?}", CAPPED.other()), r#"tenant="other""#);
    }
}
