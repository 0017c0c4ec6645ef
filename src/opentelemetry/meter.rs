//! The instruments of a meter: scoped by the settings of the provider, or the inner meter's own.

use std::sync::Arc;

use opentelemetry::metrics::{
    AsyncInstrumentBuilder, Counter, Gauge, Histogram, HistogramBuilder, InstrumentBuilder,
    InstrumentProvider, Meter, ObservableCounter, ObservableGauge, ObservableUpDownCounter, UpDownCounter,
};

use super::{
    binding::Inner,
    scoped::ScopedInstrument,
    settings::{InstrumentKind, Settings},
};

pub(super) struct ScopedMeter {
    pub(super) inner: Meter,
    pub(super) settings: Arc<Settings>,
}

/// Instruments that are scoped by kind and name. All fields of their builders go to the inner meter.
macro_rules! scoped {
    ($($method:ident, $instrument:ident<$value:ty>, $builder:ident, $kind:ident, [$($field:ident)*];)*) => {$(
        fn $method(&self, builder: $builder<'_, $instrument<$value>>) -> $instrument<$value> {
            let is_scoped = self.settings.filter.scopes(InstrumentKind::$kind as usize, &builder.name);
            let mut inner = self.inner.$method(builder.name);
            $(inner.$field = builder.$field;)*
            let instrument = inner.build();
            if !is_scoped {
                return instrument;
            }
            $instrument::new(Arc::new(ScopedInstrument::new(Inner {
                instrument,
                binding: self.settings.binding.clone(),
            })))
        }
    )*};
}

/// Observable instruments are read when metrics are collected, for no client.
macro_rules! passed_through {
    ($($method:ident, $instrument:ident<$value:ty>;)*) => {$(
        fn $method(
            &self,
            builder: AsyncInstrumentBuilder<'_, $instrument<$value>, $value>,
        ) -> $instrument<$value> {
            let mut inner = self.inner.$method(builder.name);
            inner.description = builder.description;
            inner.unit = builder.unit;
            inner.callbacks = builder.callbacks;
            inner.build()
        }
    )*};
}

impl InstrumentProvider for ScopedMeter {
    scoped! {
        u64_counter, Counter<u64>, InstrumentBuilder, Counter, [description unit];
        f64_counter, Counter<f64>, InstrumentBuilder, Counter, [description unit];
        i64_up_down_counter, UpDownCounter<i64>, InstrumentBuilder, UpDownCounter, [description unit];
        f64_up_down_counter, UpDownCounter<f64>, InstrumentBuilder, UpDownCounter, [description unit];
        u64_gauge, Gauge<u64>, InstrumentBuilder, Gauge, [description unit];
        i64_gauge, Gauge<i64>, InstrumentBuilder, Gauge, [description unit];
        f64_gauge, Gauge<f64>, InstrumentBuilder, Gauge, [description unit];
        u64_histogram, Histogram<u64>, HistogramBuilder, Histogram, [description unit boundaries];
        f64_histogram, Histogram<f64>, HistogramBuilder, Histogram, [description unit boundaries];
    }

    passed_through! {
        u64_observable_counter, ObservableCounter<u64>;
        f64_observable_counter, ObservableCounter<f64>;
        i64_observable_up_down_counter, ObservableUpDownCounter<i64>;
        f64_observable_up_down_counter, ObservableUpDownCounter<f64>;
        u64_observable_gauge, ObservableGauge<u64>;
        i64_observable_gauge, ObservableGauge<i64>;
        f64_observable_gauge, ObservableGauge<f64>;
    }
}
