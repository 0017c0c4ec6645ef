//! Which names are scoped.

use metrics_util::{MetricKind, MetricKindMask};

use crate::labels::written_metric;

#[derive(Clone, Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    /// Most names are written as they are, which is checked first: an excluded name is looked up at each registration.
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact || written_metric(name).eq(exact.chars()),
            Self::Prefix(prefix) => {
                let mut rest = written_metric(name);
                name.starts_with(&**prefix) || prefix.chars().all(|c| rest.next() == Some(c))
            }
        }
    }
}

/// Which names of a kind are scoped, if they are not excluded.
#[derive(Clone, Debug)]
enum Included {
    None,
    All,
    Only(Vec<Pattern>),
}

impl Included {
    fn add(&mut self, pattern: &Pattern) {
        if let Self::Only(patterns) = self {
            patterns.push(pattern.clone());
        } else {
            *self = Self::Only(vec![pattern.clone()]);
        }
    }

    fn add_all(&mut self) {
        if let Self::None = self {
            *self = Self::All;
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct NameFilter {
    counters: Included,
    gauges: Included,
    histograms: Included,
    excluded: Vec<Pattern>,
}

impl NameFilter {
    /// All counters.
    pub(super) const fn new() -> Self {
        Self {
            counters: Included::All,
            gauges: Included::None,
            histograms: Included::None,
            excluded: Vec::new(),
        }
    }

    pub(super) fn exclude(&mut self, name: &str) {
        self.excluded.push(Pattern::Exact(written_metric(name).collect()));
    }

    pub(super) fn exclude_prefix(&mut self, prefix: &str) {
        self.excluded
            .push(Pattern::Prefix(written_metric(prefix).collect()));
    }

    pub(super) fn include(&mut self, kinds: MetricKindMask, name: &str) {
        let pattern = Pattern::Exact(written_metric(name).collect());
        self.each(kinds, |included| included.add(&pattern));
    }

    pub(super) fn include_prefix(&mut self, kinds: MetricKindMask, prefix: &str) {
        let pattern = Pattern::Prefix(written_metric(prefix).collect());
        self.each(kinds, |included| included.add(&pattern));
    }

    pub(super) fn include_all(&mut self, kinds: MetricKindMask) {
        self.each(kinds, Included::add_all);
    }

    fn each(&mut self, kinds: MetricKindMask, f: impl Fn(&mut Included)) {
        for (kind, included) in [
            (MetricKind::Counter, &mut self.counters),
            (MetricKind::Gauge, &mut self.gauges),
            (MetricKind::Histogram, &mut self.histograms),
        ] {
            if kinds.matches(kind) {
                f(included);
            }
        }
    }

    fn included(&self, kind: MetricKind) -> &Included {
        match kind {
            MetricKind::Counter => &self.counters,
            MetricKind::Gauge => &self.gauges,
            MetricKind::Histogram => &self.histograms,
        }
    }

    /// Whether any name of this kind can be scoped.
    pub(super) fn scopes_any(&self, kind: MetricKind) -> bool {
        !matches!(self.included(kind), Included::None)
    }

    pub(super) fn scopes(&self, kind: MetricKind, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        let is_included = match self.included(kind) {
            Included::None => false,
            Included::All => true,
            Included::Only(patterns) => any(patterns),
        };
        is_included && !any(&self.excluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: MetricKind = MetricKind::Counter;

    #[test]
    fn all_counters_and_nothing_else_are_scoped_by_default() {
        let filter = NameFilter::new();
        assert!(filter.scopes(COUNTER, "anything"));
        for kind in [MetricKind::Gauge, MetricKind::Histogram] {
            assert!(!filter.scopes(kind, "anything"));
            assert!(!filter.scopes_any(kind));
        }
    }

    #[test]
    fn exclusion_is_exact_or_by_prefix() {
        let mut filter = NameFilter::new();
        filter.exclude("downloads_total");
        filter.exclude_prefix("registry.");
        for name in [
            "downloads_total",
            "downloads.total",
            "registry_torrents",
            "registry.torrents",
        ] {
            assert!(!filter.scopes(COUNTER, name), "{name}");
        }
        for name in [
            "downloads",
            "downloads_total_2",
            "a_downloads_total",
            "registry",
            "regist",
        ] {
            assert!(filter.scopes(COUNTER, name), "{name}");
        }
    }

    #[test]
    fn inclusion_leaves_out_the_rest_and_exclusion_wins() {
        let mut filter = NameFilter::new();
        filter.include_prefix(MetricKindMask::ALL, "http_");
        filter.include(MetricKindMask::COUNTER, "udp_requests_total");
        filter.exclude("http_bytes_total");
        for name in ["http_requests_total", "http_", "udp_requests_total"] {
            assert!(filter.scopes(COUNTER, name), "{name}");
        }
        for name in ["http_bytes_total", "udp_responses_total", "", "ftp"] {
            assert!(!filter.scopes(COUNTER, name), "{name}");
        }
    }

    #[test]
    fn inclusion_restricts_its_own_kinds_only() {
        let mut filter = NameFilter::new();
        filter.include(MetricKindMask::HISTOGRAM, "request_seconds");
        filter.include_all(MetricKindMask::HISTOGRAM | MetricKindMask::GAUGE);
        for (kind, name, is_scoped) in [
            (COUNTER, "request_seconds", true),
            (COUNTER, "requests_total", true),
            (MetricKind::Histogram, "request.seconds", true),
            (MetricKind::Histogram, "response_seconds", false),
            (MetricKind::Gauge, "sockets", true),
        ] {
            assert_eq!(filter.scopes(kind, name), is_scoped, "{kind:?} {name}");
        }
    }
}
