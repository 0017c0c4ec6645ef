//! The names that are scoped, as the Prometheus exporter writes them.

use metrics_util::{MetricKind, MetricKindMask};

use crate::{
    labels::written_metric,
    name_filter::{NameFilter, Spelling},
};

#[derive(Clone, Debug)]
pub(super) struct Written;

impl Spelling for Written {
    fn spelled(name: &str) -> impl Iterator<Item = char> {
        written_metric(name)
    }
}

const KINDS: [MetricKind; 3] = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram];

pub(super) type Filter = NameFilter<Written, { KINDS.len() }>;

pub(super) fn kinds_in(mask: MetricKindMask) -> impl Iterator<Item = usize> {
    let kinds = KINDS.into_iter().filter(move |kind| mask.matches(*kind));
    kinds.map(|kind| kind as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_names_several_kinds_and_names_are_as_the_exporter_writes_them() {
        let mut filter = Filter::all(MetricKind::Counter as usize);
        filter.include_prefix(kinds_in(MetricKindMask::COUNTER | MetricKindMask::GAUGE), "http.");
        filter.include(kinds_in(MetricKindMask::HISTOGRAM), "request_seconds");
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
            assert!(
                KINDS.map(|kind| filter.scopes(kind as usize, name)) == is_scoped,
                "{name}"
            );
        }
    }
}
