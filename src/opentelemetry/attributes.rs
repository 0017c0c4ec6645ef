//! The attributes of a scope, alone and with attributes at the call.

use std::sync::OnceLock;

use opentelemetry::{Key, KeyValue, Value};

use crate::scope::{Scope, ScopeTable};

/// The conventions for networks have it as a number.
const PORT: &str = "network.local.port";

// For the whole process, because the attributes of a scope are the same for each provider.
static OF_SCOPES: ScopeTable<OnceLock<Box<[KeyValue]>>> = ScopeTable::new(OnceLock::new());

/// The labels of a scope as attributes, ordered by key. They are prepared once.
#[inline]
pub(super) fn of(scope: Scope) -> &'static [KeyValue] {
    match OF_SCOPES.get(scope).and_then(OnceLock::get) {
        Some(attributes) => attributes,
        None => prepare(scope),
    }
}

#[cold]
fn prepare(scope: Scope) -> &'static [KeyValue] {
    let pairs = scope.pairs().iter();
    let mut attributes: Vec<_> = pairs
        .map(|&(name, value)| KeyValue::new(name, value_of(name, value)))
        .collect();
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    let attributes = attributes.into_boxed_slice();
    OF_SCOPES.get_or_allocate(scope).get_or_init(|| attributes)
}

fn value_of(name: &str, value: &'static str) -> Value {
    match value.parse::<u16>() {
        Ok(port) if name == PORT => i64::from(port).into(),
        _ => value.into(),
    }
}

/// The attributes at the call, and the attributes of the scope that have another key.
pub(super) fn merged(scope: Scope, at_call: &[KeyValue]) -> Box<[KeyValue]> {
    let is_at_call = |key: &Key| at_call.iter().any(|own| own.key == *key);
    let of_scope = of(scope).iter().filter(|pair| !is_at_call(&pair.key));
    at_call.iter().chain(of_scope).cloned().collect()
}
