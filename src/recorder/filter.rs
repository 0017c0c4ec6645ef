//! Which names are scoped.

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

#[derive(Clone, Debug, Default)]
pub(super) struct NameFilter {
    included: Vec<Pattern>,
    excluded: Vec<Pattern>,
}

impl NameFilter {
    pub(super) fn exclude(&mut self, name: &str) {
        self.excluded.push(Pattern::Exact(written_metric(name).collect()));
    }

    pub(super) fn exclude_prefix(&mut self, prefix: &str) {
        self.excluded
            .push(Pattern::Prefix(written_metric(prefix).collect()));
    }

    pub(super) fn include(&mut self, name: &str) {
        self.included.push(Pattern::Exact(written_metric(name).collect()));
    }

    pub(super) fn include_prefix(&mut self, prefix: &str) {
        self.included
            .push(Pattern::Prefix(written_metric(prefix).collect()));
    }

    pub(super) fn scopes(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        (self.included.is_empty() || any(&self.included)) && !any(&self.excluded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_scoped_unless_said_otherwise() {
        assert!(NameFilter::default().scopes("anything"));
    }

    #[test]
    fn exclusion_is_exact_or_by_prefix() {
        let mut filter = NameFilter::default();
        filter.exclude("downloads_total");
        filter.exclude_prefix("registry.");
        for name in [
            "downloads_total",
            "downloads.total",
            "registry_torrents",
            "registry.torrents",
        ] {
            assert!(!filter.scopes(name), "{name}");
        }
        for name in [
            "downloads",
            "downloads_total_2",
            "a_downloads_total",
            "registry",
            "regist",
        ] {
            assert!(filter.scopes(name), "{name}");
        }
    }

    #[test]
    fn inclusion_leaves_out_the_rest_and_exclusion_wins() {
        let mut filter = NameFilter::default();
        filter.include_prefix("http_");
        filter.include("udp_requests_total");
        filter.exclude("http_bytes_total");
        for name in ["http_requests_total", "http_", "udp_requests_total"] {
            assert!(filter.scopes(name), "{name}");
        }
        for name in ["http_bytes_total", "udp_responses_total", "", "ftp"] {
            assert!(!filter.scopes(name), "{name}");
        }
    }
}
