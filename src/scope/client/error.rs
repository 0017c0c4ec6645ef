use std::{error::Error, fmt};

use crate::{labels::LabelError, scope::intern::TooManyLabelSets};

/// How many prefixes [`nat64`](super::ClientScopesBuilder::nat64) takes.
pub(super) const MAX_NAT64_PREFIXES: usize = 4;

/// Why [`ClientScopesBuilder::build`](super::ClientScopesBuilder::build) failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientScopesError {
    /// A label has a name or a value that it cannot have.
    Label(LabelError),
    /// The label that was renamed or left out is not one of the contract.
    UnknownLabel(String),
    /// A value was renamed that the label never has.
    #[non_exhaustive]
    UnknownValue {
        /// The label's name in the contract.
        label: String,
        /// The value.
        value: String,
    },
    /// Two labels of the contract would have this name.
    DuplicateName(String),
    /// The process already has [`MAX_LABEL_SETS`](crate::MAX_LABEL_SETS) label sets.
    TooManyLabelSets(TooManyLabelSets),
    /// There are so many NAT64 prefixes, which is more than four.
    TooManyNat64Prefixes(usize),
}

impl fmt::Display for ClientScopesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(error) => error.fmt(f),
            Self::UnknownLabel(name) => write!(
                f,
                "{name:?} cannot be renamed or left out, because it is not a label of a client or a server: use a constant \
                 of `dualstack_metrics::labels`, such as `CLIENT_ADDRESS_IP_FAMILY`"
            ),
            Self::UnknownValue { label, value } => write!(
                f,
                "{value:?} cannot be renamed, because the label {label:?} never has this value: its documentation in \
                 `dualstack_metrics::labels` lists its values"
            ),
            Self::DuplicateName(name) => write!(
                f,
                "two labels of a client or a server would have the name {name:?}: give one another name with `rename`, or \
                 leave it out with `omit`"
            ),
            Self::TooManyLabelSets(error) => error.fmt(f),
            Self::TooManyNat64Prefixes(count) => write!(
                f,
                "{count} NAT64 prefixes, but scopes can have {MAX_NAT64_PREFIXES}: use one shorter prefix that contains \
                 several, or leave some out"
            ),
        }
    }
}

impl Error for ClientScopesError {}
