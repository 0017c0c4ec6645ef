use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use super::{
    error::{LabelError, MAX_VALUES},
    grammar,
    list::{Alternatives, Part},
    names::OTHER,
    text::{LabelText, Overflow, OverflowReason},
    value::{LabelValue, Values},
};

/// All labels of the process, so that one which is made again takes no memory.
static LABELS: Mutex<Vec<&'static Data>> = Mutex::new(Vec::new());

/// How many values all labels of a process can have together.
const MAX_STORED: usize = 65_536;

/// A label whose values are known at start-up, such as the tenants in a configuration file.
///
/// [`value`](Self::value) turns text into a value of the label. Text that is not one of the values becomes `other`, so
/// the label has one value more than it was given. It takes no lock and allocates nothing for a known value.
///
/// ```
/// use dualstack_metrics::{FixedLabel, Scope};
///
/// let tenants = FixedLabel::new("tenant", ["acme", "globex"])?;
///
/// assert_eq!(Scope::new(&tenants.value("acme")).pairs(), [("tenant", "acme")]);
/// assert_eq!(Scope::new(&tenants.value("somebody")).pairs(), [("tenant", "other")]);
/// # Ok::<(), dualstack_metrics::labels::LabelError>(())
/// ```
///
/// # Values that are not known
///
/// Each is counted in [`label_values_overflowed_total`](super::LABEL_VALUES_OVERFLOWED_TOTAL), with the reason `empty` or
/// `unknown`. The sum over all values of the label is the same as without it.
///
/// # Memory
///
/// A label is `Copy`, and its values are kept until the process ends. Making the same label again takes no memory, so
/// a program can make its labels at each reload of its configuration. All labels of a process can have 65,536 values
/// together, including earlier configurations.
#[derive(Clone, Copy)]
pub struct FixedLabel {
    data: &'static Data,
}

struct Data {
    name: &'static str,
    /// Without `other`.
    values: Vec<&'static str>,
    by_text: HashMap<&'static [u8], &'static str>,
    overflow: Overflow,
}

impl FixedLabel {
    /// How many values a label can have, without `other`.
    pub const MAX_VALUES: usize = MAX_VALUES;

    /// A label with these values. A value that is given twice counts once.
    ///
    /// # Errors
    ///
    /// If `name` is not a label name of Prometheus, or a value is empty, has a control character or a backslash, or is
    /// `other`. If there are more than [`MAX_VALUES`](Self::MAX_VALUES), or the process has too many already.
    pub fn new<I>(name: impl AsRef<str>, values: I) -> Result<Self, LabelError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let name = name.as_ref();
        grammar::check(name, OTHER)?;
        let mut given: Vec<String> = Vec::new();
        for value in values {
            let value = value.as_ref();
            grammar::check(name, value)?;
            if value == OTHER {
                return Err(LabelError::ReservedValue {
                    label: name.to_owned(),
                });
            }
            given.push(value.to_owned());
        }
        given.sort_unstable();
        given.dedup();

        let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = labels
            .iter()
            .find(|data| data.name == name && data.values == given)
        {
            return Ok(Self { data });
        }
        let stored: usize = labels.iter().map(|data| data.values.len() + 1).sum();
        if given.len() > Self::MAX_VALUES || stored + given.len() >= MAX_STORED {
            return Err(LabelError::TooManyValues {
                label: name.to_owned(),
                values: given.len(),
            });
        }
        let values: Vec<&'static str> = given.into_iter().map(|value| &*value.leak()).collect();
        let data = Box::leak(Box::new(Data {
            name: name.to_owned().leak(),
            by_text: values.iter().map(|&value| (value.as_bytes(), value)).collect(),
            values,
            overflow: Overflow::new(),
        }));
        labels.push(data);
        Ok(Self { data })
    }

    /// The label's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.data.name
    }

    /// The value of the label for a text, which is `other` if the text is not one of the values. Upper and lower case
    /// are different.
    pub fn value(self, text: impl LabelText) -> LabelValue {
        let value = text
            .label_text()
            .filter(|text| !text.is_empty())
            .ok_or(OverflowReason::Empty)
            .and_then(|text| self.data.by_text.get(text).ok_or(OverflowReason::Unknown));
        match value {
            Ok(value) => self.with_value(value),
            Err(reason) => {
                self.data.overflow.count(self.data.name, reason);
                self.other()
            }
        }
    }

    /// The value `other`. It is not counted as an overflow.
    #[must_use]
    pub fn other(self) -> LabelValue {
        self.with_value(OTHER)
    }

    /// All values in the order of their texts, and `other` at the end.
    pub fn values(self) -> impl Iterator<Item = LabelValue> {
        self.data.all().map(move |value| self.with_value(value))
    }

    fn with_value(self, value: &'static str) -> LabelValue {
        LabelValue {
            name: self.data.name,
            value,
            label: self.data,
        }
    }
}

