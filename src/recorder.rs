//! Gives every counter the labels of the scope that it is incremented in.
//!
//! ```
//! use dualstack_metrics::{ClientScopes, Protocol, ScopedRecorderLayer, ServerBinding};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//! use metrics_util::layers::Layer as _;
//!
//! let prometheus = PrometheusBuilder::new().build_recorder();
//! let handle = prometheus.handle();
//! let recorder = ScopedRecorderLayer::new().layer(prometheus);
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
//! | kind | labels are those in force at | by default |
//! |---|---|---|
//! | counter | the increment; [`absolute`](metrics::Counter::absolute) sets a total that is not one client's and is never scoped | yes |
//! | histogram | the record | no: [`histograms`](ScopedRecorderLayer::histograms) |
//! | gauge | the registration, or an increment in one scope and a decrement in another would skew two series | no: [`gauges`](ScopedRecorderLayer::gauges) |
//!
//! So `counter!("x").increment(1)` and a handle that was registered at start-up give the same series, and a series
//! appears with its first increment (of 0, too), not with its registration. Outside every scope that is the only
//! difference to the inner recorder alone. Excluded names go straight through to it.
//!
//! Of labels with the same name, the one written at the call stays, then that of the inner scope, then that of the
//! outer. Names are compared as the exporter writes them: `client.address` and `client_address` are one name.
//!
//! # What is cached
//!
//! Each thread keeps the handles that it registered last, [`CACHED_HANDLES`] counters and as many histograms at the
//! most, and each handle the inner handles for the scopes it was used in, at most [`CACHED_SCOPES`]; what is beyond
//! works, at the price of a registration each time. Handles are cached by recorder, name, labels and metadata, and do
//! not keep a recorder alive. When the recorder is gone, a kept handle counts where it counted before, and nowhere new.
//!
//! An exporter with an idle timeout forgets metrics, and a handle from before then would increment into nowhere. A
//! cached handle that was used less than a certain time ago cannot have been forgotten, for using it makes it not
//! idle; after that time it is registered again. The time is 500 ms, fit for every longer idle timeout, and is set
//! with [`revalidate_after`](ScopedRecorderLayer::revalidate_after).
//!
//! # Composition
//!
//! Everything may stand above this layer: `Stack`, `Prefix`, `Filter`, `metrics-tracing-context`, and `Router` or
//! `Fanout` with each of their targets wrapped. Below it stands what is a function of key and metadata alone and can
//! be shared between threads: the exporter, `Prefix`, `Filter`. A `Router` below does not compile:
//!
//! ```compile_fail
//! use dualstack_metrics::ScopedRecorderLayer;
//! use metrics_util::layers::{Layer as _, RouterBuilder};
//!
//! let router = RouterBuilder::from_recorder(metrics::NoopRecorder).build();
//! let recorder = ScopedRecorderLayer::new().layer(router);
//! ```
//!
//! `metrics-tracing-context` below would compile, but a cached handle would keep the fields of the first request's
//! span. [`without_cache`](ScopedRecorderLayer::without_cache) is there for the rest: with it the inner recorder is
//! asked at each increment.

mod cache;
mod filter;
mod handle;
mod key;
mod lease;
mod metadata;

