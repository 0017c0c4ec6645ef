//! Keys with the labels of a scope.

use metrics::{Key, Label};

use crate::{labels::written, scope::Scope};

/// `key` with the labels of `scope`. Outside every scope, an unchanged clone of `key`.
pub(super) fn scoped(key: &Key, scope: Scope) -> Key {
    if scope == Scope::none() {
        return key.clone();
    }
    let is = |label: &Label, name: &str| written(label.key()).eq(written(name));

    let mut labels: Vec<Label> = Vec::new();
    for label in key.labels() {
        // The exporter keeps the last of several labels with one name.
        labels.retain(|other| !is(other, label.key()));
        labels.push(label.clone());
    }
    for &(name, value) in scope.pairs() {
        if !labels.iter().any(|label| is(label, name)) {
            labels.push(Label::from_static_parts(name, value));
        }
    }
    Key::from_parts(key.name_shared(), labels)
}

/// Whether two keys are equal. Two keys of one macro are made of the same statics, which are compared by address.
#[inline]
pub(super) fn is_same(a: &Key, b: &Key) -> bool {
    let is_same_static =
        std::ptr::eq(a.name(), b.name()) && std::ptr::eq(a.labels().as_slice(), b.labels().as_slice());
    is_same_static || a == b
}
