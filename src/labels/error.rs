use std::{error::Error, fmt};

use super::names::OTHER;

/// How many values a label can have, without `other`.
pub(super) const MAX_VALUES: usize = 4095;

/// Why a label cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LabelError {
    /// This is not the name of a label.
    InvalidName(String),
    /// The label cannot have this value.
    #[non_exhaustive]
    InvalidValue {
        /// The label's name.
        label: String,
        /// The value.
        value: String,
    },
    /// The label cannot have the value `other`, because unknown values are written as `other`.
    #[non_exhaustive]
    ReservedValue {
        /// The label's name.
        label: String,
    },
    /// The label has more values than there can be label sets, or all labels of the process together have more than can
    /// be stored.
    #[non_exhaustive]
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
            Self::InvalidValue { label, value } => {
                write!(f, "the label {label:?} cannot have the value {value:?}: ")?;
                f.write_str(if value.is_empty() {
                    "an empty value is no label to Prometheus"
                } else {
                    "a value has no control characters and no backslashes"
                })
            }
            Self::ReservedValue { label } => write!(
                f,
                "the label {label:?} cannot have the value {OTHER:?}: unknown values are written as {OTHER:?}"
            ),
            Self::TooManyValues { label, values } => write!(
                f,
                "the label {label:?} has {values} values, which is too many: a label has at most {MAX_VALUES} values, and each is a \
                 series of each counter; use a label with fewer values, such as a group of tenants, and make it once, at \
                 start-up"
            ),
        }
    }
}

impl Error for LabelError {}
