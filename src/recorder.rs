//! Gives every counter the labels of the scope that it is incremented in.
//!
//! ```
//! use dualstack_metrics::{ClientScopes, Protocol, ScopedRecorderLayer, ServerBinding};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//!
//! let prometheus = PrometheusBuilder::new().build_recorder();
//! let handle = prometheus.handle();
//! let recorder = ScopedRecorderLayer::new().wrap(prometheus);
//! let scopes = ClientScopes::new(ServerBinding::new(Protocol::Udp, "[::]:6969".parse()?));
//!
//! metrics::with_local_recorder(&recorder, || {
//!     let kept = metrics::counter!("requests_total"); // registered outside every scope
//!     scopes.for_client("[::ffff:192.0.2.7]:50000".parse::<std::net::SocketAddr>()?).run(|| kept.increment(1));
//! # Ok::<(), std::net::AddrParseError>(())
//! })?;
//! let output = handle.render();
//! let sample = output.lines().find(|line| line.starts_with("requests_total{")).unwrap();
//! assert!(sample.contains(r#"client_address_ip_family="inet",client_address_ip_type="v4_mapped_v6""#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When labels are chosen
//!
//! | kind | labels of the scope in force at | scoped by default |
//! |---|---|---|
//! | counter | the increment | yes |
//! | histogram | the record | no, see [`histograms`](ScopedRecorderLayer::histograms) |
//! | gauge | the registration | no, see [`gauges`](ScopedRecorderLayer::gauges) |
//!
//! - `counter!("x").increment(1)` and a handle that was registered at start-up give the same series.
//! - [`absolute`](metrics::Counter::absolute) is never scoped: it sets a total of all clients.
//! - A gauge has no labels that [`Scope::add`] adds, so that a request lowers it in the series that it was raised in.
//! - A series appears with its first increment (an increment of 0 counts), not with its registration, unless
//!   [`zeros`](ScopedRecorderLayer::zeros) says in which scopes. Outside every scope, this is the only difference from the
//!   inner recorder alone.
//! - Excluded names go straight through to the inner recorder, at each registration.
//!
//! If a label name occurs twice, the label written at the call wins, then the inner scope, then the outer scope. Names
//! are compared as the exporter writes them: `client.address` and `client_address` are one name. A global label of the
//! exporter must have the spelling of the label that replaces it, because the exporter compares the names as they are.
//!
//! # Cached metrics
//!
//! Each thread caches up to 2,048 counters and as many histograms, by recorder, name, labels and metadata. Others still
//! work, but are registered at each use. Each handle caches the inner recorder's metric for every scope that it was used
//! in, in memory that is proportional to their number. Cached handles do not keep a recorder alive.
//!
//! After the recorder is dropped, a kept handle still increments the inner metrics that it has cached. Other increments
//! are lost. A metric that the exporter forgets from then on cannot be registered again.
//!
//! ## Idle timeouts
//!
//! An exporter with an idle timeout forgets metrics that were not used, and increments of a metric that it has
//! forgotten are lost. So a cached metric that was not used for some time is registered again. The time is 500 ms,
//! which suits idle timeouts of one second or more; set it with
//! [`revalidate_after`](ScopedRecorderLayer::revalidate_after).
//!
//! A render that is under way can delete a metric that was used, or registered, a moment ago. Then increments during the
//! render are lost, as without this layer, and fewer than as many more: until half of that time has passed, a metric is
//! registered again whenever its increments have doubled. Later, none are lost. This holds as long as no render pauses
//! for longer than that half between reading a metric and deleting it.
//!
//! The clock may be late by 20 ms, so these times are shorter or longer by as much, on the safe side.
//!
//! ## Allocators that count
//!
//! A global allocator may count its allocations with a kept counter or a macro, if it does not count those that its own
//! counting makes. This layer allocates when a metric is used in a scope for the first time, and when it is registered
//! again, but holds no lock and no borrow meanwhile. The inner recorder may: the Prometheus exporter allocates while it
//! has locked a part of its registry, and a counter that is registered then can wait for that lock forever. A counter
//! that was [excluded](ScopedRecorderLayer::exclude) and kept registers nothing when it is incremented, so exclude the
//! counters of an allocator. It must not make scopes either: a new label set is stored under a lock.
//!
//! # Composition
//!
//! Any layer may be above this one: `Stack`, `Prefix`, `Filter`, `metrics-tracing-context`, and `Router` or `Fanout`
//! if each of their targets is wrapped. A recorder below must be `Send + Sync`, and must depend on the key and the
//! metadata alone, like the exporter, `Prefix` and `Filter`. A `Router` below does not compile:
//!
//! ```compile_fail
//! use dualstack_metrics::ScopedRecorderLayer;
//! use metrics_util::layers::RouterBuilder;
//!
//! let router = RouterBuilder::from_recorder(metrics::NoopRecorder).build();
//! let recorder = ScopedRecorderLayer::new().wrap(router);
//! ```
//!
//! `metrics-tracing-context` below would compile, but a cached metric would keep the fields of the first request's
//! span. For such recorders, use [`without_cache`](ScopedRecorderLayer::without_cache): it registers at each increment.

