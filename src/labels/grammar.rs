//! Which names and values a label can have.

use std::{borrow::Cow, error::Error, fmt};

use super::{LabelSet, list};

/// Whether `name` is a label name of Prometheus that is free to use.
///
/// The exporter writes a dot as an underscore. Prometheus keeps names that begin with two underscores to itself, and
/// gives `le` and `quantile` to histograms and summaries.
pub(crate) const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes[0] == b'.' || bytes[0].is_ascii_digit() {
        return false;
    }
    if bytes.len() > 1 && bytes[0] == b'_' && bytes[1] == b'_' {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_alphanumeric() && bytes[at] != b'_' && bytes[at] != b'.' {
            return false;
        }
        at += 1;
    }
    !is_same(name, "le") && !is_same(name, "quantile")
}

/// Whether an exporter writes `value` as it is. The Prometheus exporter writes some different values with backslashes
/// in the same way, so that two series become one.
pub(crate) const fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        // U+0080 to U+009F are control characters too.
        let is_c1 = bytes[at] == 0xc2 && bytes[at + 1] < 0xa0;
        if bytes[at].is_ascii_control() || bytes[at] == b'\\' || is_c1 {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty()
}

/// Whether the exporter writes two names alike, like `a.b` and `a_b`.
pub(super) const fn are_written_alike(a: &str, b: &str) -> bool {
    const fn written(byte: u8) -> u8 {
        if byte == b'.' { b'_' } else { byte }
    }

    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if written(a[at]) != written(b[at]) {
            return false;
        }
        at += 1;
    }
    true
}

/// The characters of a label name as the Prometheus exporter writes them. `client.address` and `client_address` are
/// the same name.
pub(crate) fn written(name: &str) -> impl Iterator<Item = char> {
    written_with(name, |_| false)
}

/// A metric name as the Prometheus exporter writes it: unlike a label's, it may contain colons.
pub(crate) fn written_metric(name: &str) -> impl Iterator<Item = char> {
    written_with(name, |c| c == ':')
}

fn written_with(name: &str, also_valid: fn(char) -> bool) -> impl Iterator<Item = char> {
    name.chars().enumerate().map(move |(at, c)| match c {
        'a'..='z' | 'A'..='Z' | '_' => c,
        '0'..='9' if at > 0 => c,
        c if also_valid(c) => c,
        _ => '_',
    })
}

pub(super) const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What reads the labels, and which values it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exporter {
    /// Prometheus and OpenTelemetry. A value is a text without control characters and backslashes, and not empty.
    #[default]
    Prometheus,
    /// DogStatsD, whose rules for tags are stricter. A value has no comma and no `|`, does not end with a colon, and
    /// name and value have at most 199 characters together ([Datadog's rules]).
    ///
    /// [Datadog's rules]: https://docs.datadoghq.com/getting_started/tagging/#define-tags
    DogStatsD,
}

impl Exporter {
    /// Whether the exporter takes this value of a label.
    pub(crate) fn takes(self, name: &str, value: &str) -> bool {
        const LONGEST_TAG: usize = 200;

        is_value(value)
            && match self {
                Self::Prometheus => true,
                Self::DogStatsD => {
                    !value.contains([',', '|'])
                        && !value.ends_with(':')
                        && name.chars().count() + ":".len() + value.chars().count() <= LONGEST_TAG
                }
            }
    }

    /// Checks all values that `labels` can have, at start-up.
    ///
    /// `labels` is any value of the labels: see [`max_label_sets`](super::max_label_sets). Of a
    /// [`CappedLabel`](super::CappedLabel), the values of later requests are not known yet: give it the exporter with
    /// [`CappedLabel::exporter`](super::CappedLabel::exporter).
    ///
    /// ```
    /// use dualstack_metrics::labels::{Exporter, FixedLabel};
    ///
    /// let urls = FixedLabel::new("url", ["udp://tracker.example:6969", "udp://[2001:db8::]:"])?;
    /// assert_eq!(Exporter::Prometheus.check(&urls.other()), Ok(()));
    /// assert_eq!(
    ///     Exporter::DogStatsD.check(&urls.other()).unwrap_err().to_string(),
    ///     "the label \"url\" cannot have the value \"udp://[2001:db8::]:\": a tag of DogStatsD has no comma and no \
    ///      `|`, does not end with a colon, and has at most 200 characters with its name",
    /// );
    /// # Ok::<(), dualstack_metrics::labels::LabelError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the exporter does not take one of the values.
    pub fn check<L: LabelSet>(self, labels: &L) -> Result<(), LabelError> {
        for one in list::alternatives(labels) {
            for part in &one.known {
                for (name, value) in part.pairs() {
                    check(self, name, value)?;
                }
            }
        }
        Ok(())
    }
}

