//! One call that builds a Prometheus recorder, gives it scopes, and installs it.
//!
//! ```
//! use dualstack_metrics::{ClientLabels, Scope};
//! use metrics_exporter_prometheus::PrometheusBuilder;
//!
//! let metrics = dualstack_metrics::prometheus::install(PrometheusBuilder::new())?;
//!
//! Scope::new(&ClientLabels::UNKNOWN).run(|| metrics::counter!("requests_total").increment(1));
//! assert_eq!(
//!     metrics.render().trim_end(),
//!     "# TYPE requests_total counter\n\
//!      requests_total{client_address_ip_family=\"unknown\",client_address_ip_type=\"unknown\"} 1",
//! );
//! # Ok::<(), dualstack_metrics::prometheus::InstallError>(())
//! ```
//!
//! [`install`] opens no port: serve [`PrometheusHandle::render`] from the program's own HTTP server. The features
//! `http-listener` and `push-gateway` add `Install::install_exporter`, which runs the exporter's own server or client.
//! Upkeep, which keeps histograms from growing between scrapes, runs on a separate thread.

use std::{
    fmt, io, mem,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

#[cfg(any(feature = "http-listener", feature = "push-gateway"))]
use metrics_exporter_prometheus::BuildError;
pub use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
pub use metrics_util::MetricKindMask;
use metrics_util::{MetricKind, layers::Layer as _};

use crate::recorder::{ScopedRecorder, ScopedRecorderLayer};

/// The same as the exporter's default.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the recorder of `builder` as the global one, with scoped counters and its upkeep running.
///
/// # Errors
///
/// If a global recorder is already installed, or no thread can be started.
pub fn install(builder: PrometheusBuilder) -> Result<PrometheusHandle, InstallError> {
    Install::new(builder).install()
}

/// [`install`] with choices.
///
/// ```
/// use dualstack_metrics::{ScopedRecorderLayer, prometheus::Install};
/// use metrics_exporter_prometheus::PrometheusBuilder;
/// use metrics_util::MetricKindMask;
/// use std::time::Duration;
///
/// let metrics = Install::new(PrometheusBuilder::new())
///     .recorder(ScopedRecorderLayer::new().exclude_prefix("swarm_coordination_registry_"))
///     .idle_timeout(MetricKindMask::ALL, Some(Duration::from_secs(600)))
///     .install()?;
/// # let _ = metrics;
/// # Ok::<(), dualstack_metrics::prometheus::InstallError>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is installed before `install` is called"]
pub struct Install {
    builder: PrometheusBuilder,
    layer: ScopedRecorderLayer,
    idle_timeout: Option<(MetricKindMask, Option<Duration>)>,
    upkeep_interval: Duration,
}

impl Install {
    /// Starts with the defaults, which are those of [`install`].
    pub fn new(builder: PrometheusBuilder) -> Self {
        Self {
            builder,
            layer: ScopedRecorderLayer::new(),
            idle_timeout: None,
            upkeep_interval: UPKEEP_INTERVAL,
        }
    }

    /// Sets which metrics are scoped, and how they are cached. The default is `ScopedRecorderLayer::new()`.
    pub fn recorder(mut self, layer: ScopedRecorderLayer) -> Self {
        self.layer = layer;
        self
    }

    /// Makes the exporter forget metrics of these kinds that were idle for `timeout`. Replaces the builder's own
    /// setting, which the cache cannot read.
    ///
    /// Cached metrics are then registered again after half of `timeout`, or after
    /// [`ScopedRecorderLayer::revalidate_after`] if that is less. With `None`, or a mask without any kind that is scoped
    /// and cached, they are never registered again, which saves a clock read per increment.
    pub fn idle_timeout(mut self, mask: MetricKindMask, timeout: Option<Duration>) -> Self {
        self.idle_timeout = Some((mask, timeout));
        self
    }

    /// Sets the time between two runs of the recorder's upkeep: at least 1 ms, 5 s by default. Does not apply to
    /// `install_exporter`, which uses the builder's `upkeep_timeout`.
    pub fn upkeep_interval(mut self, interval: Duration) -> Self {
        self.upkeep_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Builds the recorder without installing it or starting its upkeep: for a stack of recorder layers, or for
    /// [`metrics::with_local_recorder`] in a test. Render it with `recorder.get_ref().handle().render()`.
    #[must_use]
    pub fn build_recorder(self) -> ScopedRecorder<PrometheusRecorder> {
        let (builder, layer, _) = self.into_parts();
        layer.layer(builder.build_recorder())
    }

    /// Installs the recorder as the global one, and starts its upkeep.
    ///
    /// # Errors
    ///
    /// If a global recorder is already installed, or no thread can be started. Nothing is installed then.
    pub fn install(self) -> Result<PrometheusHandle, InstallError> {
        let (builder, layer, upkeep_interval) = self.into_parts();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();

        // Starts first, because an installation cannot be undone.
        let upkeep = handle.clone();
        let (installed, is_installed) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("metrics-upkeep".into())
            .spawn(move || {
                while is_installed.recv_timeout(upkeep_interval) != Err(RecvTimeoutError::Disconnected) {
                    upkeep.run_upkeep();
                }
            })
            .map_err(|error| InstallError(Kind::Thread(error)))?;
        set_global(&layer, recorder)?;
        // The thread ends when this is dropped. Like the recorder, it never is.
        mem::forget(installed);
        Ok(handle)
    }

    /// Installs the recorder as the global one, and runs the builder's exporter: its HTTP listener or its push gateway
    /// client. The exporter runs on the current tokio runtime if there is one, otherwise on a separate thread.
    ///
    /// # Errors
    ///
    /// If the builder cannot build an exporter (for example because the address is in use), if a global recorder is
    /// already installed, or if no thread can be started. Nothing is installed then.
    #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
    #[cfg_attr(docsrs, doc(cfg(any(feature = "http-listener", feature = "push-gateway"))))]
    pub fn install_exporter(self) -> Result<PrometheusHandle, InstallError> {
        use tokio::runtime::{Builder, Handle};

        let (builder, layer, _) = self.into_parts();
        let build = |runtime: &Handle| {
            let _entered = runtime.enter();
            builder.build().map_err(|error| InstallError(Kind::Build(error)))
        };
        if let Ok(runtime) = Handle::try_current() {
            let (recorder, exporter) = build(&runtime)?;
            let handle = recorder.handle();
            set_global(&layer, recorder)?;
            runtime.spawn(exporter);
            return Ok(handle);
        }

        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| InstallError(Kind::Thread(error)))?;
        let (recorder, exporter) = build(runtime.handle())?;
        let handle = recorder.handle();
        set_global(&layer, recorder)?;
        thread::Builder::new()
            .name("metrics-exporter".into())
            .spawn(move || runtime.block_on(exporter))
            .map_err(|error| InstallError(Kind::Thread(error)))?;
        Ok(handle)
    }

    fn into_parts(self) -> (PrometheusBuilder, ScopedRecorderLayer, Duration) {
        let Self {
            mut builder,
            mut layer,
            idle_timeout,
            upkeep_interval,
        } = self;
        if let Some((mask, timeout)) = idle_timeout {
            builder = builder.idle_timeout(mask, timeout);
            let forgets_scoped = mask.matches(MetricKind::Counter)
                || layer.scopes_histograms() && mask.matches(MetricKind::Histogram);
            layer = match timeout {
                Some(timeout) if forgets_scoped => {
                    let revalidation = layer.revalidation().unwrap_or(Duration::MAX);
                    layer.revalidate_after(revalidation.min(timeout / 2))
                }
                _ => layer.never_revalidate(),
            };
        }
        (builder, layer, upkeep_interval)
    }
}

fn set_global(layer: &ScopedRecorderLayer, recorder: PrometheusRecorder) -> Result<(), InstallError> {
    metrics::set_global_recorder(layer.layer(recorder)).map_err(|_| InstallError(Kind::AlreadyInstalled))
}

/// The error of [`install`] and [`Install`]: no recorder was installed.
#[derive(Debug)]
pub struct InstallError(Kind);

impl InstallError {
    /// Whether the reason is that a global recorder was already installed.
    #[must_use]
    pub fn is_already_installed(&self) -> bool {
        matches!(self.0, Kind::AlreadyInstalled)
    }
}

#[derive(Debug)]
enum Kind {
    AlreadyInstalled,
    Thread(io::Error),
    #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
    Build(BuildError),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::AlreadyInstalled => f.write_str(
                "a global metrics recorder is already installed: install only one, and combine several recorders \
                 with `metrics_util::layers::FanoutBuilder`",
            ),
            Kind::Thread(error) => write!(f, "cannot start the thread for the recorder's upkeep or exporter: {error}"),
            #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
            Kind::Build(error) => write!(f, "cannot build the Prometheus exporter: {error}"),
        }
    }
}

impl std::error::Error for InstallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Kind::AlreadyInstalled => None,
            Kind::Thread(error) => Some(error),
            #[cfg(any(feature = "http-listener", feature = "push-gateway"))]
            Kind::Build(error) => Some(error),
        }
    }
}
