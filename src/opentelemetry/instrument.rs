//! The kinds of instrument that are scoped, behind one interface.

#[cfg(feature = "opentelemetry-bound")]
use opentelemetry::metrics::{BoundCounter, BoundGauge, BoundHistogram, BoundUpDownCounter};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, UpDownCounter},
};

use crate::scope::Scope;

/// A kind of instrument of the inner provider.
pub(super) trait Instrument: Clone + Send + Sync + 'static {
    type Value: Copy + Send + Sync + 'static;

    /// An instrument with its attributes. Has no values without the feature `opentelemetry-bound`.
    type Bound: Send + Sync + 'static;

    /// The scope whose attributes a measurement gets now.
    fn scope() -> Scope;

    fn measure(&self, value: Self::Value, attributes: &[KeyValue]);

    /// `None` without the feature `opentelemetry-bound`.
    fn bind(&self, attributes: &[KeyValue]) -> Option<Self::Bound>;

    fn measure_bound(bound: &Self::Bound, value: Self::Value);
}

#[cfg(not(feature = "opentelemetry-bound"))]
use std::convert::Infallible;

macro_rules! impl_instrument {
    ($($instrument:ident, $bound:ident, $method:ident, $scope:expr;)*) => {$(
        impl<T: Copy + Send + Sync + 'static> Instrument for $instrument<T> {
            type Value = T;

            #[cfg(feature = "opentelemetry-bound")]
            type Bound = $bound<T>;
            #[cfg(not(feature = "opentelemetry-bound"))]
            type Bound = Infallible;

            #[inline]
            fn scope() -> Scope {
                $scope
            }

            #[inline]
            fn measure(&self, value: T, attributes: &[KeyValue]) {
                self.$method(value, attributes);
            }

            #[cfg(feature = "opentelemetry-bound")]
            fn bind(&self, attributes: &[KeyValue]) -> Option<Self::Bound> {
                Some(self.bind(attributes))
            }
            #[cfg(not(feature = "opentelemetry-bound"))]
            fn bind(&self, _: &[KeyValue]) -> Option<Self::Bound> {
                None
            }

            #[cfg(feature = "opentelemetry-bound")]
            #[inline]
            fn measure_bound(bound: &Self::Bound, value: T) {
                bound.$method(value);
            }
            #[cfg(not(feature = "opentelemetry-bound"))]
            fn measure_bound(bound: &Self::Bound, _: T) {
                match *bound {}
            }
        }
    )*};
}

impl_instrument! {
    Counter, BoundCounter, add, Scope::current();
    Gauge, BoundGauge, record, Scope::current();
    Histogram, BoundHistogram, record, Scope::current();
    UpDownCounter, BoundUpDownCounter, add, Scope::current().as_entered();
}
