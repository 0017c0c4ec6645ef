//! Gives every OpenTelemetry counter the attributes of the scope that it is incremented in.
use std::{
    fmt,
    sync::{Arc, Once},
};

use opentelemetry::{
    InstrumentationScope, global,
    metrics::{Meter, MeterProvider},
};

mod at_call;
mod attributes;
mod binding;
mod instrument;
mod meter;
mod scoped;

use self::{binding::Binding, meter::ScopedMeter};
use crate::scope::{self, NameFilter, Spelling};

/// A kind of instrument that can be scoped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstrumentKind {
    /// A [`Counter`](opentelemetry::metrics::Counter).
    Counter,
    /// A [`Gauge`](opentelemetry::metrics::Gauge).
    Gauge,
    /// A [`Histogram`](opentelemetry::metrics::Histogram).
    Histogram,
    /// An [`UpDownCounter`](opentelemetry::metrics::UpDownCounter).
    UpDownCounter,
}

const KINDS: usize = 4;

/// Names of instruments differ in more than the case of ASCII letters.
#[derive(Clone, Debug)]
struct CaseInsensitive;

impl Spelling for CaseInsensitive {
    fn spelled(name: &str) -> impl Iterator<Item = char> {
        name.chars().map(|c| c.to_ascii_lowercase())
    }
}

#[derive(Clone, Debug)]
struct Settings {
    filter: NameFilter<CaseInsensitive, KINDS>,
    binding: Binding,
}

impl Settings {
    fn scopes(&self, kind: InstrumentKind, name: &str) -> bool {
        self.filter.scopes(kind as usize, name)
    }
}

/// A [`MeterProvider`] whose instruments give their measurements the attributes of the scope in force. See the
/// [module](self).
#[derive(Clone)]
pub struct ScopedMeterProvider<P> {
    inner: P,
    settings: Arc<Settings>,
}

impl<P> ScopedMeterProvider<P> {
    /// Scopes all counters of `provider`, and no other instruments.
    #[must_use]
    pub fn new(provider: P) -> Self {
        static IS_MADE: Once = Once::new();

        IS_MADE.call_once(|| scope::reader_made(count_overflow));
        Self {
            inner: provider,
            settings: Arc::new(Settings {
                filter: NameFilter::all(InstrumentKind::Counter as usize),
                binding: Binding::new(),
            }),
        }
    }

    /// Never scopes the instrument of this name. Use it for global metrics that are changed inside a request.
    #[must_use]
    pub fn exclude(mut self, name: &str) -> Self {
        self.filter().exclude(name);
        self
    }

    /// Never scopes instruments whose name starts with `prefix`.
    #[must_use]
    pub fn exclude_prefix(mut self, prefix: &str) -> Self {
        self.filter().exclude_prefix(prefix);
        self
    }

    /// Scopes the instrument of this kind that has this name. Other instruments of this kind are not scoped, unless they
    /// are included as well. Other kinds stay as they are.
    #[must_use]
    pub fn include(mut self, kind: InstrumentKind, name: &str) -> Self {
        self.filter().include(kind as usize, name);
        self
    }

    /// Scopes the instruments of this kind whose name starts with `prefix`. Otherwise like [`include`](Self::include).
    #[must_use]
    pub fn include_prefix(mut self, kind: InstrumentKind, prefix: &str) -> Self {
        self.filter().include_prefix(kind as usize, prefix);
        self
    }

    /// Scopes histograms as well. If histograms are [included](Self::include), only those are scoped.
    #[must_use]
    pub fn histograms(self) -> Self {
        self.include_all(InstrumentKind::Histogram)
    }

    /// Scopes gauges as well. If gauges are [included](Self::include), only those are scoped.
    #[must_use]
    pub fn gauges(self) -> Self {
        self.include_all(InstrumentKind::Gauge)
    }

    /// Scopes up-down counters as well. If up-down counters are [included](Self::include), only those are scoped.
    #[must_use]
    pub fn up_down_counters(self) -> Self {
        self.include_all(InstrumentKind::UpDownCounter)
    }

    fn include_all(mut self, kind: InstrumentKind) -> Self {
        self.filter().include_all(kind as usize);
        self
    }

    /// Passes the attributes at each measurement.
    #[cfg(feature = "opentelemetry-bound")]
    #[must_use]
    pub fn without_binding(mut self) -> Self {
        Arc::make_mut(&mut self.settings).binding = Binding::off();
        self
    }

    fn filter(&mut self) -> &mut NameFilter<CaseInsensitive, KINDS> {
        &mut Arc::make_mut(&mut self.settings).filter
    }

    /// The wrapped provider.
    #[must_use]
    pub fn get_ref(&self) -> &P {
        &self.inner
    }

    /// The wrapped provider.
    #[must_use]
    pub fn into_inner(self) -> P {
        self.inner
    }

    fn wrap(&self, inner: Meter) -> Meter {
        Meter::new(Arc::new(ScopedMeter {
            inner,
            settings: Arc::clone(&self.settings),
        }))
    }
}

impl<P: MeterProvider> MeterProvider for ScopedMeterProvider<P> {
    fn meter(&self, name: &'static str) -> Meter {
        self.wrap(self.inner.meter(name))
    }

    fn meter_with_scope(&self, scope: InstrumentationScope) -> Meter {
        self.wrap(self.inner.meter_with_scope(scope))
    }
}

impl<P: fmt::Debug> fmt::Debug for ScopedMeterProvider<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedMeterProvider")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish()
    }
}

fn count_overflow() {
    global::meter("dualstack-metrics")
        .u64_counter("label_sets_overflowed")
        .with_description(
            "Scopes that were replaced by another, because the process has as many label sets as it can. Should stay at 0.",
        )
        .build()
        .add(1, &[]);
}