impl Data {
    fn all(&'static self) -> impl Iterator<Item = &'static str> {
        self.values.iter().copied().chain([OTHER])
    }
}

impl Values for Data {
    fn alternatives(&'static self) -> Alternatives {
        Alternatives {
            known: self.all().map(|value| Part::Pair(self.name, value)).collect(),
            later: 0,
        }
    }
}

impl fmt::Debug for FixedLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedLabel")
            .field("name", &self.data.name)
            .field("values", &self.data.values)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use test_support::eventually;

    use super::*;
    use crate::labels::{LabelSet, set::parts_of};

    static_assertions::assert_impl_all!(FixedLabel: Copy, Send, Sync);
    static_assertions::assert_impl_all!(LabelValue: Copy, Send, Sync, LabelSet);

    fn error(values: &[&str]) -> LabelError {
        FixedLabel::new("tenant", values).unwrap_err()
    }

    #[test]
    fn known_text_is_a_value_and_other_text_is_other() {
        let label = FixedLabel::new("tenant", ["globex", "acme", "globex"]).unwrap();
        assert_eq!(
            format!("{label:?}"),
            r#"FixedLabel { name: "tenant", values: ["acme", "globex"] }"#
        );
        for (text, value) in [
            ("acme", "acme"),
            ("globex", "globex"),
            ("Acme", "other"),
            ("", "other"),
            ("other", "other"),
        ] {
            assert_eq!(label.value(text).as_str(), value, "{text:?}");
            assert_eq!(label.value(text.as_bytes()), label.value(text));
        }
        assert_eq!(label.value(None::<&str>), label.other());
        assert_eq!(label.value(b"\xff".as_slice()), label.other());
        let values: Vec<_> = label.values().map(LabelValue::as_str).collect();
        assert_eq!(values, ["acme", "globex", "other"]);
        let parts = parts_of(&label.value("acme"));
        let pairs: Vec<_> = parts.iter().flat_map(Part::pairs).collect();
        assert_eq!(pairs, [("tenant", "acme")]);
    }

    #[test]
    fn a_look_up_waits_for_no_lock() {
        let label = FixedLabel::new("tenant", ["acme"]).unwrap();
        let _making = LABELS.lock().unwrap();
        let look_up = thread::spawn(move || ["acme", "globex"].map(|text| label.value(text).as_str()));
        eventually("both are looked up", || look_up.is_finished());
        assert_eq!(look_up.join().unwrap(), ["acme", "other"]);
    }

    #[test]
    fn the_same_label_is_stored_once() {
        let make = |values: &[&str]| FixedLabel::new("stored_once", values).unwrap().data;
        assert!(std::ptr::eq(make(&["a", "b"]), make(&["b", "a"])));
        assert!(!std::ptr::eq(make(&["a", "b"]), make(&["a"])));
    }

    #[test]
    fn what_cannot_be_a_label_is_an_error() {
        assert_eq!(
            FixedLabel::new("a tenant", ["acme"]).unwrap_err(),
            LabelError::InvalidName("a tenant".into())
        );
        assert!(matches!(error(&["acme", ""]), LabelError::InvalidValue { value, .. } if value.is_empty()));
        assert!(matches!(error(&["a\\b"]), LabelError::InvalidValue { value, .. } if value == "a\\b"));
        assert_eq!(
            error(&["other"]).to_string(),
            r#"the label "tenant" cannot have the value "other": unknown values are written as "other""#
        );
        let many: Vec<_> = (0..=FixedLabel::MAX_VALUES).map(|n| n.to_string()).collect();
        assert_eq!(
            FixedLabel::new("tenant", &many).unwrap_err(),
            LabelError::TooManyValues {
                label: "tenant".into(),
                values: 4096
            }
        );
        assert!(FixedLabel::new("tenant", &many[1..]).is_ok());
        assert_eq!(FixedLabel::new("tenant", [""; 0]).unwrap().values().count(), 1);
    }
}
