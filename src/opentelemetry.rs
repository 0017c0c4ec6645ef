//! Gives every OpenTelemetry counter the attributes of the scope that it is incremented in.
//!
//! ```
//! use dualstack_metrics::{ClientScopes, Protocol, ScopedMeterProvider, ServerBinding};
//! use opentelemetry::metrics::MeterProvider as _;
//! # use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
//! # use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
//! # let exporter = InMemoryMetricExporter::default();
//! # let reader = PeriodicReader::builder(exporter.clone()).build();
//!
//! let sdk = SdkMeterProvider::builder().with_reader(reader).build();
//! let provider = ScopedMeterProvider::new(sdk.clone());
//! let scopes = ClientScopes::builder()
//!     .binding(ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?))
//!     .opentelemetry() // `network.type` and so on
//!     .build()?;
//!
//! let requests = provider.meter("tracker").u64_counter("requests").build(); // outside every scope
//! scopes.for_client("[::ffff:192.0.2.7]:50000".parse::<std::net::SocketAddr>()?).run(|| requests.add(1, &[]));
//! sdk.force_flush()?;
//! # let exported = exporter.get_finished_metrics()?;
//! # let metric = exported[0].scope_metrics().next().unwrap().metrics().next().unwrap();
//! # let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else { panic!() };
//! # let point = sum.data_points().next().unwrap();
//! # let mut attributes: Vec<_> = point.attributes().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
//! # attributes.sort();
//! # assert_eq!(
//! #     attributes,
//! #     ["network.local.address=::", "network.local.port=6969", "network.transport=udp", "network.type=ipv4"],
//! # );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`ScopedMeterProvider`] is a [`MeterProvider`] around any other. Install it with
//! [`global::set_meter_provider`], and keep the inner provider to flush it and to shut it down.
//!
//! # Which attributes a measurement has
//!
//! A measurement in a scope has the attributes at the call, and the labels of the scope. If both have the same key, the
//! attribute at the call is used. Keys are compared as they are: `client.address` and `client_address` are two keys.
//! Outside every scope, a measurement is passed on as it is.
//!
//! The keys and values are the names and values of the labels. Choose them where the scopes are made:
//! [`ClientScopes::builder`](crate::ClientScopes::builder) has OpenTelemetry's own names and every other. All values are
//! strings, except for `network.local.port`, which the semantic conventions define as a number.
//!
//! | instrument | attributes of the scope in force at | scoped by default |
//! |---|---|---|
//! | counter | the `add` | yes |
//! | histogram | the `record` | no, see [`histograms`](ScopedMeterProvider::histograms) |
//! | gauge | the `record` | no, see [`gauges`](ScopedMeterProvider::gauges) |
//! | up-down counter | the `add`, without labels of [`Scope::add`](crate::Scope::add) | no, see [`up_down_counters`](ScopedMeterProvider::up_down_counters) |
//! | observable instruments | | never: their callbacks run while metrics are collected, for no client |
//!
//! The counters of this crate are counters of the [`metrics`] crate, and do not reach a meter provider. The exception is
//! `label_sets_overflowed`, which is counted in both.
//!
//! The scope is read at each measurement, so it does not matter where an instrument was made. A series appears with its
//! first measurement in a scope (an `add` of 0 counts). The attributes are there before the SDK applies its views and its
//! limit of cardinality. Names, units, descriptions, boundaries and meters do not change.
//!
//! # Bound instruments
//!
//! The SDK looks up the series of a measurement by its attributes, which takes most of the time of an `add`. With the
//! feature `opentelemetry-bound`, each instrument is bound to the attributes of a scope once, and an `add` in a scope with
//! seven labels costs as much as the SDK's own without attributes. The feature follows
//! `experimental_metrics_bound_instruments` of `opentelemetry`. Switch that on for the SDK too:
//!
//! ```toml
//! dualstack-metrics = { version = "0.1", features = ["opentelemetry-bound"] }
//! opentelemetry_sdk = { version = "0.33", features = ["experimental_metrics_bound_instruments"] }
//! ```
//!
//! If the inner provider does not bind, this is logged once, and nothing is lost: the attributes are passed with each
//! measurement, as without the feature. A program that calls `bind` itself needs the feature: without it, the measurements
//! of such an instrument are lost. Instruments that are bound by the program choose their scope at each measurement, too.
//!
//! # Cached attributes
//!
//! The attributes of a scope are prepared once in a process. Each instrument caches the scopes that it was used in, and up
//! to 2,048 combinations of a scope and attributes at the call. With eight attributes in all, a combination takes about
//! 700 bytes. Others still work, but their attributes are put together at each call. After the first two uses, a
//! measurement allocates nothing and takes no lock of this crate.
//!
//! The cache is dropped with its instrument. It does not keep a provider alive, and providers do not share it. So build
//! an instrument once and keep it, as the SDK advises.
//!
//! # Cardinality
//!
//! The SDK has at most 2,000 series of an instrument by default. The others are added up in one series,
//! `otel.metric.overflow`. An instrument has at most
//! [`max_label_sets`](crate::ClientScopes::max_label_sets) series for each combination of attributes at the call, and as
//! many outside every scope. Set the limit with a view:
//!
//! ```
//! use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
//! # use dualstack_metrics::{ClientScopes, FixedLabel, Protocol, ServerBinding};
//! # let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, "[::]:7070".parse()?));
//! # let tenants = FixedLabel::new("tenant", (0..400).map(|n| n.to_string()))?;
//!
//! let at_call = 3; // values of `request_kind`
//! let series = (scopes.max_label_sets(&tenants.other()) + 1) * at_call;
//! # assert_eq!(series, (4 * 401 + 1) * 3);
//! let view = move |instrument: &Instrument| {
//!     let is_it = instrument.name() == "requests";
//!     is_it.then(|| Stream::builder().with_cardinality_limit(series).build().ok())?
//! };
//! let sdk = SdkMeterProvider::builder().with_view(view).build();
//! # drop(sdk);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With several listening sockets, add up their numbers. A bound series that exceeds the limit stays in the overflow. With
//! delta temporality, the SDK forgets series that are idle, and then has room for others, but it never forgets a bound
//! one. If a program needs that room, use `ScopedMeterProvider::without_binding`.
//!
//! # Context, baggage and context-scoped attributes
//!
//! A [`Scope`](crate::Scope) and an OpenTelemetry `Context` are independent of each other. Both are in force on a thread,
//! and each is carried into futures and tasks by its own means: [`WithScope`](crate::WithScope) and `FutureExt`.
//!
//! *Baggage* is data that is sent to other services. A scope is never sent, and baggage does not become an attribute,
//! because its values are not bounded. [Context-scoped attributes][4931] are attributes of a `Context` that an
//! SDK adds to all measurements. No Rust SDK has them yet. A scope behaves as in that proposal, but holds only labels
//! with a fixed set of values. `docs/opentelemetry.md` compares them.
//!
//! [4931]: https://github.com/open-telemetry/opentelemetry-specification/blob/main/oteps/4931-context-scoped-attributes.md

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
mod settings;

