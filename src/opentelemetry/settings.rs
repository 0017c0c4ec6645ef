//! The settings of a provider.

use super::binding::Binding;
use crate::name_filter::{NameFilter, Spelling};

/// A kind of instrument that can be scoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// A [`Counter`](opentelemetry::metrics::Counter).
    Counter,
    /// A [`Gauge`](opentelemetry::metrics::Gauge).
    Gauge,
    /// A [`Histogram`](opentelemetry::metrics::Histogram).
    Histogram,
    /// An [`UpDownCounter`](opentelemetry::metrics::UpDownCounter).
    UpDownCounter,
}

/// The specification compares the names of instruments without the case of ASCII letters.
#[derive(Clone, Debug)]
pub(super) struct CaseInsensitive;

impl Spelling for CaseInsensitive {
    fn spelled(name: &str) -> impl Iterator<Item = char> {
        name.chars().map(|c| c.to_ascii_lowercase())
    }
}

pub(super) type Filter = NameFilter<CaseInsensitive, { InstrumentKind::UpDownCounter as usize + 1 }>;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) filter: Filter,
    pub(super) binding: Binding,
}
