//! An instrument that chooses its attributes at each measurement.

use std::{borrow::Cow, sync::OnceLock};

#[cfg(feature = "opentelemetry-bound")]
use opentelemetry::metrics::BoundSyncInstrument;
use opentelemetry::{KeyValue, metrics::SyncInstrument};

use super::{at_call::AtCall, attributes, binding::Inner, instrument::Instrument};
use crate::scope::{Scope, ScopeTable};

/// An instrument with the same attributes at each measurement.
enum Series<I: Instrument> {
    Bound(I::Bound),
    Plain(Cow<'static, [KeyValue]>),
}

/// An instrument with attributes of its own, to which each scope adds others.
///
/// Nothing is locked or borrowed while it calls or binds the inner instrument, so that may use the same instrument again.
// In this order, so that the fields that each use reads are close together.
#[repr(C)]
struct ByScope<I: Instrument> {
    inner: Inner<I>,
    series: ScopeTable<OnceLock<Series<I>>>,
    own: Box<[KeyValue]>,
}

impl<I: Instrument> ByScope<I> {
    fn new(inner: Inner<I>, own: Box<[KeyValue]>) -> Self {
        Self {
            inner,
            series: ScopeTable::new(OnceLock::new()),
            own,
        }
    }

    #[inline]
    fn measure_in(&self, scope: Scope, value: I::Value) {
        let series = match self.series.get(scope).and_then(OnceLock::get) {
            Some(series) => series,
            None => self.make_series(scope),
        };
        match series {
            Series::Bound(bound) => I::measure_bound(bound, value),
            Series::Plain(attributes) => self.inner.instrument.measure(value, attributes),
        }
    }

    #[cold]
    fn make_series(&self, scope: Scope) -> &Series<I> {
        let attributes = if self.own.is_empty() {
            Cow::Borrowed(attributes::of(scope))
        } else {
            Cow::Owned(attributes::merged(scope, &self.own).into_vec())
        };
        let bound = self.inner.bind(&attributes);
        let series = bound.map_or(Series::Plain(attributes), Series::Bound);
        // Made before, because making it may come back here.
        self.series.get_or_allocate(scope).get_or_init(|| series)
    }
}

#[cfg(feature = "opentelemetry-bound")]
impl<I: Instrument> BoundSyncInstrument<I::Value> for ByScope<I> {
    #[inline]
    fn measure(&self, value: I::Value) {
        self.measure_in(I::scope(), value);
    }
}

/// The instrument that a program gets instead of the inner one.
#[repr(C)]
pub(super) struct ScopedInstrument<I: Instrument> {
    at_call: AtCall<I>,
    by_scope: ByScope<I>,
}

impl<I: Instrument> ScopedInstrument<I> {
    pub(super) fn new(inner: Inner<I>) -> Self {
        Self {
            at_call: AtCall::new(),
            by_scope: ByScope::new(inner, Box::default()),
        }
    }
}

impl<I: Instrument> SyncInstrument<I::Value> for ScopedInstrument<I> {
    #[inline]
    fn measure(&self, value: I::Value, attributes: &[KeyValue]) {
        let scope = I::scope();
        if scope == Scope::none() {
            self.by_scope.inner.instrument.measure(value, attributes);
        } else if attributes.is_empty() {
            self.by_scope.measure_in(scope, value);
        } else {
            let inner = &self.by_scope.inner;
            self.at_call.measure(inner, scope, value, attributes);
        }
    }

    /// The result chooses its scope at each measurement, too.
    #[cfg(feature = "opentelemetry-bound")]
    fn bind(&self, attributes: &[KeyValue]) -> Box<dyn BoundSyncInstrument<I::Value> + Send + Sync> {
        Box::new(ByScope::new(self.by_scope.inner.clone(), attributes.into()))
    }
}