mod clock;
mod filter;
mod handle;
mod key;
mod lease;
mod metadata;
mod zeros;

use std::{
    fmt,
    sync::{Arc, Once},
    time::Duration,
};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter,
    describe_counter,
};
use metrics_util::{MetricKind, layers::Layer};

pub use metrics_util::MetricKindMask;

pub use self::zeros::Zeros;
use self::{
    filter::{Filter, kinds_in},
    handle::{Handle, Metric, Target},
    lease::Expiry,
};
use crate::scope::{self, Scope};

/// How long a cached metric may be idle before it is registered again, by default.
const REVALIDATE_AFTER: Duration = Duration::from_millis(500);

/// A [`Layer`] that makes a recorder give metrics the labels of the scope in force.
///
/// Metric names are those that the program uses, before a `Prefix` layer below changes them. Two names that the exporter
/// writes the same way are one name. If names are included for a kind of metric, only these are scoped of that kind.
/// Excluded names are never scoped.
///
/// To compare a counter with a histogram in a query, both need the same labels. This scopes one histogram, and all
/// counters:
///
/// ```
/// use dualstack_metrics::{ScopedRecorderLayer, recorder::MetricKindMask};
///
/// let layer = ScopedRecorderLayer::new().include(MetricKindMask::HISTOGRAM, "http_request_duration_seconds");
/// # let _ = layer;
/// ```
#[derive(Clone, Debug)]
pub struct ScopedRecorderLayer {
    filter: Filter,
    cache: bool,
    revalidate_after: Option<Duration>,
    zeros: Option<Zeros>,
}

impl ScopedRecorderLayer {
    /// Scopes all counters, no histograms and no gauges.
    #[must_use]
    pub fn new() -> Self {
        Self {
            filter: Filter::all(MetricKind::Counter as usize),
            cache: true,
            revalidate_after: Some(REVALIDATE_AFTER),
            zeros: None,
        }
    }

    /// Never scopes the metric of this name. Use it for global metrics that are changed inside a request.
    #[must_use]
    pub fn exclude(mut self, name: &str) -> Self {
        self.filter.exclude(name);
        self
    }

    /// Never scopes metrics whose name starts with `prefix`.
    #[must_use]
    pub fn exclude_prefix(mut self, prefix: &str) -> Self {
        self.filter.exclude_prefix(prefix);
        self
    }

    /// Scopes the metrics of these kinds that have this name. Other metrics of these kinds are not scoped, unless they
    /// are included as well. Other kinds stay as they are.
    #[must_use]
    pub fn include(mut self, kinds: MetricKindMask, name: &str) -> Self {
        self.filter.include(kinds_in(kinds), name);
        self
    }

    /// Scopes the metrics of these kinds whose name starts with `prefix`. Otherwise like [`include`](Self::include).
    #[must_use]
    pub fn include_prefix(mut self, kinds: MetricKindMask, prefix: &str) -> Self {
        self.filter.include_prefix(kinds_in(kinds), prefix);
        self
    }

    /// Scopes histograms as well, by the scope in force when a value is recorded. If histograms are
    /// [included](Self::include), only those are scoped. Multiplies each series of a histogram (its buckets or quantiles,
    /// too) by the number of scopes that it is recorded in.
    #[must_use]
    pub fn histograms(mut self) -> Self {
        self.filter.include_all(MetricKind::Histogram as usize);
        self
    }