/// Checks a label whose name or value comes from outside the program's code.
pub(crate) fn check(exporter: Exporter, name: &str, value: &str) -> Result<(), LabelError> {
    if !is_name(name) {
        return Err(LabelError::InvalidName(name.to_owned()));
    }
    if !exporter.takes(name, value) {
        return Err(LabelError::InvalidValue {
            label: name.to_owned(),
            value: value.to_owned(),
            exporter,
        });
    }
    Ok(())
}

/// Why a label cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// This is not the name of a label.
    InvalidName(String),
    /// The label cannot have this value.
    InvalidValue {
        /// The label's name.
        label: String,
        /// The value.
        value: String,
        /// The exporter that does not take it.
        exporter: Exporter,
    },
    /// The value is what values that are not known are written as.
    ReservedValue {
        /// The label's name.
        label: String,
        /// The value.
        value: Cow<'static, str>,
    },
    /// The label has more values than there can be label sets, or all labels of the process together have more than can
    /// be stored.
    TooManyValues {
        /// The label's name.
        label: String,
        /// How many values it has.
        values: usize,
    },
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidName(name) if matches!(&**name, "le" | "quantile") => write!(
                f,
                "{name:?} is the name of a label that Prometheus gives to histograms and summaries: use another"
            ),
            Self::InvalidName(name) => write!(
                f,
                "{name:?} is not a label name: use letters, digits, `_` and `.`, and do not begin with a digit, a dot or \
                 `__`"
            ),
            Self::InvalidValue {
                label,
                value,
                exporter,
            } => {
                write!(f, "the label {label:?} cannot have the value {value:?}: ")?;
                f.write_str(match exporter {
                    _ if value.is_empty() => "an empty value is no label to Prometheus",
                    Exporter::DogStatsD if is_value(value) => {
                        "a tag of DogStatsD has no comma and no `|`, does not end with a colon, and has at most 200 \
                         characters with its name"
                    }
                    _ => "a value has no control characters and no backslashes",
                })
            }
            Self::ReservedValue { label, value } => write!(
                f,
                "the label {label:?} cannot have the value {value:?}: it is what values that are not known are written as"
            ),
            Self::TooManyValues { label, values } => write!(
                f,
                "the label {label:?} has {values} values, which is too many: a label has at most {} values, and each is a \
                 series of each counter; use a label with fewer values, such as a group of tenants, and make it once, at \
                 start-up",
                super::FixedLabel::MAX_VALUES
            ),
        }
    }
}

impl Error for LabelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_prometheus_and_free() {
        for name in ["a", "_a9", "url.scheme", "A_b", "_", "lee"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "", "9a", ".a", "a b", "a-b", "ä", "__", "__name__", "a\"", "a\n", "le", "quantile",
        ] {
            assert!(!is_name(name), "{name}");
            let error = check(Exporter::Prometheus, name, "x").unwrap_err();
            assert_eq!(error, LabelError::InvalidName(name.into()));
            assert!(error.to_string().starts_with(&format!("{name:?} is ")), "{error}");
        }
    }

    #[test]
    fn values_are_what_each_exporter_writes_unchanged() {
        let long = "x".repeat(199);
        for (value, is_valid, is_tag) in [
            ("a", true, true),
            ("an \"ä\" {b}=#c: d", true, true),
            ("::", true, false),
            ("a,b", true, false),
            ("a|b", true, false),
            (&long, true, false),
            (&long[1..], true, true),
            ("", false, false),
            ("a\\b", false, false),
            ("a\nb", false, false),
            ("\u{7f}", false, false),
            ("\u{80}", false, false),
            ("\u{a0}", true, true),
        ] {
            assert_eq!(is_value(value), is_valid, "{value:?}");
            assert_eq!(Exporter::Prometheus.takes("n", value), is_valid, "{value:?}");
            assert_eq!(Exporter::DogStatsD.takes("n", value), is_tag, "{value:?}");
            assert_eq!(
                is_value(value),
                !value.is_empty() && !value.contains(|c: char| c.is_control() || c == '\\')
            );
        }
    }

    #[test]
    fn errors_name_the_culprit() {
        let error = |value: &str, exporter| check(exporter, "tenant", value).unwrap_err().to_string();
        assert_eq!(
            error("", Exporter::DogStatsD),
            r#"the label "tenant" cannot have the value "": an empty value is no label to Prometheus"#
        );
        assert_eq!(
            error("a\tb", Exporter::DogStatsD),
            r#"the label "tenant" cannot have the value "a\tb": a value has no control characters and no backslashes"#
        );
    }

    #[test]
    fn names_are_written_as_the_exporter_writes_them() {
        let written = |name| written(name).collect::<String>();
        assert_eq!(written("a.b:c-d9"), "a_b_c_d9");
        assert_eq!(written("9a"), "_a");
        assert_eq!(written("øl"), "_l");
        assert_eq!(written_metric("9a.b:c-d9").collect::<String>(), "_a_b:c_d9");
    }
}
