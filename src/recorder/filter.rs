//! Which names are scoped.

use metrics_util::{MetricKind, MetricKindMask};

use crate::{
    labels::written_metric,
    scope::{NameFilter, Spelling},
};

/// As the Prometheus exporter writes them.
#[derive(Clone, Debug)]
pub(super) struct Written;

impl Spelling for Written {
    fn spelled(name: &str) -> impl Iterator<Item = char> {
        written_metric(name)
    }
}

const KINDS: [MetricKind; 3] = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram];

#[derive(Clone, Debug)]
pub(super) struct KindFilter(NameFilter<Written, { KINDS.len() }>);

impl KindFilter {
    /// All counters.
    pub(super) fn new() -> Self {
        Self(NameFilter::all(MetricKind::Counter as usize))
    }

    pub(super) fn exclude(&mut self, name: &str) {
        self.0.exclude(name);
    }

    pub(super) fn exclude_prefix(&mut self, prefix: &str) {
        self.0.exclude_prefix(prefix);
    }

    pub(super) fn include(&mut self, kinds: MetricKindMask, name: &str) {
        each(kinds, |kind| self.0.include(kind, name));
    }

    pub(super) fn include_prefix(&mut self, kinds: MetricKindMask, prefix: &str) {
        each(kinds, |kind| self.0.include_prefix(kind, prefix));
    }

    pub(super) fn include_all(&mut self, kinds: MetricKindMask) {
        each(kinds, |kind| self.0.include_all(kind));
    }

    /// Whether any name of this kind can be scoped.
    pub(super) fn scopes_any(&self, kind: MetricKind) -> bool {
        self.0.scopes_any(kind as usize)
    }

    pub(super) fn scopes(&self, kind: MetricKind, name: &str) -> bool {
        self.0.scopes(kind as usize, name)
    }
}

fn each(kinds: MetricKindMask, f: impl FnMut(usize)) {
    let kinds = KINDS.into_iter().filter(|kind| kinds.matches(*kind));
    kinds.map(|kind| kind as usize).for_each(f);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counters_and_nothing_else_are_scoped_by_default() {
        let filter = KindFilter::new();
        assert!(KINDS.map(|kind| filter.scopes(kind, "anything")) == [true, false, false]);
        assert!(KINDS.map(|kind| filter.scopes_any(kind)) == [true, false, false]);
    }

    #[test]
    fn a_mask_names_several_kinds_and_names_are_as_the_exporter_writes_them() {
        let mut filter = KindFilter::new();
        filter.include_prefix(MetricKindMask::COUNTER | MetricKindMask::GAUGE, "http.");
        filter.include(MetricKindMask::HISTOGRAM, "request_seconds");
        filter.exclude("http:bytes-total");
        filter.exclude_prefix("http-peer.");
        for (name, is_scoped) in [
            ("http_requests", [true, true, false]),
            ("http:requests", [false; 3]),
            ("http_bytes_total", [true, true, false]),
            ("http:bytes_total", [false; 3]),
            ("http_peer_bytes", [false; 3]),
            ("request-seconds", [false, false, true]),
        ] {
            assert!(KINDS.map(|kind| filter.scopes(kind, name)) == is_scoped, "{name}");
        }
    }
}