    /// Scopes gauges as well, by the scope in force when the gauge is registered, without the labels that [`Scope::add`]
    /// added to it. If gauges are [included](Self::include), only those are scoped.
    ///
    /// A gauge must be lowered in the scope that it was raised in. Otherwise two series are wrong forever: one stays too
    /// high, and the other too low. A guard with `gauge!` at both ends does that if both ends are in one request. It does
    /// not if the guard is dropped in a task without the scope, or outside a layer that it was made in. So include only
    /// gauges that you know, or keep the `Gauge` in the guard:
    ///
    /// ```
    /// use metrics::{Gauge, gauge};
    ///
    /// struct InFlight(Gauge);
    ///
    /// impl InFlight {
    ///     fn new() -> Self {
    ///         let gauge = gauge!("requests_in_flight");
    ///         gauge.increment(1.0);
    ///         Self(gauge)
    ///     }
    /// }
    ///
    /// impl Drop for InFlight {
    ///     fn drop(&mut self) {
    ///         self.0.decrement(1.0); // in the series that it was raised in
    ///     }
    /// }
    /// # drop(InFlight::new());
    /// ```
    #[must_use]
    pub fn gauges(mut self) -> Self {
        self.filter.include_all(MetricKind::Gauge as usize);
        self
    }

    /// Starts counters at zero in these scopes. Without it, a series appears with its first increment, which Prometheus'
    /// `rate` and `increase` then miss.
    ///
    /// Each counter that is registered outside every scope is in the output at once, with its labels and the labels of each
    /// of the scopes. Nobody has to know its name: a library may register it when it starts, and keep it. A counter that is
    /// first registered in a request does not start at zero, and neither does one that is not scoped.
    ///
    /// Scopes are often made after the recorder is installed. Then keep the [`Zeros`], and add to them:
    ///
    /// ```
    /// use dualstack_metrics::{
    ///     ClientScopes, Protocol, ScopedRecorderLayer, ServerBinding, prometheus::Install, recorder::Zeros,
    /// };
    /// # use metrics_exporter_prometheus::PrometheusBuilder;
    ///
    /// let zeros = Zeros::new();
    /// let metrics = Install::new(PrometheusBuilder::new())
    ///     .recorder(ScopedRecorderLayer::new().zeros(zeros.clone()))
    ///     .install()?;
    /// let errors = metrics::counter!("errors_total"); // registered at start-up
    ///
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let scopes = ClientScopes::new(ServerBinding::new(Protocol::Http, listener.local_addr()?));
    /// zeros.add(scopes.expected());
    ///
    /// let output = metrics.render();
    /// let sample = output.lines().find(|line| line.starts_with("errors_total{")).unwrap();
    /// assert!(sample.contains(r#"client_address_ip_family="inet""#) && sample.ends_with("} 0"));
    /// # drop(errors);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Which zeros there are
    ///
    /// - Each counter has a series in each of the scopes, whether it is ever incremented there or not. Nothing tells for
    ///   which socket a counter is. [Exclude](Self::exclude) counters that belong to no client, such as
    ///   `process_cpu_seconds_total`.
    /// - With an idle timeout, the exporter forgets a zero as it forgets its own.
    /// - The counters of this crate are left out. `UdpServer` starts its own at zero.
    /// - Up to 4,096 counters start at zero.
    #[must_use]
    pub fn zeros(mut self, scopes: impl Into<Zeros>) -> Self {
        self.zeros = Some(scopes.into());
        self
    }

    /// Registers with the inner recorder at each increment, which costs several times as much. For inner recorders that
    /// do not always return the same metric for the same key and metadata.
    #[must_use]
    pub fn without_cache(mut self) -> Self {
        self.cache = false;
        self
    }

    /// Registers a cached metric again when it was not used for `idle`. The default is 500 ms. Set it to half of the
    /// exporter's idle timeout or less. A time of 20 ms or less, which the clock cannot tell, registers at each increment.
    #[must_use]
    pub fn revalidate_after(mut self, idle: Duration) -> Self {
        self.revalidate_after = Some(idle);
        self
    }