pub use self::settings::InstrumentKind;
use self::{
    binding::Binding,
    meter::ScopedMeter,
    settings::{Filter, Settings},
};
use crate::scope;

/// A [`MeterProvider`] whose instruments give their measurements the attributes of the scope in force. See the
/// [module](self).
///
/// Names are compared as the program gives them to its instruments, before a view changes them. As in the specification,
/// the case of ASCII letters does not matter. If names are included for a kind of instrument, only these are scoped of that
/// kind. Excluded names are never scoped. All of this holds for the meters that are made afterwards.
///
/// ```
/// use dualstack_metrics::{ScopedMeterProvider, opentelemetry::InstrumentKind};
/// # use opentelemetry::metrics::NoopMeterProvider;
///
/// # let sdk = NoopMeterProvider::new();
/// let provider = ScopedMeterProvider::new(sdk)
///     .exclude_prefix("swarm.")
///     .include(InstrumentKind::Histogram, "http.server.request.duration");
/// opentelemetry::global::set_meter_provider(provider);
/// ```
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
                filter: Filter::all(InstrumentKind::Counter as usize),
                binding: Binding::new(cfg!(feature = "opentelemetry-bound")),
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
        self.filter().include([kind as usize], name);
        self
    }

    /// Scopes the instruments of this kind whose name starts with `prefix`. Otherwise like [`include`](Self::include).
    #[must_use]
    pub fn include_prefix(mut self, kind: InstrumentKind, prefix: &str) -> Self {
        self.filter().include_prefix([kind as usize], prefix);
        self
    }

    /// Scopes histograms as well. If histograms are [included](Self::include), only those are scoped. Multiplies the
    /// buckets of a histogram by the number of scopes that it is recorded in.
    #[must_use]
    pub fn histograms(self) -> Self {
        self.include_all(InstrumentKind::Histogram)
    }

    /// Scopes gauges as well. If gauges are [included](Self::include), only those are scoped. Each scope has a value of
    /// its own: the one that was recorded last in that scope.
    #[must_use]
    pub fn gauges(self) -> Self {
        self.include_all(InstrumentKind::Gauge)
    }

    /// Scopes up-down counters as well, without the labels that [`Scope::add`](crate::Scope::add) added. If up-down
    /// counters are [included](Self::include), only those are scoped.
    ///
    /// An up-down counter must be lowered in the scope that it was raised in. Otherwise two series are wrong forever: one
    /// stays too high, and the other too low. The scope can be another in a task that a request has spawned, and outside
    /// a layer that the counter was raised in. So include only counters that you know, and keep the scope:
    ///
    /// ```
    /// use dualstack_metrics::Scope;
    /// use opentelemetry::metrics::UpDownCounter;
    ///
    /// struct Active {
    ///     counter: UpDownCounter<i64>,
    ///     raised_in: Scope,
    /// }
    ///
    /// impl Active {
    ///     fn new(counter: UpDownCounter<i64>) -> Self {
    ///         counter.add(1, &[]);
    ///         Self { counter, raised_in: Scope::current() }
    ///     }
    /// }
    ///
    /// impl Drop for Active {
    ///     fn drop(&mut self) {
    ///         self.raised_in.run(|| self.counter.add(-1, &[]));
    ///     }
    /// }
    /// # use opentelemetry::metrics::{MeterProvider as _, NoopMeterProvider};
    /// # drop(Active::new(NoopMeterProvider::new().meter("m").i64_up_down_counter("active").build()));
    /// ```
    #[must_use]
    pub fn up_down_counters(self) -> Self {
        self.include_all(InstrumentKind::UpDownCounter)
    }

    fn include_all(mut self, kind: InstrumentKind) -> Self {
        self.filter().include_all(kind as usize);
        self
    }

    /// Passes the attributes with each measurement, as without the feature `opentelemetry-bound`. For programs that need
    /// the SDK to forget idle series: see [Cardinality](self#cardinality).
    #[cfg(feature = "opentelemetry-bound")]
    #[cfg_attr(docsrs, doc(cfg(feature = "opentelemetry-bound")))]
    #[must_use]
    pub fn without_binding(mut self) -> Self {
        Arc::make_mut(&mut self.settings).binding = Binding::new(false);
        self
    }

    fn filter(&mut self) -> &mut Filter {
        &mut Arc::make_mut(&mut self.settings).filter
    }

    /// The wrapped provider, for example to flush it.
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
            "Scopes without some of their labels, because the process has as many label sets as it can. Should stay at 0.",
        )
        .build()
        .add(1, &[]);
}
