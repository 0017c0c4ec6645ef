use std::borrow::Cow;

use crate::labels::{ServerBinding, list::Part, written};

/// Name and value.
pub(super) type Pair = (Cow<'static, str>, Cow<'static, str>);

/// Labels, ordered by name, in which each name occurs once. Names that the exporter writes alike are one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs(Vec<Pair>);

impl Pairs {
    /// Adds a label. It replaces a label of the same name.
    pub(super) fn insert(&mut self, name: Cow<'static, str>, value: Cow<'static, str>) {
        match self
            .0
            .binary_search_by(|(other, _)| written(other).cmp(written(&name)))
        {
            Ok(at) => self.0[at] = (name, value),
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    pub(super) fn as_slice(&self) -> &[Pair] {
        &self.0
    }

    pub(super) fn into_vec(self) -> Vec<Pair> {
        self.0
    }

    /// Adds labels. They replace labels of the same name.
    pub(super) fn with(mut self, later: impl IntoIterator<Item = Pair>) -> Self {
        self.extend(later);
        self
    }
}

impl Extend<Pair> for Pairs {
    fn extend<T: IntoIterator<Item = Pair>>(&mut self, pairs: T) {
        for (name, value) in pairs {
            self.insert(name, value);
        }
    }
}

impl FromIterator<Pair> for Pairs {
    fn from_iter<T: IntoIterator<Item = Pair>>(pairs: T) -> Self {
        Self::default().with(pairs)
    }
}

pub(super) fn borrowed(
    pairs: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> impl Iterator<Item = Pair> {
    pairs
        .into_iter()
        .map(|(name, value)| (Cow::Borrowed(name), Cow::Borrowed(value)))
}

pub(super) fn pairs_of_parts(parts: &[Part]) -> impl Iterator<Item = Pair> {
    borrowed(parts.iter().flat_map(Part::pairs))
}

pub(super) fn pairs_of_server(binding: &ServerBinding) -> Pairs {
    let pairs = binding.pairs().into_iter();
    pairs.map(|(name, value)| (name.into(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_label_replaces_one_that_is_written_alike() {
        let pairs: Pairs = borrowed([
            ("client.address", "outer"),
            ("a", "1"),
            ("client_address", "inner"),
        ])
        .collect();
        let expected: [Pair; 2] = [
            ("a".into(), "1".into()),
            ("client_address".into(), "inner".into()),
        ];
        assert_eq!(pairs.into_vec(), expected);
    }
}