    /// Never registers a cached metric again, which saves a clock read per increment. Only for inner recorders that never
    /// forget a metric: without an idle timeout for scoped kinds.
    #[must_use]
    pub fn never_revalidate(mut self) -> Self {
        self.revalidate_after = None;
        self
    }

    /// Wraps a recorder, like [`Layer::layer`], but needs no trait in scope.
    #[must_use]
    pub fn wrap<R: Recorder + Send + Sync + 'static>(&self, inner: R) -> ScopedRecorder<R> {
        static IS_MADE: Once = Once::new();

        IS_MADE.call_once(|| scope::reader_made(count_overflow));
        let cache = self.cache && self.revalidate_after != Some(Duration::ZERO);
        let inner = Arc::new(inner);
        // A `Weak<dyn Recorder>` comes from an `Arc<dyn Recorder>`, and `inner` has to keep its type.
        let recorder: Arc<dyn Recorder + Send + Sync> = Arc::<R>::clone(&inner);
        ScopedRecorder {
            inner,
            target: Arc::new(Target {
                recorder: Arc::downgrade(&recorder),
                expiry: self.revalidate_after.filter(|_| cache).map(Expiry::after),
                cache,
            }),
            filter: self.filter.clone(),
            zeros: self.zeros.clone(),
        }
    }

    /// The time set with [`revalidate_after`](Self::revalidate_after), `None` for never.
    #[cfg(feature = "prometheus")]
    pub(crate) fn revalidation(&self) -> Option<Duration> {
        self.revalidate_after
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn scopes_any(&self, kind: MetricKind) -> bool {
        self.filter.scopes_any(kind as usize)
    }
}

impl Default for ScopedRecorderLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Recorder + Send + Sync + 'static> Layer<R> for ScopedRecorderLayer {
    type Output = ScopedRecorder<R>;

    fn layer(&self, inner: R) -> ScopedRecorder<R> {
        self.wrap(inner)
    }
}

fn count_overflow() {
    const NAME: &str = "label_sets_overflowed_total";

    // Now and then again, because the recorder of this call may be another one.
    if scope::overflows().is_power_of_two() {
        describe_counter!(
            NAME,
            "Scopes without some of their labels, because the process has as many label sets as it can. Should stay at 0."
        );
    }
    counter!(NAME).increment(1);
}

/// The [`Recorder`] that [`ScopedRecorderLayer`] makes. See the [module](self).
pub struct ScopedRecorder<R> {
    inner: Arc<R>,
    target: Arc<Target>,
    filter: Filter,
    zeros: Option<Zeros>,
}

impl<R> ScopedRecorder<R> {
    /// The wrapped recorder.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.inner
    }
}

impl<R: Recorder> ScopedRecorder<R> {
    /// A handle that chooses its series at each use, or the inner recorder's own metric if the name is not scoped.
    #[inline]
    fn register<M: Metric>(
        &self,
        kind: MetricKind,
        key: &Key,
        metadata: &Metadata<'_>,
        made: impl FnOnce(&Arc<Handle<M>>),
    ) -> M {
        let is_scoped = || self.filter.scopes(kind as usize, key.name());
        match Handle::find_or_make(&self.target, key, metadata, is_scoped, made) {
            Some(handle) => M::from_handle(handle),
            None => M::register(&*self.inner, key, metadata),
        }
    }
}

impl<R: Recorder> Recorder for ScopedRecorder<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.inner.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.register(MetricKind::Counter, key, metadata, |counter| {
            if let Some(zeros) = &self.zeros {
                zeros.start(counter, metadata);
            }
        })
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        // A label that is added between two registrations must not change the series.
        let scope = Scope::current().as_entered();
        if scope != Scope::none() && self.filter.scopes(MetricKind::Gauge as usize, key.name()) {
            self.inner.register_gauge(&key::scoped(key, scope), metadata)
        } else {
            self.inner.register_gauge(key, metadata)
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if self.filter.scopes_any(MetricKind::Histogram as usize) {
            self.register(MetricKind::Histogram, key, metadata, |_| {})
        } else {
            self.inner.register_histogram(key, metadata)
        }
    }
}

impl<R: fmt::Debug> fmt::Debug for ScopedRecorder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedRecorder")
            .field("inner", &self.inner)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}