use std::{fmt, sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::layers::Layer;

pub use self::{cache::CACHED_HANDLES, handle::CACHED_SCOPES};
use self::{cache::Cached, filter::NameFilter, handle::Target, lease::Expiry};
use crate::scope::{self, Scope};

/// How long a cached handle may be idle before it is registered again, unless told otherwise.
const REVALIDATE_AFTER: Duration = Duration::from_millis(500);

/// A [`Layer`] that makes a recorder give metrics the labels of the scope in force.
///
/// Names are those that the program uses (before a `Prefix` layer below adds to them), written in any way that the
/// exporter writes alike. Where something is included, nothing else is scoped; what is excluded never is.
#[derive(Clone, Debug)]
pub struct ScopedRecorderLayer {
    filter: NameFilter,
    histograms: bool,
    gauges: bool,
    cache: bool,
    revalidate_after: Option<Duration>,
}

impl ScopedRecorderLayer {
    /// Scopes all counters, no histograms and no gauges.
    #[must_use]
    pub fn new() -> Self {
        Self {
            filter: NameFilter::default(),
            histograms: false,
            gauges: false,
            cache: true,
            revalidate_after: Some(REVALIDATE_AFTER),
        }
    }

    /// Leaves the metric of this name alone: a global one, say, that is touched inside a request.
    #[must_use]
    pub fn exclude(mut self, name: &str) -> Self {
        self.filter.exclude(name);
        self
    }

    /// Leaves alone the metrics whose name starts with `prefix`.
    #[must_use]
    pub fn exclude_prefix(mut self, prefix: &str) -> Self {
        self.filter.exclude_prefix(prefix);
        self
    }

    /// Scopes the metric of this name, and no other that is not included as well.
    #[must_use]
    pub fn include(mut self, name: &str) -> Self {
        self.filter.include(name);
        self
    }

    /// Scopes the metrics whose name starts with `prefix`, and no other that is not included as well.
    #[must_use]
    pub fn include_prefix(mut self, prefix: &str) -> Self {
        self.filter.include_prefix(prefix);
        self
    }

    /// Scopes histograms as well: the labels are those in force when a value is recorded. Each of a histogram's
    /// series is multiplied by the number of scopes it is recorded in.
    #[must_use]
    pub fn histograms(mut self) -> Self {
        self.histograms = true;
        self
    }

    /// Scopes gauges as well: the labels are those in force when the gauge is registered.
    #[must_use]
    pub fn gauges(mut self) -> Self {
        self.gauges = true;
        self
    }

    /// Asks the inner recorder at each increment, for one that does not answer the same each time. Several times
    /// dearer.
    #[must_use]
    pub fn without_cache(mut self) -> Self {
        self.cache = false;
        self
    }

    /// Registers a cached handle again when it was not used for `idle`: set it below the exporter's idle timeout,
    /// half of it is a good value. 500 ms unless set. Zero registers at each increment.
    #[must_use]
    pub fn revalidate_after(mut self, idle: Duration) -> Self {
        self.revalidate_after = Some(idle);
        self
    }

    /// Never registers a cached handle again, which saves the clock read of each increment: a promise that the inner
    /// recorder never forgets a metric, that is, has no idle timeout for what is scoped.
    #[must_use]
    pub fn never_revalidate(mut self) -> Self {
        self.revalidate_after = None;
        self
    }

    /// What [`revalidate_after`](Self::revalidate_after) is, `None` for never.
    #[cfg(feature = "prometheus")]
    pub(crate) fn revalidation(&self) -> Option<Duration> {
        self.revalidate_after
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn scopes_histograms(&self) -> bool {
        self.histograms
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
        scope::recorder_made();
        let cache = self.cache && self.revalidate_after != Some(Duration::ZERO);
        let inner = Arc::new(inner);
        // Downgraded from a clone of its own, because an `Arc` of a recorder is turned into one of `dyn Recorder`.
        let recorder: Arc<dyn Recorder + Send + Sync> = Arc::<R>::clone(&inner);
        ScopedRecorder {
            inner,
            target: Arc::new(Target {
                recorder: Arc::downgrade(&recorder),
                expiry: self.revalidate_after.filter(|_| cache).map(Expiry::after),
                cache,
            }),
            filter: self.filter.clone(),
            histograms: self.histograms,
            gauges: self.gauges,
        }
    }
}

/// The [`Recorder`] that [`ScopedRecorderLayer`] makes. See the [module](self).
pub struct ScopedRecorder<R> {
    inner: Arc<R>,
    target: Arc<Target>,
    filter: NameFilter,
    histograms: bool,
    gauges: bool,
}

impl<R> ScopedRecorder<R> {
    /// The wrapped recorder.
    #[must_use]
    pub fn get_ref(&self) -> &R {
        &self.inner
    }
}

impl<R: Recorder> ScopedRecorder<R> {
    /// A handle that chooses at each use, or the inner recorder's own when the name is excluded.
    #[inline]
    fn register<M: Cached>(&self, key: &Key, metadata: &Metadata<'_>) -> M {
        match cache::find_or_insert(&self.target, key, metadata, || self.filter.scopes(key.name())) {
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
        self.register(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let scope = Scope::current();
        if self.gauges && scope != Scope::none() && self.filter.scopes(key.name()) {
            self.inner.register_gauge(&key::scoped(key, scope), metadata)
        } else {
            self.inner.register_gauge(key, metadata)
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if self.histograms {
            self.register(key, metadata)
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
            .field("histograms", &self.histograms)
            .field("gauges", &self.gauges)
            .finish_non_exhaustive()
    }
}
