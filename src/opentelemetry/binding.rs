//! Whether the instruments of the inner provider can be bound to attributes.
//!
//! An instrument that does not implement `bind` returns one that ignores all measurements, and so does the SDK if its own
//! feature for bound instruments is off. Nothing tells such an instrument from one that works, except that it does not
//! keep the attributes. So the first attributes are counted references, and as long as none is kept, nothing is bound.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use opentelemetry::{Key, KeyValue};

use super::instrument::Instrument;
use crate::once::WarnOnce;

/// Whether the instruments of one provider are bound.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    is_wanted: bool,
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Known {
    works: AtomicBool,
    failure: WarnOnce,
}

impl Binding {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            known: Arc::default(),
        }
    }

    pub(super) fn is_known_to_work(&self) -> bool {
        self.known.works.load(Ordering::Relaxed)
    }

    /// Calls `bind`, and returns the result if binding works.
    pub(super) fn try_out<B>(
        &self,
        attributes: &[KeyValue],
        bind: impl FnOnce(&[KeyValue]) -> Option<B>,
    ) -> Option<B> {
        // Nothing can be kept of no attributes.
        if !self.is_wanted || attributes.is_empty() {
            return None;
        }
        let names: Vec<Arc<str>> = attributes.iter().map(|pair| pair.key.as_str().into()).collect();
        let counted = names.iter().zip(attributes);
        let counted: Vec<_> = counted
            .map(|(name, pair)| KeyValue::new(Key::from(Arc::clone(name)), pair.value.clone()))
            .collect();
        let bound = bind(&counted);
        drop(counted);
        if names.iter().any(|name| Arc::strong_count(name) > 1) {
            self.known.works.store(true, Ordering::Relaxed);
            return bound;
        }
        if self.known.failure.first() {
            tracing::warn!(
                "the OpenTelemetry instruments could not be bound to the attributes of a scope, so the attributes are \
                 passed with each measurement, which is slower: switch on the feature \
                 `experimental_metrics_bound_instruments` of `opentelemetry_sdk`, or call \
                 `ScopedMeterProvider::without_binding` for a provider that has no bound instruments"
            );
        }
        None
    }
}

/// An instrument of the inner provider.
#[derive(Clone)]
pub(super) struct Inner<I> {
    pub(super) instrument: I,
    pub(super) binding: Binding,
}

impl<I: Instrument> Inner<I> {
    /// The instrument with these attributes, or `None` if it must be used with its attributes each time.
    pub(super) fn bind(&self, attributes: &[KeyValue]) -> Option<I::Bound> {
        if self.binding.is_known_to_work() {
            return self.instrument.bind(attributes);
        }
        self.binding
            .try_out(attributes, |attributes| self.instrument.bind(attributes))
    }
}
