//! A filter of metrics, by kind and name.

use std::marker::PhantomData;

/// How a backend compares the names of metrics.
pub(crate) trait Spelling {
    /// The same characters for all names of one metric.
    fn spelled(name: &str) -> impl Iterator<Item = char>;
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    /// Most names are written as they are spelled, which is checked first: an excluded name is looked up at each
    /// registration.
    fn matches<S: Spelling>(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact || S::spelled(name).eq(exact.chars()),
            Self::Prefix(prefix) => {
                let mut rest = S::spelled(name);
                name.starts_with(&**prefix) || prefix.chars().all(|c| rest.next() == Some(c))
            }
        }
    }
}

/// The names of one kind that are scoped, unless they are excluded.
#[derive(Clone, Debug)]
enum Included {
    None,
    All,
    Only(Vec<Pattern>),
}

impl Included {
    fn add(&mut self, pattern: Pattern) {
        if let Self::Only(patterns) = self {
            patterns.push(pattern);
        } else {
            *self = Self::Only(vec![pattern]);
        }
    }
}

/// The names that are scoped. A kind of metric is a number below `KINDS`.
#[derive(Clone, Debug)]
pub(crate) struct NameFilter<S, const KINDS: usize> {
    included: [Included; KINDS],
    excluded: Vec<Pattern>,
    spelling: PhantomData<S>,
}

impl<S: Spelling, const KINDS: usize> NameFilter<S, KINDS> {
    /// All names of one kind, and none of the others.
    pub(crate) fn all(kind: usize) -> Self {
        let included = |at| if at == kind { Included::All } else { Included::None };
        Self {
            included: std::array::from_fn(included),
            excluded: Vec::new(),
            spelling: PhantomData,
        }
    }

    fn exact(name: &str) -> Pattern {
        Pattern::Exact(S::spelled(name).collect())
    }

    fn prefix(prefix: &str) -> Pattern {
        Pattern::Prefix(S::spelled(prefix).collect())
    }

    pub(crate) fn exclude(&mut self, name: &str) {
        self.excluded.push(Self::exact(name));
    }

    pub(crate) fn exclude_prefix(&mut self, prefix: &str) {
        self.excluded.push(Self::prefix(prefix));
    }

    pub(crate) fn include(&mut self, kinds: impl IntoIterator<Item = usize>, name: &str) {
        for kind in kinds {
            self.included[kind].add(Self::exact(name));
        }
    }

    pub(crate) fn include_prefix(&mut self, kinds: impl IntoIterator<Item = usize>, prefix: &str) {
        for kind in kinds {
            self.included[kind].add(Self::prefix(prefix));
        }
    }

    /// Scopes all names of this kind, unless some are included.
    pub(crate) fn include_all(&mut self, kind: usize) {
        if let included @ Included::None = &mut self.included[kind] {
            *included = Included::All;
        }
    }

    /// Whether any name of this kind can be scoped.
    pub(crate) fn scopes_any(&self, kind: usize) -> bool {
        !matches!(self.included[kind], Included::None)
    }

    pub(crate) fn scopes(&self, kind: usize, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches::<S>(name));
        let is_included = match &self.included[kind] {
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

    const COUNTER: usize = 0;
    const GAUGE: usize = 1;
    const HISTOGRAM: usize = 2;

    /// Names with dots are the same as those with underscores.
    struct Underscores;

    impl Spelling for Underscores {
        fn spelled(name: &str) -> impl Iterator<Item = char> {
            name.chars().map(|c| if c == '.' { '_' } else { c })
        }
    }

    type Filter = NameFilter<Underscores, 3>;

    #[test]
    fn all_names_of_one_kind_and_nothing_else_are_scoped_by_default() {
        let filter = Filter::all(COUNTER);
        assert!(filter.scopes(COUNTER, "anything"));
        for kind in [GAUGE, HISTOGRAM] {
            assert!(!filter.scopes(kind, "anything"));
            assert!(!filter.scopes_any(kind));
        }
    }

    #[test]
    fn exclusion_is_exact_or_by_prefix() {
        let mut filter = Filter::all(COUNTER);
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
        let mut filter = Filter::all(COUNTER);
        filter.include_prefix([COUNTER], "http_");
        filter.include([COUNTER], "udp_requests_total");
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
        let mut filter = Filter::all(COUNTER);
        filter.include([HISTOGRAM], "request_seconds");
        filter.include_all(HISTOGRAM);
        filter.include_all(GAUGE);
        for (kind, name, is_scoped) in [
            (COUNTER, "request_seconds", true),
            (COUNTER, "requests_total", true),
            (HISTOGRAM, "request.seconds", true),
            (HISTOGRAM, "response_seconds", false),
            (GAUGE, "sockets", true),
        ] {
            assert_eq!(filter.scopes(kind, name), is_scoped, "{kind} {name}");
        }
    }
}
